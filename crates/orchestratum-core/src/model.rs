//! The lease protocol as a model: every order of every message, fault and pause, explored exhaustively.
//!
//! Commands, instances and workers are a few; the database executes one request after the other, and a request may be
//! executed long after its sender has given up, died, or been replaced. What a worker believes of time decides nothing
//! here: it may run a handler under a lease that has expired, because only what holds whatever the clocks say is a
//! guarantee. What follows from an ending is decided by the product's own `outcome::decide` and `state::next`.
//!
//! Faults are counted, so that every path ends: where nothing can move any more, everything must have ended.
//! The variants leave out one protection each and must be caught; they show that the model can fail.

use std::fmt;

use stateright::{Checker, Model, Property};

use self::steps::Step;
use self::world::{Life, Row, Worker, World, index};
use crate::state::State;

mod steps;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
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
    /// An operator runs a failed or canceled command again.
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
            if row.expired && !row.fenced && somebody && self.variant != Variant::TrustsWorkersClock {
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
            if world.left.retries > 0 && matches!(row.state, Some(State::Failed | State::Canceled)) {
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
        vec![
            Property::always("at most one handler runs under a live lease", |_, world: &World| {
                (0..world.rows.len()).all(|command| world.live_handlers(command) <= 1)
            }),
            Property::always("a stale token writes nothing", |_, world: &World| !world.stale_write),
            Property::always("complete_in takes effect at most once", |_, world: &World| {
                world.rows.iter().all(|row| row.effects <= 1)
            }),
            Property::always("every attempt is accounted for", |_, world: &World| {
                world.rows.iter().all(Row::is_accounted_for)
            }),
            Property::always("what can no longer move has ended", |model: &Self, world: &World| {
                let mut steps = Vec::new();
                model.actions(world, &mut steps);
                let moves = steps.into_iter().any(|step| model.next_state(world, step).is_some());
                moves || world.rows.iter().all(|row| row.state.is_some_and(State::has_ended))
            }),
            Property::sometimes("a command completes after its lease was lost", |_, world: &World| {
                world.rows.iter().any(|row| row.losses > 0 && row.state == Some(State::Completed))
            }),
        ]
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} workers, {} commands, {:?}", self.variant, self.workers, self.commands, self.faults)
    }
}

/// Explores everything, and says how much that was.
fn explore(protocol: &Protocol, threads: usize) -> impl Checker<Protocol> + use<> {
    let checker = protocol.clone().checker().threads(threads).spawn_bfs().join();
    println!("{protocol}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker
}

fn holds(workers: usize, commands: usize, faults: Faults) {
    let checker = explore(&Protocol { variant: Variant::Product, workers, commands, faults }, 2);
    checker.assert_no_discovery("at most one handler runs under a live lease");
    checker.assert_no_discovery("a stale token writes nothing");
    checker.assert_no_discovery("complete_in takes effect at most once");
    checker.assert_no_discovery("every attempt is accounted for");
    checker.assert_no_discovery("what can no longer move has ended");
    if faults.kills + faults.late > 0 {
        checker.assert_any_discovery("a command completes after its lease was lost");
    }
}

/// The shortest history in which a protection is missed.
fn is_caught(variant: Variant, commands: usize, property: &'static str, faults: Faults) {
    let checker = explore(&Protocol { variant, workers: 2, commands, faults }, 1);
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{variant:?} went unnoticed"));
    println!("{variant:?} breaks «{property}»:");
    path.into_actions().iter().enumerate().for_each(|(number, step)| println!("  {:2}. {step:?}", number + 1));
}

#[test]
fn nothing_goes_wrong_when_a_worker_dies_or_loses_an_answer() {
    holds(2, 1, Faults { kills: 1, ..Faults::default() });
    holds(2, 1, Faults { lost: 1, ..Faults::default() });
}

#[test]
fn each_missing_protection_is_caught() {
    is_caught(Variant::SettlesWithoutToken, 1, "a stale token writes nothing", Faults { late: 1, ..Faults::default() });
    is_caught(
        Variant::CompletesById,
        1,
        "complete_in takes effect at most once",
        Faults { late: 1, ..Faults::default() },
    );
    is_caught(Variant::TrustsWorkersClock, 1, "at most one handler runs under a live lease", Faults::default());
    is_caught(
        Variant::UnregistersAtOnce,
        1,
        "what can no longer move has ended",
        Faults { stops: 1, ..Faults::default() },
    );
}

/// Found by the model: an append's answer that came after its command was reclaimed and claimed again.
#[test]
fn an_answer_that_comes_late_does_not_take_the_place_of_a_newer_attempt() {
    let late = Faults { late: 1, ..Faults::default() };
    holds(2, 1, late);
    is_caught(Variant::HoldsTheLastAnswer, 1, "what can no longer move has ended", late);
}

#[test]
#[ignore = "ten minutes and 6 GiB in release: `cargo xtask chaos model` runs it"]
fn nothing_goes_wrong_in_larger_worlds() {
    let once = "at most one handler runs under a live lease";
    is_caught(Variant::ForgetsExpected, 2, once, Faults { lost: 1, ..Faults::default() });
    holds(2, 1, Faults { kills: 1, late: 1, lost: 1, ..Faults::default() });
    holds(2, 1, Faults { pauses: 1, errors: 1, stops: 1, cancels: 1, ..Faults::default() });
    holds(2, 2, Faults { lost: 1, ..Faults::default() });
    holds(2, 2, Faults { kills: 1, ..Faults::default() });
    holds(2, 2, Faults { late: 1, ..Faults::default() });
    holds(3, 1, Faults { kills: 1, late: 1, ..Faults::default() });
}
