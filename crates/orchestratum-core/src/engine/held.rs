//! What this process holds: every attempt from its claim to its settlement.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::CommandId;
use crate::engine::attempt::{Attempt, Stop};
use crate::engine::lock;
use crate::instance_id::InstanceId;
use crate::store::append::FIRST_ATTEMPT;
use crate::store::instance::Held;

/// The attempts of this process, and the lease under which they run.
///
/// Written by the starter (claims and appends), the finisher (settlements) and the heartbeat (its own lease); read by all.
#[derive(Debug)]
pub(crate) struct Holdings {
    attempts: Mutex<Attempts>,
    /// Reports on their way to the finisher or being settled.
    unsettled: AtomicUsize,
    lease: Mutex<LeaseState>,
}

#[derive(Debug, Default)]
struct Attempts {
    held: HashMap<CommandId, Arc<Attempt>>,
    /// What an append under way stores under a lease. Here before the database knows of it, so that it is never taken
    /// for something that was lost.
    expected: HashSet<CommandId>,
}

/// The lease of the instance as this process may believe in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseState {
    /// The id under which this process claims.
    pub(crate) instance: InstanceId,
    /// Until when nobody else can have fenced the instance: taken before the last successful extension was sent, plus
    /// the lease, less the margin. `None` before the instance is registered.
    pub(crate) trusted_until: Option<Instant>,
    /// The answer to a claim, or to an append with leases, was lost: the database may lease more to this instance than it holds.
    pub(crate) doubt: Option<Doubt>,
}

/// When to look for what is leased and not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) since: Instant,
    pub(crate) next_look: Instant,
}

/// Looks after a lost answer: at once, when the statement can hardly be under way any more, and when the server has
/// given up on any connection of the engine that it ran on. An append under leases runs on one of the application's: behind
/// the lock that somebody holds on a table it may wait for hours, and then lease what nobody waits for any more.
const LOOKS: [Duration; 4] =
    [Duration::from_secs(30), Duration::from_secs(300), Duration::from_secs(3_600), Duration::from_secs(24 * 3_600)];

impl Holdings {
    pub(crate) fn new() -> Self {
        Self {
            attempts: Mutex::default(),
            unsettled: AtomicUsize::new(0),
            lease: Mutex::new(LeaseState { instance: InstanceId::new(), trusted_until: None, doubt: None }),
        }
    }

    pub(crate) fn lease(&self) -> LeaseState {
        *lock(&self.lease)
    }

    pub(crate) fn change_lease(&self, change: impl FnOnce(&mut LeaseState)) {
        change(&mut lock(&self.lease));
    }

    /// The answer to a claim or to an append with leases, or the settlement of something claimed, was lost.
    pub(crate) fn doubt(&self) {
        let now = Instant::now();
        self.change_lease(|lease| lease.doubt = Some(Doubt { since: now, next_look: now }));
    }

    /// A look has failed; the next one comes later, so that the worker does nothing else meanwhile but look.
    pub(crate) fn postpone(&self, doubt: Doubt) {
        self.change_lease(|lease| {
            if lease.doubt == Some(doubt) {
                lease.doubt = Some(Doubt { next_look: Instant::now() + LOOKS[0], ..doubt });
            }
        });
    }

    /// One look is done; a newer doubt stays.
    pub(crate) fn looked_into(&self, doubt: Doubt) {
        let next = LOOKS.into_iter().map(|wait| doubt.since + wait).find(|look| *look > Instant::now());
        self.change_lease(|lease| {
            if lease.doubt == Some(doubt) {
                lease.doubt = next.map(|next_look| Doubt { next_look, ..doubt });
            }
        });
    }

    /// Whether a claim made now would be under a lease that can be trusted.
    pub(crate) fn may_claim(&self) -> Option<InstanceId> {
        let lease = self.lease();
        lease.trusted_until.filter(|until| *until > Instant::now()).map(|_| lease.instance)
    }

    /// How many reports have not been settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::Acquire)
    }

    pub(crate) fn reported(&self) {
        self.unsettled.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn expect<'a>(&self, ids: impl Iterator<Item = &'a CommandId>) {
        lock(&self.attempts).expected.extend(ids);
    }

    pub(crate) fn expect_no_more<'a>(&self, ids: impl Iterator<Item = &'a CommandId>) {
        let mut attempts = lock(&self.attempts);
        ids.for_each(|id| {
            attempts.expected.remove(id);
        });
    }

    /// The answer that would have said whether these are leased was lost. At no moment are they neither expected nor in
    /// doubt: a worker that ends would otherwise take its instance out of the table.
    pub(crate) fn doubt_about<'a>(&self, ids: impl Iterator<Item = &'a CommandId>) {
        let mut attempts = lock(&self.attempts);
        self.doubt();
        ids.for_each(|id| {
            attempts.expected.remove(id);
        });
    }

    /// Holds what has been leased. Answers may come out of order: one that was long in coming, whose command has been
    /// reclaimed and claimed again meanwhile, must not take the place of the live attempt. It runs nothing either; its
    /// instance has been fenced.
    pub(crate) fn add(&self, new: &[Arc<Attempt>]) {
        let mut attempts = lock(&self.attempts);
        for attempt in new {
            attempts.expected.remove(&attempt.lease.id);
            let newer =
                attempts.held.get(&attempt.lease.id).is_some_and(|held| held.lease.attempt > attempt.lease.attempt);
            if !newer {
                attempts.held.insert(attempt.lease.id, Arc::clone(attempt));
            }
        }
    }

    /// Forgets attempts whose reports have been settled or given up, unless the same command is held under a newer lease
    /// by now. Returns how many had not been forgotten before, and how many reports had been waiting.
    pub(crate) fn let_go<'a>(&self, attempts: impl Iterator<Item = &'a Arc<Attempt>>) -> (usize, usize) {
        let held = &mut lock(&self.attempts).held;
        let mut count = 0;
        for attempt in attempts.filter(|attempt| attempt.let_go()) {
            count += 1;
            if held.get(&attempt.lease.id).is_some_and(|current| current.lease == attempt.lease) {
                held.remove(&attempt.lease.id);
            }
        }
        (count, self.unsettled.fetch_sub(count, Ordering::AcqRel))
    }

    pub(crate) fn all(&self) -> Vec<Arc<Attempt>> {
        lock(&self.attempts).held.values().cloned().collect()
    }

    /// All that the database may lease to this process with its knowledge.
    pub(crate) fn held(&self) -> HashSet<Held> {
        let attempts = lock(&self.attempts);
        let expected = attempts.expected.iter().map(|id| Held { id: *id, attempt: FIRST_ATTEMPT });
        attempts.held.values().map(|attempt| attempt.held()).chain(expected).collect()
    }

    pub(crate) fn get(&self, id: CommandId) -> Option<Arc<Attempt>> {
        lock(&self.attempts).held.get(&id).cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        let attempts = lock(&self.attempts);
        attempts.held.len() + attempts.expected.len()
    }

    /// Tells every handler that runs under the lease of this instance to stop; returns how many had not been told.
    pub(crate) fn stop_all(&self, instance: InstanceId, stop: Stop) -> usize {
        let attempts = lock(&self.attempts);
        let attempts = attempts.held.values().filter(|attempt| attempt.lease.instance == instance);
        attempts.filter(|attempt| attempt.stop(stop)).count()
    }
}
