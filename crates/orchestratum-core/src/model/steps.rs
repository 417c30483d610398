//! What may happen next, and what it changes.

use crate::model::world::{
    Answer, Held, How, Instance, Life, Message, Phase, Request, Row, Token, Worker, World, index,
};
use crate::model::{Protocol, Variant};
use crate::outcome::Ending;
use crate::state::{Event, State};

/// The command whose handler completes in its own transaction.
pub(super) const COMPLETES_IN: usize = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Append { worker: usize, command: usize, leased: bool },
    Register { worker: usize },
    Claim { worker: usize, command: usize },
    Execute(Message),
    Hear(Message),
    GiveUp(Message),
    NeverArrives(Message),
    End { worker: usize, command: usize, how: How },
    CompleteIn { worker: usize, command: usize },
    LookUpCommit { worker: usize, command: usize },
    Settle { worker: usize, command: usize },
    LookForLost { worker: usize },
    Expire { instance: usize },
    Extend { worker: usize },
    Fence { instance: usize },
    Reclaim { command: usize },
    Pause { worker: usize },
    Resume { worker: usize },
    Kill { worker: usize },
    Restart { worker: usize },
    Stop { worker: usize },
    Unregister { worker: usize },
    Cancel { command: usize },
    Retry { command: usize },
}

impl Protocol {
    pub(super) fn worker_steps(&self, world: &World, worker: usize, steps: &mut Vec<Step>) {
        let this = &world.workers[worker];
        let wants = |command: usize, kind: fn(&Request) -> bool| {
            world.wire.iter().any(|message| {
                message.wanted && message.is_of(worker) && message.command == index(command) && kind(&message.request)
            })
        };
        match this.life {
            Life::Dead => return steps.push(Step::Restart { worker }),
            Life::Paused => {
                steps.push(Step::Resume { worker });
                if world.left.kills > 0 {
                    steps.push(Step::Kill { worker });
                }
                return;
            }
            Life::Up | Life::Stopping => {}
        }
        if world.left.kills > 0 {
            steps.push(Step::Kill { worker });
        }
        if this.life == Life::Up && world.left.pauses > 0 {
            steps.push(Step::Pause { worker });
        }
        if this.life == Life::Up {
            if this.instance.is_none() {
                steps.push(Step::Register { worker });
            }
            if world.left.stops > 0 {
                steps.push(Step::Stop { worker });
            }
        }
        for command in 0..self.commands {
            let row = &world.rows[command];
            let is_append = |request: &Request| matches!(request, Request::Append { .. });
            let being_appended =
                world.wire.iter().any(|message| message.command == index(command) && is_append(&message.request));
            if this.life == Life::Up && row.state.is_none() && !being_appended {
                steps.push(Step::Append { worker, command, leased: false });
                if this.instance.is_some() && !this.doubt {
                    steps.push(Step::Append { worker, command, leased: true });
                }
            }
            let is_claim = |request: &Request| matches!(request, Request::Claim { .. });
            if this.life == Life::Up
                && this.instance.is_some()
                && row.state == Some(State::Pending)
                && !(0..self.commands).any(|command| wants(command, is_claim))
            {
                steps.push(Step::Claim { worker, command });
            }
            let Some(held) = this.held[command] else { continue };
            let commits = wants(command, |request| matches!(request, Request::CompleteIn { .. }));
            match held.phase {
                // A handler that waits for its commit does nothing else.
                Phase::Running if commits => {}
                Phase::Running => {
                    if command == COMPLETES_IN {
                        steps.push(Step::CompleteIn { worker, command });
                    } else {
                        steps.push(Step::End { worker, command, how: How::Completed });
                    }
                    let mut ends = vec![];
                    if world.left.errors > 0 {
                        ends.push(How::Error);
                    }
                    if world.left.snoozes > 0 {
                        ends.push(How::Snoozed);
                    }
                    if row.cancel_requested {
                        ends.push(How::Canceled);
                    }
                    if this.life == Life::Stopping {
                        ends.push(How::GivenBack);
                    }
                    steps.extend(ends.into_iter().map(|how| Step::End { worker, command, how }));
                }
                Phase::Unsure => steps.push(Step::LookUpCommit { worker, command }),
                Phase::Ended(_) => {
                    if !wants(command, |request| matches!(request, Request::Settle { .. })) {
                        steps.push(Step::Settle { worker, command });
                    }
                }
            }
        }
        let leases = |message: &Message| {
            message.is_of(worker)
                && matches!(message.request, Request::Claim { .. } | Request::Append { lease: Some(_) })
        };
        let claims = world
            .wire
            .iter()
            .any(|message| message.is_of(worker) && message.wanted && matches!(message.request, Request::Claim { .. }));
        if this.doubt && !claims {
            steps.push(Step::LookForLost { worker });
        }
        if let Some(instance) = this.instance {
            let instance = &world.instances[usize::from(instance)];
            if instance.expired || instance.fenced {
                steps.push(Step::Extend { worker });
            }
        }
        let idle = this.held.iter().all(Option::is_none)
            && !this.doubt
            && !world.wire.iter().any(|message| message.wanted && leases(message));
        if this.life == Life::Stopping && (idle || self.variant == Variant::UnregistersAtOnce) {
            steps.push(Step::Unregister { worker });
        }
    }

    pub(super) fn may_reclaim(&self, world: &World, row: &Row) -> bool {
        let Some(holder) = row.instance.map(|instance| &world.instances[usize::from(instance)]) else { return false };
        holder.fenced || self.variant == Variant::TrustsWorkersClock && row.losses < 2
    }

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
            Step::Claim { worker, command } => {
                if let Some(instance) = world.workers[worker].instance {
                    world.send(worker, command, Request::Claim { instance });
                }
            }
            Step::Execute(message) => {
                world.wire.retain(|other| *other != message);
                let answer = self.execute(world, message);
                if message.wanted {
                    world.wire.push(Message { answer: Some(answer), ..message });
                }
            }
            Step::Hear(message) => {
                world.wire.retain(|other| *other != message);
                world.hear(message, self.variant == Variant::HoldsTheLastAnswer);
            }
            Step::GiveUp(message) => {
                world.left.lost -= 1;
                world.wire.retain(|other| *other != message);
                if message.answer.is_none() {
                    world.wire.push(Message { wanted: false, ..message });
                }
                world.gave_up(message);
            }
            Step::NeverArrives(message) => world.wire.retain(|other| *other != message),
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
                // What the transaction of this very lease has written can be seen, or is rolled back.
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
            Step::Extend { worker } => {
                let Some(instance) = world.workers[worker].instance else { return };
                let row = &mut world.instances[usize::from(instance)];
                if row.fenced {
                    world.workers[worker].lose(instance);
                } else {
                    row.expired = false;
                }
            }
            Step::Fence { instance } => world.instances[instance].fenced = true,
            Step::Reclaim { command } => world.rows[command].settle(&Ending::LostLease),
            Step::Pause { worker } => {
                world.left.pauses -= 1;
                world.workers[worker].life = Life::Paused;
            }
            Step::Resume { worker } => world.workers[worker].life = Life::Up,
            Step::Kill { worker } => {
                world.left.kills -= 1;
                world.forget(worker);
            }
            Step::Restart { worker } => world.workers[worker].life = Life::Up,
            Step::Stop { worker } => {
                world.left.stops -= 1;
                world.workers[worker].life = Life::Stopping;
            }
            Step::Unregister { worker } => {
                if let Some(instance) = world.workers[worker].instance {
                    world.instances[usize::from(instance)].gone = true;
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

    /// One transaction of the database.
    pub(super) fn execute(&self, world: &mut World, message: Message) -> Answer {
        let may_lease = |instance: u8| {
            let instance = &world.instances[usize::from(instance)];
            !instance.fenced && !instance.gone
        };
        let row = &mut world.rows[usize::from(message.command)];
        match message.request {
            Request::Append { lease } => {
                let lease = lease.filter(|instance| may_lease(*instance));
                row.state = Some(State::Pending);
                let Some(instance) = lease else { return Answer::Nothing };
                row.lease(instance)
            }
            Request::Claim { instance } if row.state == Some(State::Pending) && may_lease(instance) => {
                row.lease(instance)
            }
            Request::Claim { .. } => Answer::Nothing,
            Request::Settle { token, how } => {
                let held = row.is_leased_as(token);
                let guarded = held || self.variant == Variant::SettlesWithoutToken && row.state == Some(State::Running);
                if guarded {
                    row.settle(&how.ending());
                    world.stale_write |= !held;
                }
                Answer::Nothing
            }
            Request::CompleteIn { token } => {
                let held = row.is_leased_as(token);
                if held || self.variant == Variant::CompletesById {
                    world.stale_write |= !held;
                    row.effects += 1;
                    row.state = Some(State::Completed);
                    row.instance = None;
                    Answer::Done { attempt: token.attempt }
                } else {
                    Answer::Nothing
                }
            }
        }
    }

    /// What is leased to the worker's instance and neither held nor expected is given back. The doubt stays while a
    /// request may still be executed: the last look comes when the server has given up on every connection.
    pub(super) fn look_for_lost(&self, world: &mut World, worker: usize) {
        let Some(instance) = world.workers[worker].instance else {
            world.workers[worker].doubt = false;
            return;
        };
        for command in 0..self.commands {
            let expected = world.wire.iter().any(|message| {
                message.is_of(worker)
                    && message.wanted
                    && message.command == index(command)
                    && message.request == Request::Append { lease: Some(instance) }
            });
            let expected = expected && self.variant != Variant::ForgetsExpected;
            let row = &mut world.rows[command];
            let token = Token { attempt: row.attempt, instance };
            let held = world.workers[worker].held[command].is_some_and(|held| held.token == token);
            if row.is_leased_as(token) && !held && !expected {
                row.settle(&Ending::GivenBack);
            }
        }
        let under_way = world.wire.iter().any(|message| {
            message.is_of(worker)
                && !message.wanted
                && matches!(message.request, Request::Claim { .. } | Request::Append { lease: Some(_) })
        });
        world.workers[worker].doubt = under_way;
    }
}
