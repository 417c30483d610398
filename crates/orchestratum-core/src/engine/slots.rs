//! How many commands of a queue may run, and how many more may wait in this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::attempt::Attempt;
use crate::engine::wake::PollerWake;
use crate::engine::{Shared, lock};

/// The slots of each queue.
#[derive(Debug)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
    wake: Arc<PollerWake>,
    stopping: CancellationToken,
    queues: Mutex<HashMap<String, Arc<QueueSlots>>>,
}

/// The slots of one queue.
#[derive(Debug)]
pub(crate) struct QueueSlots {
    limit: usize,
    permits: Arc<Semaphore>,
    /// Claimed, or being appended under a lease, and not yet done.
    taken: AtomicUsize,
    /// Of those taken: kept free for what claims under way may bring. Changed by the poller only.
    reserved: AtomicUsize,
    /// Whether the poller rests and nothing that it knows of waits for this queue.
    idle: AtomicBool,
    /// The poller wants to be woken when `taken` falls to this.
    wake_at: AtomicUsize,
    done: AtomicUsize,
    pace: Mutex<Pace>,
    /// When an append was last refused a lease.
    refused: Mutex<Option<Instant>>,
    wake: Arc<PollerWake>,
    stopping: CancellationToken,
    patience: Duration,
}

/// How fast commands of the queue were done lately.
#[derive(Debug)]
struct Pace {
    since: Instant,
    done: usize,
    per_second: f64,
}

/// A command's place in its queue, from before its lease to its end.
#[derive(Debug)]
pub(crate) struct Slot {
    queue: Arc<QueueSlots>,
    /// Whether something has run in it.
    used: AtomicBool,
}

/// No wake-up wanted.
const NEVER: usize = usize::MAX;

/// How much work may wait in this process, as time at the current pace: enough to hide a claim's round trip, and little
/// enough that idle instances elsewhere get their share.
const AHEAD_SECONDS: f64 = 0.1;

/// The shortest time over which a pace is measured: a handful of slow handlers that end together are no fast queue.
const PACE_WINDOW: Duration = Duration::from_millis(100);

/// How long no lease is asked for in an append to a queue that gave none.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);

impl Slots {
    pub(crate) fn new(shared: Arc<Shared>, wake: Arc<PollerWake>, stopping: CancellationToken) -> Self {
        Self { shared, wake, stopping, queues: Mutex::default() }
    }

    fn queue(&self, name: &str) -> Arc<QueueSlots> {
        let mut queues = lock(&self.queues);
        if let Some(slots) = queues.get(name) {
            return Arc::clone(slots);
        }
        let limit = self.shared.config.concurrency_of(name);
        let (wake, stopping) = (Arc::clone(&self.wake), self.stopping.clone());
        let slots = Arc::new(QueueSlots::new(limit, wake, stopping, patience(&self.shared.config)));
        queues.insert(name.to_owned(), Arc::clone(&slots));
        slots
    }

    /// How many commands of the queue may be claimed now.
    pub(crate) fn room(&self, queue: &str) -> usize {
        let most_ahead = self.shared.config.claim_batch.saturating_mul(4);
        self.queue(queue).room(most_ahead)
    }

    /// Keeps places free for what a claim may bring.
    pub(crate) fn reserve(&self, queue: &str, places: usize) {
        let slots = self.queue(queue);
        slots.reserved.fetch_add(places, Ordering::AcqRel);
        slots.taken.fetch_add(places, Ordering::AcqRel);
    }

    /// Gives back places that a claim did not fill.
    pub(crate) fn release(&self, queue: &str, places: usize) {
        let slots = self.queue(queue);
        slots.reserved.fetch_sub(places, Ordering::AcqRel);
        slots.taken.fetch_sub(places, Ordering::AcqRel);
    }

    /// No claim is under way: a panic may have left places that nothing will fill.
    pub(crate) fn release_all(&self) {
        for slots in lock(&self.queues).values() {
            let left = slots.reserved.swap(0, Ordering::AcqRel);
            slots.taken.fetch_sub(left, Ordering::AcqRel);
        }
    }

    /// Reserved places, for commands that have just been claimed.
    pub(crate) fn take(&self, queue: &str, count: usize) -> Vec<Slot> {
        let slots = self.queue(queue);
        slots.reserved.fetch_sub(count, Ordering::AcqRel);
        (0..count).map(|_| Slot::new(&slots)).collect()
    }

    /// A place for a command that is about to be appended, if it can run at once and passes nothing that waits.
    pub(crate) fn take_free(&self, queue: &str) -> Option<Slot> {
        let queue = lock(&self.queues).get(queue).cloned()?;
        queue.take_free().then(|| Slot::new(&queue))
    }

    /// The poller looks for work.
    pub(crate) fn search(&self) {
        lock(&self.queues).values().for_each(|slots| slots.idle.store(false, Ordering::Release));
    }

    /// The poller has found all there is, but for these queues, which have no room for it.
    pub(crate) fn rest(&self, waiting: &[&str]) {
        for (name, slots) in lock(&self.queues).iter() {
            slots.idle.store(!waiting.contains(&name.as_str()), Ordering::Release);
        }
    }

    /// Asks to be woken once the queue has room worth a claim. `true`: it has already, do not wait.
    pub(crate) fn wake_when_free(&self, queue: &str) -> bool {
        let most_ahead = self.shared.config.claim_batch.saturating_mul(4);
        let slots = self.queue(queue);
        let wake_at = slots.wake_at_level(most_ahead);
        slots.wake_at.store(wake_at, Ordering::SeqCst);
        // Looked at after the wish is known: a slot freed in between has seen the wish or is seen here.
        slots.taken.load(Ordering::SeqCst) <= wake_at
    }
}

/// How long a claimed command may wait for a permit before it is given back, for an instance that has one.
pub(crate) fn patience(config: &Config) -> Duration {
    config.lease_duration / 3
}

impl QueueSlots {
    fn new(limit: usize, wake: Arc<PollerWake>, stopping: CancellationToken, patience: Duration) -> Self {
        Self {
            limit,
            permits: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            taken: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            idle: AtomicBool::new(false),
            wake_at: AtomicUsize::new(NEVER),
            done: AtomicUsize::new(0),
            pace: Mutex::new(Pace { since: Instant::now(), done: 0, per_second: 0.0 }),
            refused: Mutex::default(),
            wake,
            stopping,
            patience,
        }
    }

    fn take_free(&self) -> bool {
        let one_more = |taken| (taken < self.limit).then_some(taken + 1);
        let refused = lock(&self.refused).is_some_and(|refused| refused.elapsed() < AFTER_REFUSAL);
        !refused
            && self.idle.load(Ordering::Acquire)
            && self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    fn room(&self, most_ahead: usize) -> usize {
        self.measure();
        self.wake_at.store(NEVER, Ordering::Release);
        self.target(most_ahead).saturating_sub(self.taken.load(Ordering::Acquire))
    }

    fn target(&self, most_ahead: usize) -> usize {
        let per_second = lock(&self.pace).per_second;
        // A cast of a finite, positive number of at most a few millions.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped first")]
        let ahead = (per_second * AHEAD_SECONDS).clamp(0.0, 1e6) as usize;
        self.limit.saturating_add(ahead.min(most_ahead))
    }

    /// A slow queue refills each slot as it gets free; a fast one waits for half of what it may hold ahead, so that
    /// claims stay large.
    fn wake_at_level(&self, most_ahead: usize) -> usize {
        let ahead = self.target(most_ahead) - self.limit;
        (self.limit - 1).saturating_add(ahead / 2)
    }

    /// The pace is the larger of the last measured one and its own past, fading: a burst after a pause starts fast.
    fn measure(&self) {
        let done = self.done.load(Ordering::Acquire);
        let mut pace = lock(&self.pace);
        let elapsed = pace.since.elapsed();
        if elapsed < PACE_WINDOW {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "a pace needs no precision")]
        let now = done.wrapping_sub(pace.done) as f64 / elapsed.as_secs_f64();
        let faded = pace.per_second * (-elapsed.as_secs_f64()).exp();
        *pace = Pace { since: Instant::now(), done, per_second: now.max(faded) };
    }
}

impl Slot {
    fn new(queue: &Arc<QueueSlots>) -> Self {
        Self { queue: Arc::clone(queue), used: AtomicBool::new(false) }
    }

    /// An append was refused its lease: for a while none is asked for, since each refusal costs a statement.
    pub(crate) fn refused(&self) {
        *lock(&self.queue.refused) = Some(Instant::now());
    }

    /// Waits for permission to run. `None`: the worker stops, the handler was told to stop, or it took too long; then
    /// the command goes back without having used up anything.
    pub(crate) async fn wait(&self, attempt: &Attempt) -> Option<OwnedSemaphorePermit> {
        if self.queue.stopping.is_cancelled() {
            return None;
        }
        let permit = self.permit(attempt).await?;
        self.used.store(true, Ordering::Release);
        Some(permit)
    }

    async fn permit(&self, attempt: &Attempt) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.queue.permits).try_acquire_owned() {
            return Some(permit);
        }
        tokio::select! {
            biased;
            () = self.queue.stopping.cancelled() => None,
            () = attempt.token.cancelled() => None,
            permit = Arc::clone(&self.queue.permits).acquire_owned() => permit.ok(),
            () = tokio::time::sleep(self.queue.patience) => None,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if *self.used.get_mut() {
            self.queue.done.fetch_add(1, Ordering::AcqRel);
        }
        let left = self.queue.taken.fetch_sub(1, Ordering::SeqCst) - 1;
        let wake_at = self.queue.wake_at.load(Ordering::SeqCst);
        if wake_at != NEVER && left <= wake_at {
            self.queue.wake_at.store(NEVER, Ordering::Release);
            self.queue.wake.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_gets_a_slot_only_where_nothing_waits_and_one_is_free() {
        let queue = Arc::new(QueueSlots::new(2, Arc::default(), CancellationToken::new(), Duration::from_secs(1)));
        assert!(!queue.take_free(), "the poller may be about to claim what waits");
        queue.idle.store(true, Ordering::Release);
        assert!(queue.take_free() && queue.take_free());
        assert!(!queue.take_free(), "both are taken");
        drop(Slot::new(&queue));
        assert!(queue.take_free());
        assert_eq!(queue.taken.load(Ordering::Acquire), 2);
    }
}
