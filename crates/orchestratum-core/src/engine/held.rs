//! What this process holds: every attempt from its claim to its settlement.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::CommandId;
use crate::engine::attempt::{Attempt, Stop};
use crate::instance_id::InstanceId;

/// The attempts of this process, and the lease under which they run.
///
/// Written by the poller (claims), the finisher (settlements) and the heartbeat (its own lease); read by all.
#[derive(Debug)]
pub(crate) struct Holdings {
    attempts: Mutex<HashMap<CommandId, Arc<Attempt>>>,
    /// Reports on their way to the finisher or being settled.
    unsettled: AtomicUsize,
    lease: Mutex<LeaseState>,
}

/// The lease of the instance as this process may believe in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseState {
    /// The id under which this process claims.
    pub(crate) instance: InstanceId,
    /// Until when nobody else can have fenced the instance: taken before the last successful extension was sent, plus
    /// the lease, less the margin. `None` before the instance is registered.
    pub(crate) trusted_until: Option<Instant>,
    /// A claim's answer was lost: the database may lease more to this instance than it holds.
    pub(crate) doubt: Option<Doubt>,
}

/// When to look for what is leased and not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) since: Instant,
    pub(crate) next_look: Instant,
}

/// Looks after a lost answer: at once, when the statement can hardly be under way any more, and when the server has
/// given up on any connection that it ran on.
const LOOKS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(300)];

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

    /// The answer to a claim, or the settlement of something claimed, was lost.
    pub(crate) fn doubt(&self) {
        let now = Instant::now();
        self.change_lease(|lease| lease.doubt = Some(Doubt { since: now, next_look: now }));
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

    pub(crate) fn add(&self, attempts: &[Arc<Attempt>]) {
        let mut held = lock(&self.attempts);
        for attempt in attempts {
            held.insert(attempt.lease.id, Arc::clone(attempt));
        }
    }

    /// Forgets attempts whose reports have been settled or given up, unless the same command is held under a newer lease
    /// by now. Returns how many had not been forgotten before, and how many reports had been waiting.
    pub(crate) fn let_go<'a>(&self, attempts: impl Iterator<Item = &'a Arc<Attempt>>) -> (usize, usize) {
        let mut held = lock(&self.attempts);
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
        lock(&self.attempts).values().cloned().collect()
    }

    pub(crate) fn get(&self, id: CommandId) -> Option<Arc<Attempt>> {
        lock(&self.attempts).get(&id).cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.attempts).is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.attempts).len()
    }

    /// Tells every handler that runs under the lease of this instance to stop; returns how many had not been told.
    pub(crate) fn stop_all(&self, instance: InstanceId, stop: Stop) -> usize {
        let held = lock(&self.attempts);
        let attempts = held.values().filter(|attempt| attempt.lease.instance == instance);
        attempts.filter(|attempt| attempt.stop(stop)).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
