//! The lease protocol as a model: every order of every message, fault and pause, explored exhaustively.
//!
//! Commands, instances and workers are a few; the database executes one request after the other, and a request may be
//! executed long after its sender has given up, died, or been replaced. What a worker believes of time decides nothing
//! here: it may run a handler under a lease that has expired, because only what holds whatever the clocks say is a
//! guarantee. What follows from an ending is decided by the product's own `outcome::decide` and `state::next`.
//!
//! Faults are counted, so that there is an end to what can be explored; [`progress`] says what must still be possible
//! when none is left. The variants leave out one protection each and must be caught; they show that the model can fail.

use std::fmt;

use stateright::{Model, Property};

use self::steps::Step;
use self::world::{Life, Row, Worker, World, index};
use crate::state::State;

mod progress;
mod properties;
mod steps;
mod tests;
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
    /// A worker's clock decides that the lease of another one has expired, and nobody is fenced.
    TrustsWorkersClock,
    /// What an append is about to lease is not known to the look for lost claims.
    ForgetsExpected,
    /// An answer that was long in coming takes the place of a newer attempt.
    HoldsTheLastAnswer,
    /// A worker that stops takes its instance out of the table, whatever is under way.
    UnregistersAtOnce,
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
    /// A worker gives up waiting for an answer; the request may be executed before that, later or never.
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
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for worker in 0..self.workers {
            self.worker_steps(world, worker, steps);
        }
        for message in &world.wire {
            if message.answer.is_none() {
                steps.push(Step::Execute(*message));
                if !message.wanted {
                    steps.push(Step::NeverArrives(*message));
                }
            } else if world.workers[usize::from(message.worker)].acts() {
                steps.push(Step::Hear(*message));
            }
            if message.wanted && world.left.lost > 0 && world.workers[usize::from(message.worker)].acts() {
                steps.push(Step::GiveUp(*message));
            }
        }
        let somebody = world.workers.iter().any(Worker::acts);
        for (instance, row) in world.instances.iter().enumerate() {
            if row.gone {
                continue;
            }
            let keeper = world.workers.iter().find(|worker| worker.instance == Some(index(instance)));
            let kept = keeper.is_some_and(Worker::acts);
            if !row.expired && !row.fenced && (!kept || world.left.late > 0) {
                steps.push(Step::Expire { instance });
            }
            // A worker does not fence itself: whether its lease has expired its heartbeat finds out.
            let another = world.workers.iter().any(|worker| worker.acts() && worker.instance != Some(index(instance)));
            if row.expired && !row.fenced && another && self.variant != Variant::TrustsWorkersClock {
                steps.push(Step::Fence { instance });
            }
        }
        for (command, row) in world.rows.iter().enumerate() {
            if row.state == Some(State::Running) && somebody && self.may_reclaim(world, row) {
                steps.push(Step::Reclaim { command });
            }
            if world.left.cancels > 0
                && (row.state == Some(State::Pending) || row.state == Some(State::Running) && !row.cancel_requested)
            {
                steps.push(Step::Cancel { command });
            }
            if world.left.retries > 0 && row.state.is_some_and(State::has_ended) {
                steps.push(Step::Retry { command });
            }
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut world = last.clone();
        self.take(&mut world, step);
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
