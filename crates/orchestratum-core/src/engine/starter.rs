//! Where attempts begin: with what the poller has claimed, and with what an append of this process has stored under a
//! lease because a slot was free.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::command::{CommandId, NewCommand, RunAt};
use crate::engine::attempt::{Attempt, Finished, GiveBack, Stop};
use crate::engine::held::Holdings;
use crate::engine::slots::{Slot, Slots};
use crate::engine::{Shared, lock, quietly};
use crate::instance_id::InstanceId;
use crate::store::append::Leases;
use crate::store::claim::Claimed;
use crate::store::settle::Lease;

/// Starts the attempts of one worker.
#[derive(Debug)]
pub(crate) struct Starter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) holdings: Arc<Holdings>,
    /// Where handlers run.
    pub(crate) runtime: Handle,
    pub(crate) reports: mpsc::UnboundedSender<Finished>,
    pub(crate) stopping: CancellationToken,
    pub(crate) slots: Slots,
}

/// The starters of this process, one a worker.
#[derive(Debug, Default)]
pub(crate) struct Starters(Mutex<Vec<Arc<Starter>>>);

/// Free slots for commands that are being appended, which run as soon as they are stored.
///
/// Dropped without being told what became of the append, it leaves a doubt for the poller to look into.
#[derive(Debug)]
pub(crate) struct Offer {
    starter: Arc<Starter>,
    pub(crate) leases: Leases,
    /// One for each command, `None` for those without a lease.
    slots: Vec<Option<Slot>>,
    answered: bool,
}

impl Starter {
    /// Starts commands that the database leases to `instance`.
    pub(crate) fn start(&self, instance: InstanceId, commands: impl Iterator<Item = (Claimed, Slot)>) {
        let new = |claimed: Claimed| {
            let lease = Lease { id: claimed.id, attempt: claimed.attempt, instance };
            let (shared, holdings) = (Arc::clone(&self.shared), Arc::clone(&self.holdings));
            Arc::new(Attempt::new(shared, lease, claimed, holdings, self.reports.clone()))
        };
        let (attempts, slots): (Vec<_>, Vec<_>) = commands.map(|(claimed, slot)| (new(claimed), slot)).unzip();
        // Held before it runs: from here on the heartbeat can stop it. What was leased under an instance that has been
        // fenced meanwhile is told here: the heartbeat has looked before it was held.
        self.holdings.add(&attempts);
        if self.holdings.may_claim() != Some(instance) {
            attempts.iter().for_each(|attempt| {
                attempt.stop(Stop::LeaseLost);
            });
        }
        for (attempt, slot) in std::iter::zip(attempts, slots) {
            let task = self.runtime.spawn(Arc::clone(&attempt).run(slot, GiveBack::new(&attempt)));
            attempt.set_task(task.abort_handle());
            if task.is_finished() && !attempt.was_polled() {
                self.stopping.cancel();
                quietly(
                    || tracing::error!(target: "orchestratum::runtime::gone", "the runtime that started this worker has ended: so does the worker"),
                );
            }
        }
    }

    /// Slots for those of the commands that could start now.
    ///
    /// Only where the poller knows of nothing to claim: what waits comes first. Only while it is certain that nothing is
    /// leased to this instance that it does not hold: a database that does not answer gets plain appends. And not beside
    /// a unique key, which can make the append wait for somebody else's transaction while it keeps slots from others.
    fn offer(self: &Arc<Self>, commands: &[NewCommand]) -> Option<Offer> {
        let instance = self.holdings.may_claim()?;
        if self.stopping.is_cancelled()
            || self.holdings.lease().doubt.is_some()
            || self.holdings.unsettled() > self.shared.config.most_unsettled()
            || commands.iter().any(|command| command.unique_key.is_some())
        {
            return None;
        }
        let mut startable: Vec<usize> =
            (0..commands.len()).filter(|index| self.could_start(&commands[*index])).collect();
        startable.sort_by_key(|index| Reverse(commands[*index].priority));
        let mut slots: Vec<Option<Slot>> = commands.iter().map(|_| None).collect();
        for index in startable {
            slots[index] = self.slots.take_free(&commands[index].queue);
        }
        let ids: Vec<_> = slots.iter().map(|slot| slot.as_ref().map(|_| CommandId::new())).collect();
        if ids.iter().all(Option::is_none) {
            return None;
        }
        self.holdings.expect(ids.iter().flatten());
        let offer = Offer { starter: Arc::clone(self), leases: Leases { instance, ids }, slots, answered: false };
        if self.stopping.is_cancelled() {
            // Looked at again: a worker that stops waits for what is expected, or has not been seen to stop above.
            offer.withdraw();
            return None;
        }
        Some(offer)
    }

    fn could_start(&self, command: &NewCommand) -> bool {
        let is_due = matches!(command.run_at, RunAt::AfterMicros(micros) if micros <= 0);
        is_due && self.shared.config.serves(&command.queue) && self.shared.registry.get(&command.key).is_some()
    }
}

impl Offer {
    /// The commands are stored, and those with a lease begin. Returns the others, which wait.
    pub(crate) fn start(mut self, commands: Vec<NewCommand>) -> Vec<NewCommand> {
        let (ids, slots) = (self.leases.ids.clone(), std::mem::take(&mut self.slots));
        let (mut starting, mut waiting) = (Vec::with_capacity(commands.len()), Vec::new());
        for (command, leased) in std::iter::zip(commands, std::iter::zip(ids, slots)) {
            match leased {
                (Some(id), Some(slot)) => starting.push((Claimed::stored(id, command), slot)),
                _ => waiting.push(command),
            }
        }
        let count = starting.len();
        quietly(|| tracing::debug!(target: "orchestratum::claim", count, "appended under a lease"));
        self.starter.start(self.leases.instance, starting.into_iter());
        self.answered = true;
        waiting
    }

    /// Nothing was stored under a lease.
    pub(crate) fn withdraw(mut self) {
        self.answered = true;
    }

    /// The database gave no lease: the instance is fenced, or a queue is paused.
    pub(crate) fn refused(self) {
        self.slots.iter().flatten().for_each(Slot::refused);
        self.withdraw();
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        let ids = self.leases.ids.iter().flatten();
        if self.answered {
            self.starter.holdings.expect_no_more(ids);
        } else {
            self.starter.holdings.doubt_about(ids);
            self.starter.shared.wake.survey();
        }
    }
}

impl Starters {
    pub(crate) fn attach(&self, starter: &Arc<Starter>) {
        lock(&self.0).push(Arc::clone(starter));
    }

    pub(crate) fn detach(&self, starter: &Arc<Starter>) {
        lock(&self.0).retain(|other| !Arc::ptr_eq(other, starter));
    }

    /// Slots of the first worker that has some.
    pub(crate) fn offer(&self, commands: &[NewCommand]) -> Option<Offer> {
        let starters = lock(&self.0).clone();
        starters.iter().find_map(|starter| starter.offer(commands))
    }
}
