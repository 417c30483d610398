//! The lease protocol as a model: every order of every message, fault and pause, explored exhaustively.
//!
//! Commands, instances and workers are a few; the database takes one step after the other, and a request may be executed
//! long after its sender has given up, died, or been replaced. What a worker believes of time decides nothing
//! here: it may run a handler under a lease that has expired, because only what holds whatever the clocks say is a
//! guarantee. What follows from an ending is decided by the product's own `outcome::decide` and `state::next`.
//!
//! Of time one thing is assumed and not shown: a fenced instance is remembered for longer than any transaction that has
//! seen it unfenced stays open.
//!
//! Faults are counted, so that there is an end to what can be explored; [`progress`] says what must still be possible
//! when none is left. The variants leave out one protection each and must be caught; they show that the model can fail.

use std::fmt;

use stateright::{Model, Property};

use self::steps::Step;
use self::world::{Life, Row, Worker, World};

mod database;
mod effects;
mod progress;
mod properties;
mod steps;
mod tests;
mod wire;
mod world;

/// What is explored.
#[derive(Debug, Clone)]
struct Protocol {
    variant: Variant,
    workers: usize,
    commands: usize,
    faults: Faults,
}

/// The product, or the product without one of its protections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Product,
    /// A settlement names the command and not the lease.
    SettlesWithoutToken,
    /// A handler's own transaction names the command and not the lease.
    CompletesById,
    /// A handler's own transaction looks at the lease and locks nothing.
    CompletesWithoutLock,
    /// A worker's clock decides that the lease of another one has expired, and nobody is fenced.
    TrustsWorkersClock,
    /// What an append is about to lease is not known to the look for lost claims.
    ForgetsExpected,
    /// An answer that was long in coming takes the place of a newer attempt.
    HoldsTheLastAnswer,
    /// A worker that stops takes its instance out of the table, whatever is under way.
    UnregistersAtOnce,
    /// A claim does not look whether its instance has been fenced.
    ClaimsWhenFenced,
    /// A heartbeat extends the lease of an instance that has been fenced.
    ExtendsWhenFenced,
    /// A reclaim gives away what the walk has found, whoever runs it by now.
    ReclaimsById,
    /// A fenced instance is forgotten as soon as a walk finds nothing, and not only when no claim of it can commit any more.
    ForgetsFencedAtOnce,
}

/// How often each fault may happen, in one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Faults {
    /// `kill -9` of a worker's process.
    kills: u8,
    /// A worker's process is stopped, for however long.
    pauses: u8,
    /// The heartbeats of a running worker do not arrive in time.
    late: u8,
    /// A worker gives up waiting for an answer; the request may be executed before that, later or never. Of a
    /// registration too: the next one is made under another id.
    lost: u8,
    /// An attempt fails.
    errors: u8,
    /// An attempt asks to run again later.
    snoozes: u8,
    /// A user cancels a command.
    cancels: u8,
    /// A worker is asked to stop.
    stops: u8,
    /// An operator runs an ended command again.
    retries: u8,
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let worker = || Worker { life: Life::Up, instance: None, doubt: false, held: vec![None; self.commands] };
        vec![World {
            rows: vec![Row::default(); self.commands],
            instances: Vec::new(),
            workers: (0..self.workers).map(|_| worker()).collect(),
            wire: Vec::new(),
            left: self.faults,
            stale_write: false,
            has_locks: self.variant != Variant::CompletesWithoutLock,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for worker in 0..self.workers {
            self.worker_steps(world, worker, steps);
        }
        world.message_steps(steps);
        self.instance_steps(world, steps);
        world.command_steps(steps);
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        self.take(&mut world, step);
        if self.variant == Variant::Product {
            world.drop_what_is_void();
        }
        world.wire.sort_unstable();
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::always().into_iter().chain(properties::examples(&self.faults)).collect()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults { kills, pauses, late, lost, errors, snoozes, cancels, stops, retries } = self.faults;
        write!(f, "{:?}, {} workers, {} commands", self.variant, self.workers, self.commands)?;
        let names = ["kills", "pauses", "late", "lost", "errors", "snoozes", "cancels", "stops", "retries"];
        let counts = [kills, pauses, late, lost, errors, snoozes, cancels, stops, retries];
        let mut faults = std::iter::zip(names, counts).filter(|(_, count)| *count > 0);
        faults.try_for_each(|(name, count)| write!(f, ", {name} {count}"))
    }
}
