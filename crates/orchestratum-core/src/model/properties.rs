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
        Property::always("nothing happens that the table of states does not know", |_, world: &World| {
            !world.rows.iter().any(|row| row.misled)
        }),
        Property::always("every attempt is accounted for", |_, world: &World| {
            world.rows.iter().all(Row::is_accounted_for)
        }),
    ]
}

/// What some history must show if the faults suffice for it: a model in which nothing happens keeps every promise.
pub(super) fn examples(faults: &Faults) -> Vec<Property<Protocol>> {
    let lost = u32::from(faults.kills + faults.pauses + faults.late);
    let mut examples = Vec::new();
    let mut example = |is_possible: bool, name, condition: fn(&Protocol, &World) -> bool| {
        examples.extend(is_possible.then(|| Property::sometimes(name, condition)));
    };
    example(lost > 0, "a command completes after its lease was lost", |_, world| {
        world.shows(State::Completed, |row| row.losses > 0)
    });
    example(lost > MAX_LOSSES, "a command that loses lease after lease is parked", |_, world| {
        world.shows(State::Failed, |row| u32::from(row.losses) > MAX_LOSSES)
    });
    example(faults.errors > 0, "a command completes after an error", |_, world| {
        world.shows(State::Completed, |row| row.failures > 0)
    });
    example(u32::from(faults.errors) > RETRY_COUNT, "a command without retries left is failed", |_, world| {
        world.shows(State::Failed, |row| u32::from(row.failures) > RETRY_COUNT)
    });
    example(faults.snoozes > 0, "a command completes after a snooze", |protocol, world| {
        let snoozed = world.left.snoozes < protocol.faults.snoozes;
        world.shows(State::Completed, |row| snoozed && row.excused > 0)
    });
    example(faults.cancels > 0, "a command is canceled while it waits", |_, world| {
        world.shows(State::Canceled, |row| row.attempt == 0)
    });
    example(faults.cancels > 0, "a command is canceled while it runs", |_, world| {
        world.shows(State::Canceled, |row| row.cancel_requested)
    });
    example(faults.retries > 0, "a command completes after an operator's retry", |_, world| {
        world.shows(State::Completed, |row| row.retried)
    });
    examples
}
