//! What the database does with a request.
//!
//! One transaction comes after the other, but what a claim has read of its instance may be old when it commits: it takes
//! no lock on the row that the heartbeat writes. And a `complete_in` keeps its command's row locked until the handler
//! commits.

use crate::model::wire::{Answer, Message, Request, Stage};
use crate::model::world::World;
use crate::model::{Protocol, Variant};
use crate::outcome::Ending;
use crate::state::{Event, State};

impl Protocol {
    /// Takes a request to its next stage.
    pub(super) fn execute(&self, world: &mut World, message: Message) -> Stage {
        let begins = message.stage == Stage::Sent;
        let may_lease = |instance: u8| {
            let instance = &world.instances[usize::from(instance)];
            !instance.fenced && !instance.gone || self.variant == Variant::ClaimsWhenFenced
        };
        let is_locked = world.is_locked(message.command);
        let row = &mut world.rows[usize::from(message.command)];
        Stage::Answered(match message.request {
            Request::Append { lease: Some(instance) } if begins && may_lease(instance) => return Stage::Open,
            Request::Append { lease } => {
                row.state = Some(State::Pending);
                lease.filter(|_| !begins).map_or(Answer::Nothing, |instance| row.lease(instance))
            }
            Request::Claim { .. } if row.state != Some(State::Pending) => Answer::Nothing,
            Request::Claim { instance } if begins && may_lease(instance) => return Stage::Open,
            Request::Claim { .. } if begins => Answer::Nothing,
            Request::Claim { instance } => row.lease(instance),
            Request::Settle { token, how } => {
                let held = row.is_leased_as(token);
                if held || self.variant == Variant::SettlesWithoutToken && row.state == Some(State::Running) {
                    row.settle(&how.ending());
                    world.stale_write |= !held;
                }
                Answer::Nothing
            }
            Request::CompleteIn { token } => {
                let held = row.is_leased_as(token);
                // Asked once: from then to the commit the lock keeps others from the row.
                match begins {
                    true if held || self.variant == Variant::CompletesById => return Stage::Open,
                    true => return Stage::Answered(Answer::Nothing),
                    false => {}
                }
                row.effects += 1;
                row.raise(Event::Complete);
                row.instance = None;
                world.stale_write |= !held;
                Answer::Done { attempt: token.attempt }
            }
            Request::Extend { instance } => {
                self.extend(world, instance);
                Answer::Nothing
            }
            // What is locked is left for the next time.
            Request::Reclaim { instance } => {
                let held = row.instance == Some(instance) || self.variant == Variant::ReclaimsById;
                if row.state == Some(State::Running) && held && !is_locked {
                    row.settle(&Ending::LostLease);
                }
                Answer::Nothing
            }
        })
    }

    /// Whether the instance has not been fenced.
    pub(super) fn extend(&self, world: &mut World, instance: u8) -> bool {
        let row = &mut world.instances[usize::from(instance)];
        let extends = !row.gone && (!row.fenced || self.variant == Variant::ExtendsWhenFenced);
        if extends {
            row.expired = false;
        }
        extends
    }
}
