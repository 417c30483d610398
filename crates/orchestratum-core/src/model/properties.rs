//! What must hold in every world, and what must be seen in some.

use stateright::Property;

use crate::model::world::{MAX_LOSSES, RETRY_COUNT, Row, World};
use crate::model::{Faults, Protocol};
use crate::state::State;

pub(super) const ONE_HANDLER: &str = "at most one handler runs under a live lease";
pub(super) const NO_STALE_WRITE: &str = "a stale token writes nothing";
pub(super) const ONE_EFFECT: &str = "complete_in takes effect at most once";

pub(super) fn always() -> Vec<Property<Protocol>> {
    vec![
        Property::always(ONE_HANDLER, |_, world: &World| {
            (0..world.rows.len()).all(|command| world.live_handlers(command) <= 1)
        }),
        Property::always(NO_STALE_WRITE, |_, world: &World| !world.stale_write),
        Property::always(ONE_EFFECT, |_, world: &World| world.rows.iter().all(|row| row.effects <= 1)),
        Property::always("every attempt is accounted for", |_, world: &World| {
            world.rows.iter().all(Row::is_accounted_for)
        }),
    ]
}

/// What some history must show if the faults suffice for it: a model in which nothing happens keeps every promise.
pub(super) fn examples(faults: &Faults) -> Vec<Property<Protocol>> {
    let lost = u32::from(faults.kills + faults.pauses + faults.late);
    let mut examples = Vec::new();
    if lost > 0 {
        examples.push(Property::sometimes("a command completes after its lease was lost", |_, world: &World| {
            world.shows(State::Completed, |row| row.losses > 0)
        }));
    }
    if lost > MAX_LOSSES {
        examples.push(Property::sometimes("a command that loses lease after lease is parked", |_, world: &World| {
            world.shows(State::Failed, |row| u32::from(row.losses) > MAX_LOSSES)
        }));
    }
    if faults.errors > 0 {
        examples.push(Property::sometimes("a command completes after an error", |_, world: &World| {
            world.shows(State::Completed, |row| row.failures > 0)
        }));
    }
    if u32::from(faults.errors) > RETRY_COUNT {
        examples.push(Property::sometimes("a command that fails again and again is failed", |_, world: &World| {
            world.shows(State::Failed, |row| u32::from(row.failures) > RETRY_COUNT)
        }));
    }
    if faults.snoozes > 0 {
        examples.push(Property::sometimes(
            "a command completes after a snooze",
            |protocol: &Protocol, world: &World| {
                let snoozed = world.left.snoozes < protocol.faults.snoozes;
                world.shows(State::Completed, |row| snoozed && row.excused > 0)
            },
        ));
    }
    if faults.cancels > 0 {
        examples.push(Property::sometimes("a command is canceled while it waits", |_, world: &World| {
            world.shows(State::Canceled, |row| row.attempt == 0)
        }));
        examples.push(Property::sometimes("a command is canceled while it runs", |_, world: &World| {
            world.shows(State::Canceled, |row| row.attempt > 0 && row.cancel_requested)
        }));
    }
    if faults.retries > 0 {
        examples.push(Property::sometimes("a command completes after an operator's retry", |_, world: &World| {
            world.shows(State::Completed, |row| row.retried)
        }));
    }
    examples
}
