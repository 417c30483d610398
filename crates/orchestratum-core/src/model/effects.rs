//! What a step changes.

use crate::model::steps::Step;
use crate::model::wire::{Answer, Message, Request, Stage, reclaim};
use crate::model::world::{Held, How, Instance, Life, Phase, Token, Worker, World, index};
use crate::model::{Protocol, Variant};
use crate::outcome::Ending;
use crate::state::{Event, State};

impl Protocol {
    #[allow(clippy::too_many_lines, reason = "one arm a step, none of which needs another")]
    pub(super) fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Append { worker, command, leased } => {
                let lease = world.workers[worker].instance.filter(|_| leased);
                world.send(worker, command, Request::Append { lease });
            }
            Step::Register { worker } => {
                world.instances.push(Instance::default());
                world.workers[worker].instance = Some(index(world.instances.len() - 1));
            }
            Step::RegisterUnheard { .. } => {
                world.left.lost -= 1;
                world.instances.push(Instance::default());
            }
            Step::Claim { worker, command } => {
                if let Some(instance) = world.workers[worker].instance {
                    world.send(worker, command, Request::Claim { instance });
                }
            }
            Step::Execute(message) => {
                world.wire.retain(|other| *other != message);
                let stage = self.execute(world, message);
                // That nothing was leased changes nothing when it is heard: at once is as good as later.
                let is_news = !message.request.appends_or_claims() || stage != Stage::Answered(Answer::Nothing);
                if stage == Stage::Open || message.wanted && is_news {
                    world.wire.push(Message { stage, ..message });
                }
            }
            Step::Hear(message) => {
                world.wire.retain(|other| *other != message);
                world.hear(message, self.variant == Variant::HoldsTheLastAnswer);
            }
            Step::GiveUp(message) => {
                world.left.lost -= 1;
                world.wire.retain(|other| *other != message);
                if !matches!(message.stage, Stage::Answered(_)) {
                    world.wire.push(Message { wanted: false, ..message });
                }
                world.gave_up(message);
            }
            Step::NeverHappens(message) => world.wire.retain(|other| *other != message),
            Step::End { worker, command, how } => {
                match how {
                    How::Error => world.left.errors -= 1,
                    How::Snoozed => world.left.snoozes -= 1,
                    _ => {}
                }
                world.set_phase(worker, command, Phase::Ended(how));
            }
            Step::CompleteIn { worker, command } => {
                if let Some(held) = world.workers[worker].held[command] {
                    world.send(worker, command, Request::CompleteIn { token: held.token });
                }
            }
            Step::LookUpCommit { worker, command } => {
                // One that is still under way counts as rolled back: if it is not, the settlement waits for its lock.
                let done = world.rows[command].state == Some(State::Completed)
                    && world.workers[worker].held[command]
                        .is_some_and(|held| held.token.attempt == world.rows[command].attempt);
                if done {
                    world.workers[worker].held[command] = None;
                } else {
                    world.set_phase(worker, command, Phase::Ended(How::Error));
                }
            }
            Step::Settle { worker, command } => {
                if let Some(Held { token, phase: Phase::Ended(how) }) = world.workers[worker].held[command] {
                    world.send(worker, command, Request::Settle { token, how });
                }
            }
            Step::LookForLost { worker } => self.look_for_lost(world, worker),
            Step::Expire { instance } => {
                let keeper = world.workers.iter().find(|worker| worker.instance == Some(index(instance)));
                if keeper.is_some_and(Worker::acts) {
                    world.left.late -= 1;
                }
                world.instances[instance].expired = true;
            }
            // With its answer: when that is late, so is all that follows from it.
            Step::Extend { worker } => {
                let Some(instance) = world.workers[worker].instance else { return };
                if !self.extend(world, instance) {
                    world.workers[worker].lose(instance);
                }
            }
            // Decided where it is executed, so that it does not matter who sends it, and when.
            Step::Fence { instance } => world.instances[instance].fenced = true,
            Step::Forget { instance } => world.instances[instance] = Instance::GONE,
            Step::Reclaim { instance, command } => world.wire.push(reclaim(instance, command)),
            Step::Pause { worker } => {
                world.left.pauses -= 1;
                world.leave_heartbeat(worker);
                world.workers[worker].life = Life::Paused;
            }
            Step::Resume { worker } => world.workers[worker].life = Life::Up,
            Step::Kill { worker } => {
                world.left.kills -= 1;
                world.leave_heartbeat(worker);
                world.forget(worker);
            }
            Step::Restart { worker } => world.workers[worker].life = Life::Up,
            Step::Stop { worker } => {
                world.left.stops -= 1;
                world.workers[worker].life = Life::Stopping;
            }
            Step::Unregister { worker, nothing_left } => {
                if let Some(instance) = world.workers[worker].instance {
                    let row = &mut world.instances[usize::from(instance)];
                    if self.variant == Variant::UnregistersAtOnce || nothing_left && !row.fenced {
                        *row = Instance::GONE;
                    } else {
                        row.fenced = true;
                    }
                }
                world.forget(worker);
            }
            Step::Cancel { command } => {
                world.left.cancels -= 1;
                let row = &mut world.rows[command];
                if row.state == Some(State::Running) {
                    row.cancel_requested = true;
                } else {
                    row.raise(Event::Cancel);
                }
            }
            Step::Retry { command } => {
                world.left.retries -= 1;
                world.rows[command].retry();
            }
        }
    }

    /// What is leased to the worker's instance and neither held nor expected is given back. The doubt stays while
    /// something is locked, and while a request may still be executed: the last look comes when the server has given up
    /// on every connection.
    pub(super) fn look_for_lost(&self, world: &mut World, worker: usize) {
        let Some(instance) = world.workers[worker].instance else {
            world.workers[worker].doubt = false;
            return;
        };
        let mut all = true;
        for command in 0..self.commands {
            let locked = world.is_locked(index(command));
            let append = Request::Append { lease: Some(instance) };
            let expected =
                world.waits(worker, |message| message.command == index(command) && message.request == append);
            let expected = expected && self.variant != Variant::ForgetsExpected;
            let row = &mut world.rows[command];
            let token = Token { attempt: row.attempt, instance };
            let held = world.workers[worker].held[command].is_some_and(|held| held.token == token);
            if row.is_leased_as(token) && !held && !expected {
                if locked {
                    all = false;
                } else {
                    row.settle(&Ending::GivenBack);
                }
            }
        }
        let under_way = |message: &Message| message.is_of(worker) && !message.wanted && message.request.leases();
        world.workers[worker].doubt = !all || world.wire.iter().any(under_way);
    }
}
