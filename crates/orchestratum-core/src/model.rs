//! The lease protocol as a model: every order of every message, fault and pause, explored exhaustively.
//!
//! Commands, instances and workers are a few; the database executes one request after the other, and a request may be
//! executed long after its sender has given up, died, or been replaced. What a worker believes of time decides nothing
//! here: it may run a handler under a lease that has expired, because only what holds whatever the clocks say is a
//! guarantee. What follows from an ending is decided by the product's own [`decide`] and [`next`].
//!
//! Faults are counted, so that every path ends: where nothing can move any more, everything must have ended.
//! The variants leave out one protection each and must be caught; they show that the model can fail.

use std::fmt;
use std::time::Duration;

use stateright::{Checker, Model, Property};

use crate::outcome::{Budget, Ending, decide};
use crate::state::{Event, State, next};

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

const RETRY_COUNT: u32 = 1;
const MAX_LOSSES: u32 = 2;
/// The command whose handler completes in its own transaction.
const COMPLETES_IN: usize = 0;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    rows: Vec<Row>,
    instances: Vec<Instance>,
    workers: Vec<Worker>,
    /// Requests under way, sorted.
    wire: Vec<Message>,
    left: Faults,
    /// A write by somebody whose lease was not the one in the row.
    stale_write: bool,
}

/// A command in the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Row {
    /// `None` before it is appended.
    state: Option<State>,
    attempt: u8,
    instance: Option<u8>,
    failures: u8,
    losses: u8,
    cancel_requested: bool,
    /// What the handler's own transactions have written.
    effects: u8,
    /// Attempts that used up neither a failure nor a loss, and what an operator has forgiven.
    excused: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Instance {
    /// Database time has passed the end of the lease.
    expired: bool,
    fenced: bool,
    /// Taken out of the table.
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    Up,
    Paused,
    Stopping,
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Worker {
    life: Life,
    instance: Option<u8>,
    /// The answer to a claim, or to an append under a lease, was lost.
    doubt: bool,
    held: Vec<Option<Held>>,
}

/// An attempt of which a worker knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Held {
    token: Token,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Token {
    attempt: u8,
    instance: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Running,
    /// The handler has committed, or tried to: whether it did is looked up.
    Unsure,
    Ended(How),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum How {
    Completed,
    Error,
    Snoozed,
    GivenBack,
    Canceled,
    LostLease,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    Append { lease: Option<u8> },
    Claim { instance: u8 },
    Settle { token: Token, how: How },
    CompleteIn { token: Token },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Answer {
    /// Executed under a lease, or as asked.
    Done { attempt: u8 },
    /// Nothing was changed, or nothing leased.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Message {
    worker: u8,
    command: u8,
    request: Request,
    /// Whether the sender still waits for the answer.
    wanted: bool,
    /// `None` until it is executed.
    answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
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

impl Protocol {
    fn worker_steps(&self, world: &World, worker: usize, steps: &mut Vec<Step>) {
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

    fn may_reclaim(&self, world: &World, row: &Row) -> bool {
        let Some(holder) = row.instance.map(|instance| &world.instances[usize::from(instance)]) else { return false };
        holder.fenced || self.variant == Variant::TrustsWorkersClock && row.losses < 2
    }

    #[allow(clippy::too_many_lines, reason = "one arm a step, none of which needs another")]
    fn take(&self, world: &mut World, step: Step) {
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
                world.hear(message);
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
                let row = &mut world.rows[command];
                row.raise(Event::Retry);
                row.excused += row.failures + row.losses;
                (row.failures, row.losses, row.cancel_requested) = (0, 0, false);
            }
        }
    }

    /// One transaction of the database.
    fn execute(&self, world: &mut World, message: Message) -> Answer {
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
    fn look_for_lost(&self, world: &mut World, worker: usize) {
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

impl World {
    fn send(&mut self, worker: usize, command: usize, request: Request) {
        let message = Message { worker: index(worker), command: index(command), request, wanted: true, answer: None };
        self.wire.push(message);
    }

    fn set_phase(&mut self, worker: usize, command: usize, phase: Phase) {
        if let Some(held) = &mut self.workers[worker].held[command] {
            held.phase = phase;
        }
    }

    /// The sender hears the answer.
    fn hear(&mut self, message: Message) {
        let (worker, command) = (usize::from(message.worker), usize::from(message.command));
        let this = &mut self.workers[worker];
        match (message.request, message.answer) {
            (
                Request::Append { lease: Some(instance) } | Request::Claim { instance },
                Some(Answer::Done { attempt }),
            ) => {
                let token = Token { attempt, instance };
                // Under an instance that was fenced meanwhile the handler is told before it starts.
                let lost = this.instance != Some(instance);
                let unstarted = lost || this.life == Life::Stopping;
                let phase = if unstarted { Phase::Ended(How::GivenBack) } else { Phase::Running };
                this.held[command] = Some(Held { token, phase });
            }
            (Request::Settle { token, .. }, _) => {
                if this.held[command].is_some_and(|held| held.token == token) {
                    this.held[command] = None;
                }
            }
            (Request::CompleteIn { token }, answer) => {
                if this.held[command].is_some_and(|held| held.token == token) {
                    let done = matches!(answer, Some(Answer::Done { .. }));
                    let phase = if done { Phase::Unsure } else { Phase::Ended(How::LostLease) };
                    self.set_phase(worker, command, phase);
                }
            }
            (Request::Append { .. } | Request::Claim { .. }, _) => {}
        }
    }

    /// The sender stops waiting.
    fn gave_up(&mut self, message: Message) {
        let (worker, command) = (usize::from(message.worker), usize::from(message.command));
        match message.request {
            Request::Append { lease: Some(_) } | Request::Claim { .. } => self.workers[worker].doubt = true,
            Request::CompleteIn { token } => {
                if self.workers[worker].held[command].is_some_and(|held| held.token == token) {
                    self.set_phase(worker, command, Phase::Unsure);
                }
            }
            // It is sent again.
            Request::Settle { .. } | Request::Append { lease: None } => {}
        }
    }

    /// The process is gone; what it has sent may still be executed.
    fn forget(&mut self, worker: usize) {
        let this = &mut self.workers[worker];
        this.held.fill(None);
        (this.life, this.instance, this.doubt) = (Life::Dead, None, false);
        self.wire.retain(|message| !message.is_of(worker) || message.answer.is_none());
        self.wire.iter_mut().filter(|message| message.is_of(worker)).for_each(|message| message.wanted = false);
        self.wire.sort_unstable();
        self.wire.dedup();
    }

    fn live_handlers(&self, command: usize) -> usize {
        let held = self.workers.iter().filter_map(|worker| worker.held[command]);
        let live = |held: &Held| {
            let instance = &self.instances[usize::from(held.token.instance)];
            held.phase == Phase::Running && !instance.expired && !instance.fenced && !instance.gone
        };
        held.filter(live).count()
    }
}

impl Row {
    fn raise(&mut self, event: Event) {
        if let Some(state) = self.state.and_then(|state| next(state, event).ok()) {
            self.state = Some(state);
        }
    }

    fn lease(&mut self, instance: u8) -> Answer {
        self.raise(Event::Claim);
        self.attempt += 1;
        self.instance = Some(instance);
        Answer::Done { attempt: self.attempt }
    }

    /// The guard of every write by a lease holder.
    fn is_leased_as(&self, token: Token) -> bool {
        self.state == Some(State::Running) && self.instance == Some(token.instance) && self.attempt == token.attempt
    }

    fn settle(&mut self, ending: &Ending) {
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

    /// Failures and lost leases are bounded, and no attempt begins that nothing accounts for.
    fn is_accounted_for(&self) -> bool {
        u32::from(self.failures) <= RETRY_COUNT + 1
            && u32::from(self.losses) <= MAX_LOSSES + 1
            && self.attempt <= 1 + self.failures + self.losses + self.excused
    }
}

impl Worker {
    fn acts(&self) -> bool {
        matches!(self.life, Life::Up | Life::Stopping)
    }

    /// Hears that its instance was fenced.
    fn lose(&mut self, instance: u8) {
        for held in self.held.iter_mut().flatten().filter(|held| held.token.instance == instance) {
            if held.phase == Phase::Running {
                held.phase = Phase::Ended(How::LostLease);
            }
        }
        (self.instance, self.doubt) = (None, false);
    }
}

impl Message {
    fn is_of(&self, worker: usize) -> bool {
        self.worker == index(worker)
    }
}

impl How {
    fn ending(self) -> Ending {
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

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} workers, {} commands, {:?}", self.variant, self.workers, self.commands, self.faults)
    }
}

fn index(number: usize) -> u8 {
    u8::try_from(number).expect("a model has few of everything")
}

fn number(count: u32) -> u8 {
    u8::try_from(count).expect("a model has few of everything")
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

const NO_FAULTS: Faults =
    Faults { kills: 0, pauses: 0, late: 0, lost: 0, errors: 0, snoozes: 0, cancels: 0, stops: 0, retries: 0 };

#[test]
fn nothing_goes_wrong_when_a_worker_dies_or_loses_an_answer() {
    holds(2, 1, Faults { kills: 1, ..NO_FAULTS });
    holds(2, 1, Faults { lost: 1, ..NO_FAULTS });
}

#[test]
fn each_missing_protection_is_caught() {
    is_caught(Variant::SettlesWithoutToken, 1, "a stale token writes nothing", Faults { late: 1, ..NO_FAULTS });
    is_caught(Variant::CompletesById, 1, "complete_in takes effect at most once", Faults { late: 1, ..NO_FAULTS });
    is_caught(Variant::TrustsWorkersClock, 1, "at most one handler runs under a live lease", NO_FAULTS);
    is_caught(Variant::UnregistersAtOnce, 1, "what can no longer move has ended", Faults { stops: 1, ..NO_FAULTS });
}

#[test]
#[ignore = "minutes in a debug build: `cargo xtask chaos model`"]
fn nothing_goes_wrong_in_larger_worlds() {
    let once = "at most one handler runs under a live lease";
    is_caught(Variant::ForgetsExpected, 2, once, Faults { lost: 1, ..NO_FAULTS });
    holds(2, 1, Faults { kills: 1, late: 1, lost: 1, ..NO_FAULTS });
    holds(2, 1, Faults { pauses: 1, errors: 1, stops: 1, cancels: 1, ..NO_FAULTS });
    holds(2, 2, Faults { lost: 1, ..NO_FAULTS });
    holds(2, 2, Faults { kills: 1, ..NO_FAULTS });
    holds(2, 2, Faults { late: 1, ..NO_FAULTS });
    holds(3, 1, Faults { kills: 1, late: 1, ..NO_FAULTS });
}
