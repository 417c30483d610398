//! Signals to the loops of this process.
//!
//! A signal is a hint and may be late, doubled or for nothing; the poll is the truth.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::command::CommandId;
use crate::engine::lock;
use crate::store::claim::Lane;

/// Where signals are left and heard.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    /// The pollers of this process: each hears of everything.
    pollers: Mutex<Vec<Arc<PollerWake>>>,
    /// Counts up; each heartbeat of this process hears of every change.
    heartbeat: watch::Sender<u64>,
    /// Who waits in this process for a command to end. Empty unless somebody calls `wait`.
    waiting: Mutex<HashMap<CommandId, Arc<Notify>>>,
}

/// The signals of one poller.
#[derive(Debug, Default)]
pub(crate) struct PollerWake {
    hints: Mutex<Hints>,
    notify: Notify,
}

/// What the poller should look at.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// Lanes that got a command, and when it is due.
    pub(crate) lanes: HashMap<Lane, Instant>,
    /// The same, as a message has told every worker there is.
    pub(crate) announced: HashMap<Lane, Instant>,
    /// Something changed; nobody knows where.
    pub(crate) survey: bool,
    /// The same, and perhaps it was this process.
    pub(crate) changed: bool,
    /// Appends inside of transactions whose commit nothing will announce.
    pub(crate) armed: HashMap<Lane, HashSet<CommandId>>,
}

impl Wake {
    /// A poller starts to listen.
    pub(crate) fn attach(&self) -> Arc<PollerWake> {
        let poller = Arc::new(PollerWake::default());
        lock(&self.pollers).push(Arc::clone(&poller));
        poller
    }

    pub(crate) fn detach(&self, poller: &Arc<PollerWake>) {
        lock(&self.pollers).retain(|other| !Arc::ptr_eq(other, poller));
    }

    fn tell(&self, hint: impl Fn(&mut Hints)) {
        for poller in lock(&self.pollers).iter() {
            hint(&mut lock(&poller.hints));
            poller.notify.notify_one();
        }
    }

    /// A lane has a command that is due after `delay`.
    pub(crate) fn lane(&self, lane: &Lane, delay: Duration) {
        let Some(due) = Instant::now().checked_add(delay) else { return };
        self.tell(|hints| soonest(&mut hints.lanes, lane, due));
    }

    /// A message has told every worker there is of a command that is due after `delay`.
    pub(crate) fn announced(&self, lane: &Lane, delay: Duration) {
        let Some(due) = Instant::now().checked_add(delay) else { return };
        self.tell(|hints| soonest(&mut hints.announced, lane, due));
    }

    /// A lane will have a command once a transaction of this process has committed.
    pub(crate) fn arm(&self, lane: &Lane, id: CommandId) {
        self.tell(|hints| {
            hints.armed.entry(lane.clone()).or_default().insert(id);
        });
    }

    pub(crate) fn survey(&self) {
        self.tell(|hints| hints.survey = true);
    }

    /// Somebody has written, perhaps this process.
    pub(crate) fn changed(&self) {
        self.tell(|hints| hints.changed = true);
    }

    /// A running command was asked to stop.
    pub(crate) fn heartbeat(&self) {
        self.heartbeat.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn heartbeat_signals(&self) -> watch::Receiver<u64> {
        self.heartbeat.subscribe()
    }

    /// Hears of the end of a command in this process, from now on.
    pub(crate) fn watch(&self, id: CommandId) -> Watch<'_> {
        let notify = Arc::clone(lock(&self.waiting).entry(id).or_default());
        Watch { wake: self, id, notify }
    }

    /// These commands have ended.
    pub(crate) fn ended(&self, ids: impl Iterator<Item = CommandId>) {
        let waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            ids.filter_map(|id| waiting.get(&id)).for_each(|watch| watch.notify_waiters());
        }
    }
}

fn soonest(lanes: &mut HashMap<Lane, Instant>, lane: &Lane, due: Instant) {
    let known = lanes.entry(lane.clone()).or_insert(due);
    *known = (*known).min(due);
}

impl PollerWake {
    /// A slot is free, or the poller has something else to see.
    pub(crate) fn notify(&self) {
        self.notify.notify_one();
    }

    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn take_hints(&self) -> Hints {
        std::mem::take(&mut *lock(&self.hints))
    }
}

/// Somebody waits for a command to end; forgotten when dropped, also in the middle of the wait.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    wake: &'a Wake,
    id: CommandId,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.wake.waiting);
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.notify) == 2 {
            waiting.remove(&self.id);
        }
    }
}
