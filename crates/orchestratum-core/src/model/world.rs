//! The database and the workers.

use std::time::Duration;

use crate::model::Faults;
use crate::model::wire::{Answer, Message, Request, Stage};
use crate::outcome::{Budget, Ending, decide};
use crate::state::{Event, State, next};

pub(super) const RETRY_COUNT: u32 = 1;
pub(super) const MAX_LOSSES: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) rows: Vec<Row>,
    pub(super) instances: Vec<Instance>,
    pub(super) workers: Vec<Worker>,
    /// Requests and answers, sorted.
    pub(super) wire: Vec<Message>,
    pub(super) left: Faults,
    /// A write by somebody whose lease was not the one in the row.
    pub(super) stale_write: bool,
    /// Whether a handler's own transaction locks the row that it has written.
    pub(super) has_locks: bool,
}

/// A command in the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Row {
    /// `None` before it is appended.
    pub(super) state: Option<State>,
    pub(super) attempt: u8,
    pub(super) instance: Option<u8>,
    pub(super) failures: u8,
    pub(super) losses: u8,
    pub(super) cancel_requested: bool,
    /// What the handler's own transactions have written.
    pub(super) effects: u8,
    /// Attempts that used up neither a failure nor a loss, and what an operator has forgiven.
    pub(super) excused: u8,
    /// An operator has run it again.
    pub(super) retried: bool,
    /// Somebody has done to it what the table of `state` knows nothing of.
    pub(super) misled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Instance {
    /// Database time has passed the end of the lease.
    pub(super) expired: bool,
    pub(super) fenced: bool,
    /// Taken out of the table.
    pub(super) gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Up,
    Paused,
    Stopping,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    pub(super) life: Life,
    pub(super) instance: Option<u8>,
    /// The answer to a claim, or to an append under a lease, was lost.
    pub(super) doubt: bool,
    pub(super) held: Vec<Option<Held>>,
}

/// An attempt of which a worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Token {
    pub(super) attempt: u8,
    pub(super) instance: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Running,
    /// The handler has committed, or tried to: whether it did is looked up.
    Unsure,
    Ended(How),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum How {
    Completed,
    Error,
    Snoozed,
    GivenBack,
    Canceled,
    LostLease,
}

impl World {
    pub(super) fn send(&mut self, worker: usize, command: usize, request: Request) {
        let message =
            Message { worker: index(worker), command: index(command), request, wanted: true, stage: Stage::Sent };
        self.wire.push(message);
    }

    /// Whether a worker waits for the answer to such a request.
    pub(super) fn waits(&self, worker: usize, is: impl Fn(&Message) -> bool) -> bool {
        self.wire.iter().any(|message| message.wanted && message.is_of(worker) && is(message))
    }

    pub(super) fn set_phase(&mut self, worker: usize, command: usize, phase: Phase) {
        if let Some(held) = &mut self.workers[worker].held[command] {
            held.phase = phase;
        }
    }

    /// The sender hears the answer. Of two leases on one command the newer one is held, unless it is `careless`.
    pub(super) fn hear(&mut self, message: Message, careless: bool) {
        let (worker, command) = (usize::from(message.worker), usize::from(message.command));
        let this = &mut self.workers[worker];
        match (message.request, message.stage) {
            (
                Request::Append { lease: Some(instance) } | Request::Claim { instance },
                Stage::Answered(Answer::Done { attempt }),
            ) => {
                let token = Token { attempt, instance };
                // Under an instance that was fenced meanwhile the handler is told before it starts.
                let lost = this.instance != Some(instance);
                let unstarted = lost || this.life == Life::Stopping;
                let phase = if unstarted { Phase::Ended(How::GivenBack) } else { Phase::Running };
                if careless || this.held[command].is_none_or(|held| held.token.attempt < attempt) {
                    this.held[command] = Some(Held { token, phase });
                }
            }
            (Request::Settle { token, .. }, _) => {
                if this.held[command].is_some_and(|held| held.token == token) {
                    this.held[command] = None;
                }
            }
            (Request::CompleteIn { token }, stage) => {
                if this.held[command].is_some_and(|held| held.token == token) {
                    let done = matches!(stage, Stage::Answered(Answer::Done { .. }));
                    let phase = if done { Phase::Unsure } else { Phase::Ended(How::LostLease) };
                    self.set_phase(worker, command, phase);
                }
            }
            (_, _) => {}
        }
    }

    /// The sender stops waiting.
    pub(super) fn gave_up(&mut self, message: Message) {
        let (worker, command) = (usize::from(message.worker), usize::from(message.command));
        match message.request {
            Request::Append { lease: Some(_) } | Request::Claim { .. } => self.workers[worker].doubt = true,
            Request::CompleteIn { token }
                if self.workers[worker].held[command].is_some_and(|held| held.token == token) =>
            {
                self.set_phase(worker, command, Phase::Unsure);
            }
            // It is sent again.
            _ => {}
        }
    }

    /// The process is gone; what it has sent may still be executed.
    pub(super) fn forget(&mut self, worker: usize) {
        let this = &mut self.workers[worker];
        this.held.fill(None);
        (this.life, this.instance, this.doubt) = (Life::Dead, None, false);
        self.wire.retain(|message| !message.is_of(worker) || !matches!(message.stage, Stage::Answered(_)));
        self.wire.iter_mut().filter(|message| message.is_of(worker)).for_each(|message| message.wanted = false);
        self.wire.sort_unstable();
        self.wire.dedup();
    }

    /// A heartbeat of a process that is killed or paused may be under way.
    pub(super) fn leave_heartbeat(&mut self, worker: usize) {
        let Some(instance) = self.workers[worker].instance else { return };
        let request = Request::Extend { instance };
        let message = Message { worker: index(worker), command: 0, request, wanted: false, stage: Stage::Sent };
        if !self.wire.contains(&message) {
            self.wire.push(message);
        }
    }

    /// Whether a handler's own transaction has the command's row.
    pub(super) fn is_locked(&self, command: u8) -> bool {
        let locks = |request: &Request| matches!(request, Request::CompleteIn { .. });
        let mut open = self.wire.iter().filter(|message| message.stage == Stage::Open);
        self.has_locks && open.any(|message| message.command == command && locks(&message.request))
    }

    /// Leaves out what nobody waits for and the guards refuse for ever, for fencing is final and attempt numbers grow; a
    /// reclaim is sent again when there is something to reclaim. The same histories in far fewer worlds.
    pub(super) fn drop_what_is_void(&mut self) {
        let (rows, instances) = (&self.rows, &self.instances);
        self.wire.retain(|message| {
            let row = &rows[usize::from(message.command)];
            message.wanted
                || message.stage == Stage::Open
                || match message.request {
                    Request::Append { .. } => true,
                    Request::Claim { instance } | Request::Extend { instance } => {
                        !instances[usize::from(instance)].fenced
                    }
                    Request::Settle { token, .. } | Request::CompleteIn { token } => row.is_leased_as(token),
                    Request::Reclaim { instance } => row.instance == Some(instance),
                }
        });
    }

    pub(super) fn waits_for_a_lock(&self, message: &Message) -> bool {
        let waits = matches!(message.request, Request::Settle { .. } | Request::CompleteIn { .. });
        waits && message.stage == Stage::Sent && self.is_locked(message.command)
    }

    pub(super) fn shows(&self, state: State, how: impl Fn(&Row) -> bool) -> bool {
        self.rows.iter().any(|row| row.state == Some(state) && how(row))
    }

    /// Handlers that run under a lease which nobody can have taken away: its instance has not expired. One whose
    /// completion has been committed has only to hear of it.
    pub(super) fn live_handlers(&self, command: usize) -> usize {
        let held = self.workers.iter().filter_map(|worker| worker.held[command]);
        let live = |held: &Held| {
            let instance = &self.instances[usize::from(held.token.instance)];
            let completed = self.wire.iter().any(|message| {
                message.command == index(command)
                    && message.request == Request::CompleteIn { token: held.token }
                    && matches!(message.stage, Stage::Answered(Answer::Done { .. }))
            });
            held.phase == Phase::Running && !instance.expired && !instance.gone && !completed
        };
        held.filter(live).count()
    }
}

impl Row {
    /// An operator's retry: a fresh budget, and the attempt number goes on.
    pub(super) fn retry(&mut self) {
        let earlier = self.failures + self.losses;
        self.excused += if self.state == Some(State::Completed) { earlier + 1 } else { earlier };
        (self.failures, self.losses, self.effects, self.cancel_requested, self.retried) = (0, 0, 0, false, true);
        self.raise(Event::Retry);
    }

    pub(super) fn raise(&mut self, event: Event) {
        match self.state.and_then(|state| next(state, event).ok()) {
            Some(state) => self.state = Some(state),
            None => self.misled = true,
        }
    }

    pub(super) fn lease(&mut self, instance: u8) -> Answer {
        self.raise(Event::Claim);
        self.attempt += 1;
        self.instance = Some(instance);
        Answer::Done { attempt: self.attempt }
    }

    /// The guard of every write by a lease holder.
    pub(super) fn is_leased_as(&self, token: Token) -> bool {
        self.state == Some(State::Running) && self.instance == Some(token.instance) && self.attempt == token.attempt
    }

    pub(super) fn settle(&mut self, ending: &Ending) {
        let budget = Budget {
            failures: self.failures.into(),
            losses: self.losses.into(),
            retry_count: RETRY_COUNT,
            max_losses: MAX_LOSSES,
            cancel_requested: self.cancel_requested,
        };
        let outcome = decide(ending.clone(), &budget, |_| Duration::ZERO);
        let used = u32::from(self.failures) + u32::from(self.losses);
        if outcome.failures + outcome.losses == used {
            self.excused += 1;
        }
        (self.failures, self.losses) = (number(outcome.failures), number(outcome.losses));
        self.instance = None;
        self.raise(outcome.event);
    }

    /// What has used up its failures or its losses has ended, and no attempt begins that nothing accounts for.
    pub(super) fn is_accounted_for(&self) -> bool {
        let used_up = u32::from(self.failures) > RETRY_COUNT || u32::from(self.losses) > MAX_LOSSES;
        let ended = matches!(self.state, Some(State::Failed | State::Canceled));
        (ended || !used_up) && self.attempt <= 1 + self.failures + self.losses + self.excused
    }
}

impl Worker {
    pub(super) fn acts(&self) -> bool {
        matches!(self.life, Life::Up | Life::Stopping)
    }

    /// Hears that its instance was fenced.
    pub(super) fn lose(&mut self, instance: u8) {
        for held in self.held.iter_mut().flatten().filter(|held| held.token.instance == instance) {
            if held.phase == Phase::Running {
                held.phase = Phase::Ended(How::LostLease);
            }
        }
        (self.instance, self.doubt) = (None, false);
    }
}

impl Instance {
    /// Taken out of the table.
    pub(super) const GONE: Self = Self { expired: true, fenced: true, gone: true };
}

impl How {
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Completed => Ending::Completed(None),
            Self::Error => Ending::Error(String::new()),
            Self::Snoozed => Ending::Snoozed(Duration::ZERO),
            Self::GivenBack => Ending::GivenBack,
            Self::Canceled => Ending::Canceled,
            Self::LostLease => Ending::LostLease,
        }
    }
}

pub(super) fn index(number: usize) -> u8 {
    u8::try_from(number).expect("a model has few of everything")
}

pub(super) fn number(count: u32) -> u8 {
    u8::try_from(count).expect("a model has few of everything")
}
