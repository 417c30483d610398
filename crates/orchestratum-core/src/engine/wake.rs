//! Signals to the loops of this process.
//!
//! A signal is a hint and may be late, doubled or for nothing; the poll is the truth.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::command::CommandId;
use crate::store::claim::Lane;

/// Where signals are left and heard.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    /// Workers of this process; without one nobody takes hints away.
    workers: AtomicUsize,
    hints: Mutex<Hints>,
    poller: Notify,
    /// Counts up; each heartbeat of this process hears of every change.
    heartbeat: watch::Sender<u64>,
    /// Who waits in this process for a command to end. Empty unless somebody calls `wait`.
    waiting: Mutex<HashMap<CommandId, Arc<Notify>>>,
}

/// What the poller should look at.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Lanes that got a command, and when it is due.
    pub(crate) lanes: HashMap<Lane, Instant>,
    /// Something changed; nobody knows where.
    pub(crate) survey: bool,
    /// Appends inside of transactions whose commit nothing will announce.
    pub(crate) armed: HashMap<Lane, HashSet<CommandId>>,
}

impl Wake {
    pub(crate) fn attach(&self) {
        self.workers.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn detach(&self) {
        self.workers.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_unheard(&self) -> bool {
        self.workers.load(Ordering::Acquire) == 0
    }

    /// A lane has a command that is due after `delay`.
    pub(crate) fn lane(&self, lane: Lane, delay: Duration) {
        if self.is_unheard() {
            return;
        }
        let Some(due) = Instant::now().checked_add(delay) else {
            return;
        };
        {
            let mut hints = lock(&self.hints);
            let known = hints.lanes.entry(lane).or_insert(due);
            *known = (*known).min(due);
        }
        self.poller.notify_one();
    }

    /// A lane will have a command once a transaction of this process has committed.
    pub(crate) fn arm(&self, lane: Lane, id: CommandId) {
        if self.is_unheard() {
            return;
        }
        lock(&self.hints).armed.entry(lane).or_default().insert(id);
        self.poller.notify_one();
    }

    pub(crate) fn survey(&self) {
        lock(&self.hints).survey = true;
        self.poller.notify_one();
    }

    /// A slot is free, or the poller has something else to see.
    pub(crate) fn poller(&self) {
        self.poller.notify_one();
    }

    pub(crate) async fn poller_signaled(&self) {
        self.poller.notified().await;
    }

    pub(crate) fn take_hints(&self) -> Hints {
        std::mem::take(&mut *lock(&self.hints))
    }

    /// A running command was asked to stop.
    pub(crate) fn heartbeat(&self) {
        self.heartbeat.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn heartbeat_signals(&self) -> watch::Receiver<u64> {
        self.heartbeat.subscribe()
    }

    /// Hears of the end of a command in this process, from now on.
    pub(crate) fn watch(&self, id: CommandId) -> Arc<Notify> {
        Arc::clone(lock(&self.waiting).entry(id).or_default())
    }

    /// Forgets a watch once nobody else holds it.
    pub(crate) fn unwatch(&self, id: CommandId, watch: Arc<Notify>) {
        let mut waiting = lock(&self.waiting);
        drop(watch);
        if waiting.get(&id).is_some_and(|watch| Arc::strong_count(watch) == 1) {
            waiting.remove(&id);
        }
    }

    /// These commands have ended.
    pub(crate) fn ended(&self, ids: impl Iterator<Item = CommandId>) {
        let waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            ids.filter_map(|id| waiting.get(&id)).for_each(|watch| watch.notify_waiters());
        }
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
