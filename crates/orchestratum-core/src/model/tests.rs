//! Which worlds are explored, and which protections must be missed.

use std::time::Instant;

use stateright::{Checker as _, HasDiscoveries, Model as _, Path};

use crate::model::progress::Explored;
use crate::model::properties::{NO_STALE_WRITE, ONE_EFFECT, ONE_HANDLER};
use crate::model::steps::Step;
use crate::model::{Faults, Protocol, Variant};

/// Found by exploring backward from the worlds in which all commands have ended.
const EVERY_COMMAND_CAN_END: &str = "every command can still end";

/// No fault.
const NONE: Faults =
    Faults { kills: 0, pauses: 0, late: 0, lost: 0, errors: 0, snoozes: 0, cancels: 0, stops: 0, retries: 0 };

/// Explores everything twice, for what must hold in each world and for what must be reached from each.
fn holds(workers: usize, commands: usize, faults: Faults) {
    let protocol = Protocol { variant: Variant::Product, workers, commands, faults };
    let begun = Instant::now();
    let checker = protocol.clone().checker().threads(2).spawn_bfs().join();
    let count = checker.unique_state_count();
    println!("{protocol}: {count} states, depth {}, {:.1?}", checker.max_depth(), begun.elapsed());
    checker.assert_properties();
    drop(checker);
    let explored = Explored::new(&protocol);
    assert_eq!(explored.count(), count);
    if let Some(steps) = explored.way_into_a_trap(&protocol) {
        show(&steps);
        panic!("no way leads out of this");
    }
    println!("every command can end, {:.1?}", begun.elapsed());
}

/// A short history in which a protection is missed.
fn is_caught(variant: Variant, commands: usize, property: &'static str, faults: Faults) {
    let protocol = Protocol { variant, workers: 2, commands, faults };
    let steps = if property == EVERY_COMMAND_CAN_END {
        Explored::new(&protocol).way_into_a_trap(&protocol)
    } else {
        let checker =
            protocol.clone().checker().finish_when(HasDiscoveries::AnyOf([property].into())).spawn_bfs().join();
        checker.discovery(property).map(Path::into_actions)
    };
    println!("{variant:?} breaks «{property}»:");
    show(&steps.unwrap_or_else(|| panic!("{variant:?} went unnoticed")));
}

fn show(steps: &[Step]) {
    steps.iter().enumerate().for_each(|(number, step)| println!("  {:2}. {step:?}", number + 1));
}

#[test]
fn nothing_goes_wrong_when_a_worker_dies_or_loses_an_answer() {
    holds(2, 1, Faults { kills: 1, ..NONE });
    holds(2, 1, Faults { lost: 1, ..NONE });
}

#[test]
fn each_missing_protection_is_caught() {
    let (kill, late) = (Faults { kills: 1, ..NONE }, Faults { late: 1, ..NONE });
    is_caught(Variant::SettlesWithoutToken, 1, NO_STALE_WRITE, late);
    is_caught(Variant::CompletesById, 1, ONE_EFFECT, late);
    is_caught(Variant::CompletesWithoutLock, 1, NO_STALE_WRITE, late);
    is_caught(Variant::TrustsWorkersClock, 1, ONE_HANDLER, NONE);
    is_caught(Variant::ExtendsWhenFenced, 1, ONE_HANDLER, late);
    is_caught(Variant::ReclaimsById, 1, ONE_HANDLER, late);
    is_caught(Variant::ForgetsExpected, 2, ONE_HANDLER, Faults { lost: 1, ..NONE });
    is_caught(Variant::UnregistersAtOnce, 1, EVERY_COMMAND_CAN_END, Faults { stops: 1, ..NONE });
    is_caught(Variant::ClaimsWhenFenced, 1, EVERY_COMMAND_CAN_END, kill);
    is_caught(Variant::ForgetsFencedAtOnce, 1, EVERY_COMMAND_CAN_END, kill);
}

/// Found by the model: an append's answer that came after its command was reclaimed and claimed again.
#[test]
fn an_answer_that_comes_late_does_not_take_the_place_of_a_newer_attempt() {
    let late = Faults { late: 1, ..NONE };
    holds(2, 1, late);
    is_caught(Variant::HoldsTheLastAnswer, 1, EVERY_COMMAND_CAN_END, late);
}

#[test]
fn a_command_that_fails_snoozes_or_is_canceled_ends_and_runs_again_when_an_operator_wants_it() {
    holds(2, 1, Faults { errors: 2, ..NONE });
    holds(2, 1, Faults { snoozes: 1, retries: 1, ..NONE });
    holds(2, 1, Faults { cancels: 1, retries: 1, ..NONE });
}

#[test]
fn a_command_that_is_canceled_ends_when_its_worker_dies_or_loses_an_answer() {
    holds(2, 1, Faults { kills: 1, cancels: 1, ..NONE });
    holds(2, 1, Faults { lost: 1, cancels: 1, ..NONE });
}

#[test]
fn a_command_that_kills_its_process_again_and_again_is_parked() {
    holds(1, 1, Faults { kills: 2, ..NONE });
}

#[test]
#[ignore = "five minutes and 2 GiB in release, too much for each run: `cargo xtask chaos model` runs it"]
fn nothing_goes_wrong_in_larger_worlds() {
    holds(2, 1, Faults { errors: 2, snoozes: 1, retries: 1, ..NONE });
    holds(2, 1, Faults { kills: 1, errors: 2, cancels: 1, retries: 1, ..NONE });
    holds(2, 1, Faults { kills: 2, ..NONE });
    holds(2, 1, Faults { kills: 1, late: 1, ..NONE });
    holds(2, 1, Faults { kills: 1, lost: 1, ..NONE });
    holds(2, 1, Faults { late: 1, lost: 1, ..NONE });
    holds(2, 1, Faults { late: 1, stops: 1, ..NONE });
    holds(2, 1, Faults { lost: 1, stops: 1, ..NONE });
    holds(2, 1, Faults { pauses: 1, late: 1, ..NONE });
    holds(2, 1, Faults { pauses: 1, errors: 1, cancels: 1, stops: 1, ..NONE });
    holds(2, 2, Faults { kills: 1, ..NONE });
    holds(2, 2, Faults { late: 1, ..NONE });
    holds(2, 2, Faults { errors: 1, ..NONE });
    holds(2, 2, Faults { snoozes: 1, ..NONE });
    holds(2, 2, Faults { cancels: 1, ..NONE });
    holds(2, 2, Faults { stops: 1, ..NONE });
    holds(2, 2, Faults { pauses: 1, ..NONE });
    holds(3, 1, Faults { kills: 1, ..NONE });
    holds(3, 1, Faults { late: 1, ..NONE });
    holds(2, 3, NONE);
    holds(3, 2, Faults { lost: 1, ..NONE });
}
