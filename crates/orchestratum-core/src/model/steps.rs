//! What may happen next.

use crate::model::wire::{Message, Request, Stage, reclaim};
use crate::model::world::{How, Life, Phase, Worker, World, index};
use crate::model::{Protocol, Variant};
use crate::state::State;

/// The command whose handler may complete in a transaction of its own.
pub(super) const COMPLETES_IN: usize = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    Append { worker: usize, command: usize, leased: bool },
    Register { worker: usize },
    RegisterUnheard { worker: usize },
    Claim { worker: usize, command: usize },
    Execute(Message),
    Hear(Message),
    GiveUp(Message),
    NeverHappens(Message),
    End { worker: usize, command: usize, how: How },
    CompleteIn { worker: usize, command: usize },
    LookUpCommit { worker: usize, command: usize },
    Settle { worker: usize, command: usize },
    LookForLost { worker: usize },
    Expire { instance: usize },
    Extend { worker: usize },
    Fence { instance: usize },
    Forget { instance: usize },
    Reclaim { instance: u8, command: usize },
    Pause { worker: usize },
    Resume { worker: usize },
    Kill { worker: usize },
    Restart { worker: usize },
    Stop { worker: usize },
    Unregister { worker: usize, nothing_left: bool },
    Cancel { command: usize },
    Retry { command: usize },
}

impl Protocol {
    pub(super) fn worker_steps(&self, world: &World, worker: usize, steps: &mut Vec<Step>) {
        let this = &world.workers[worker];
        if this.life == Life::Dead {
            return steps.push(Step::Restart { worker });
        }
        if world.left.kills > 0 {
            steps.push(Step::Kill { worker });
        }
        if this.life == Life::Paused {
            return steps.push(Step::Resume { worker });
        }
        if this.life == Life::Up {
            if world.left.pauses > 0 {
                steps.push(Step::Pause { worker });
            }
            if world.left.stops > 0 {
                steps.push(Step::Stop { worker });
            }
            if this.instance.is_none() {
                steps.push(Step::Register { worker });
                if world.left.lost > 0 {
                    steps.push(Step::RegisterUnheard { worker });
                }
            }
            self.taking_steps(world, worker, steps);
        }
        self.attempt_steps(world, worker, steps);
        if this.doubt && !world.waits(worker, Message::is_claim) {
            steps.push(Step::LookForLost { worker });
        }
        if let Some(instance) = this.instance {
            let instance = &world.instances[usize::from(instance)];
            if instance.expired || instance.fenced {
                steps.push(Step::Extend { worker });
            }
        }
        if this.life == Life::Stopping {
            let expects = world.waits(worker, |message| message.request.leases());
            let nothing_left = this.held.iter().all(Option::is_none) && !this.doubt && !expects;
            steps.push(Step::Unregister { worker, nothing_left });
        }
    }

    fn taking_steps(&self, world: &World, worker: usize, steps: &mut Vec<Step>) {
        let this = &world.workers[worker];
        for (command, row) in world.rows.iter().enumerate() {
            let is_append = |message: &Message| {
                message.command == index(command) && matches!(message.request, Request::Append { .. })
            };
            if row.state.is_none() && !world.wire.iter().any(is_append) {
                steps.push(Step::Append { worker, command, leased: false });
                if this.instance.is_some() && !this.doubt {
                    steps.push(Step::Append { worker, command, leased: true });
                }
            }
            let may_claim = this.instance.is_some() && !world.waits(worker, Message::is_claim);
            if row.state == Some(State::Pending) && may_claim {
                steps.push(Step::Claim { worker, command });
            }
        }
    }

    fn attempt_steps(&self, world: &World, worker: usize, steps: &mut Vec<Step>) {
        let this = &world.workers[worker];
        for (command, held) in this.held.iter().enumerate() {
            let waits = |is: fn(&Request) -> bool| {
                world.waits(worker, |message| message.command == index(command) && is(&message.request))
            };
            let commits = || waits(|request| matches!(request, Request::CompleteIn { .. }));
            let settles = || waits(|request| matches!(request, Request::Settle { .. }));
            match held.map(|held| held.phase) {
                // A handler that waits for its commit does nothing else.
                Some(Phase::Running) if !commits() => {
                    if command == COMPLETES_IN {
                        steps.push(Step::CompleteIn { worker, command });
                    }
                    let ends = [
                        (How::Completed, true),
                        (How::Error, world.left.errors > 0),
                        (How::Snoozed, world.left.snoozes > 0),
                        (How::Canceled, world.rows[command].cancel_requested),
                        (How::GivenBack, this.life == Life::Stopping),
                    ];
                    let ends = ends.into_iter().filter(|(_, may_end)| *may_end);
                    steps.extend(ends.map(|(how, _)| Step::End { worker, command, how }));
                }
                Some(Phase::Unsure) => steps.push(Step::LookUpCommit { worker, command }),
                Some(Phase::Ended(_)) if !settles() => steps.push(Step::Settle { worker, command }),
                _ => {}
            }
        }
    }

    pub(super) fn instance_steps(&self, world: &World, steps: &mut Vec<Step>) {
        let somebody = world.workers.iter().any(Worker::acts);
        for (instance, row) in world.instances.iter().enumerate().filter(|(_, row)| !row.gone) {
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
            let is_empty = world.rows.iter().all(|row| row.instance != Some(index(instance)));
            // It is remembered until nothing that has seen it unfenced can commit any more.
            let leases = |message: &Message| message.stage == Stage::Open && message.request.leases_to(index(instance));
            let remembered = world.wire.iter().any(leases) && self.variant != Variant::ForgetsFencedAtOnce;
            if row.fenced && somebody && is_empty && !remembered {
                steps.push(Step::Forget { instance });
            }
        }
        for (command, row) in world.rows.iter().enumerate().filter(|(_, row)| row.state == Some(State::Running)) {
            let Some(instance) = row.instance else { continue };
            let holder = &world.instances[usize::from(instance)];
            let found = holder.fenced && !holder.gone || self.variant == Variant::TrustsWorkersClock && row.losses < 2;
            let under_way = world.wire.contains(&reclaim(instance, command));
            if found && !under_way && somebody {
                steps.push(Step::Reclaim { instance, command });
            }
        }
    }
}

impl World {
    pub(super) fn message_steps(&self, steps: &mut Vec<Step>) {
        for message in &self.wire {
            let life = message.wanted.then(|| self.workers[usize::from(message.worker)].life);
            let listens = matches!(life, Some(Life::Up | Life::Stopping));
            match message.stage {
                Stage::Answered(_) if listens => steps.push(Step::Hear(*message)),
                Stage::Answered(_) => {}
                Stage::Sent | Stage::Open => {
                    if !self.waits_for_a_lock(message) {
                        steps.push(Step::Execute(*message));
                    }
                    // The server ends the transaction of a process of which it hears nothing.
                    if !message.wanted || message.stage == Stage::Open && life == Some(Life::Paused) {
                        steps.push(Step::NeverHappens(*message));
                    }
                }
            }
            if listens && self.left.lost > 0 {
                steps.push(Step::GiveUp(*message));
            }
        }
    }

    pub(super) fn command_steps(&self, steps: &mut Vec<Step>) {
        for (command, row) in self.rows.iter().enumerate().filter(|(command, _)| !self.is_locked(index(*command))) {
            let cancelable =
                row.state == Some(State::Pending) || row.state == Some(State::Running) && !row.cancel_requested;
            if self.left.cancels > 0 && cancelable {
                steps.push(Step::Cancel { command });
            }
            if self.left.retries > 0 && row.state.is_some_and(State::has_ended) {
                steps.push(Step::Retry { command });
            }
        }
    }
}
