//! The housekeeper: reclaims what dead instances held, watches for stuck handlers and purges what is old.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::command::CommandId;
use crate::engine::backoff::Backoff;
use crate::engine::held::Holdings;
use crate::engine::slots::patience;
use crate::engine::{Shared, answer, guarded, jittered, leased_to, take_back};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::outcome::Ending;
use crate::state::State;
use crate::store::instance::{Held, Instances};
use crate::store::{Store, purge};

/// The housekeeping loop.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) stopping: CancellationToken,
    /// Fenced instances that held nothing, and when that was seen.
    pub(crate) emptied: HashMap<InstanceId, Emptied>,
    /// When to walk through the live table although nobody has died.
    pub(crate) next_walk: Instant,
    /// Where the purge goes on; `None` between two purges.
    pub(crate) purging: Option<Purging>,
}

/// When a fenced instance was last found to hold nothing, and how long until the next look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Emptied {
    at: Instant,
    look_after: Duration,
}

/// A purge under way: what is left to walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purging {
    failed: bool,
    after: Option<CommandId>,
}

/// How often a purge starts. Between two transactions it rests for as long as the last one took: a purge of millions
/// leaves room for work, and yet keeps up with as many commands as can be run.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long past its timeout a handler's own timer may be late before the handler is taken to block its thread.
const STUCK_PATIENCE: Duration = Duration::from_secs(1);
/// The longest wait before another look at a fenced instance that held nothing. What was locked or under way the first
/// time is soon free, so the looks begin close together; but each one walks through the whole live table.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Such a walk also finds what is leased to nobody that the database knows: somebody has removed an instance by hand, or
/// one that woke after it had been forgotten was in the middle of an append. All workers together walk so often for it.
const WALK_ANYHOW: Duration = Duration::from_secs(3600);
/// How long past its patience a claimed command may wait for its task to be looked at.
const UNSTARTED_PATIENCE: Duration = Duration::from_secs(1);

impl Housekeeper {
    /// Runs until the worker stops. No error ends it.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new("housekeeper");
        let mut next_reclaim = Instant::now();
        let mut next_purge = Instant::now() + jittered(PURGE_INTERVAL);
        while !self.stopping.is_cancelled() {
            let started = Instant::now();
            let result = Box::pin(guarded(self.turn(&mut next_reclaim, &mut next_purge))).await;
            let wait = match result {
                Ok(()) => {
                    backoff.succeeded();
                    let next = next_reclaim.min(next_purge).saturating_duration_since(Instant::now());
                    next.min(if self.purging.is_some() { started.elapsed() } else { Duration::from_millis(500) })
                }
                Err(error) => backoff.failed(&error),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    async fn turn(&mut self, next_reclaim: &mut Instant, next_purge: &mut Instant) -> Result<()> {
        self.stop_stuck();
        let now = Instant::now();
        if *next_reclaim <= now {
            *next_reclaim = now + jittered(self.shared.config.heartbeat_interval());
            self.reclaim().await
        } else if self.purging.is_some() {
            self.purge_some().await
        } else {
            if *next_purge <= now {
                *next_purge = now + jittered(PURGE_INTERVAL);
                self.purging = Some(Purging { failed: false, after: None });
            }
            Ok(())
        }
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        answer(&self.store, &self.shared.config, call).await
    }

    /// One instance that cannot be reclaimed holds up no other.
    async fn reclaim(&mut self) -> Result<()> {
        let own = self.holdings.lease().instance;
        let Instances { fenced, live } = self.answer(self.store.fence(own)).await?;
        self.shared.instances.store(live, Ordering::Relaxed);
        self.emptied.retain(|instance, _| fenced.contains(instance));
        let rests = |emptied: &Emptied| emptied.at.elapsed() < emptied.look_after;
        let is_due = |instance: &InstanceId| !self.emptied.get(instance).is_some_and(rests);
        let due: Vec<InstanceId> = fenced.into_iter().filter(is_due).collect();
        let begun = Instant::now();
        if due.is_empty() && self.next_walk > begun {
            return Ok(());
        }
        let mut leased = leased_to(&self.store, &self.shared.config, &due).await?;
        self.next_walk = begun + jittered(walk_anyhow(live));
        let mut result = Ok(());
        for instance in due {
            let held: Vec<Held> = leased.remove(&instance).unwrap_or_default().into_iter().collect();
            match self.reclaim_from(instance, &held, begun).await {
                Ok(()) => {
                    let emptied = self.emptied.get(&instance);
                    let first = self.shared.config.heartbeat_interval() / 2;
                    let look_after = emptied.map_or(first, |emptied| (emptied.look_after * 2).min(LOOK_AGAIN));
                    self.emptied.insert(instance, Emptied { at: Instant::now(), look_after });
                }
                Err(error) => result = Err(error),
            }
        }
        for (stranger, held) in leased {
            let held: Vec<Held> = held.into_iter().collect();
            result = self.reclaim_from(stranger, &held, begun).await.and(result);
        }
        result
    }

    /// What a walk that began then has found of one instance.
    async fn reclaim_from(&self, instance: InstanceId, held: &[Held], begun: Instant) -> Result<()> {
        if held.is_empty() {
            return self.answer(self.store.forget(instance, begun.elapsed())).await;
        }
        let (count, result) = take_back(&self.shared, &self.store, instance, held, &Ending::LostLease).await;
        if count > 0 {
            tracing::warn!(target: "orchestratum::reclaim", %instance, count, "reclaimed what a dead instance held");
            self.shared.wake.survey();
        }
        result
    }

    /// A handler that blocks its thread keeps its slot until it returns, but its command goes on.
    ///
    /// A command whose task was never looked at goes back to whoever has a thread to spare.
    fn stop_stuck(&self) {
        let patience = patience(&self.shared.config) + UNSTARTED_PATIENCE;
        for attempt in self.holdings.all() {
            if attempt.is_unstarted_for(patience) {
                attempt.abort(Ending::GivenBack);
            }
            if attempt.is_stuck(STUCK_PATIENCE) {
                tracing::error!(
                    target: "orchestratum::attempt::stuck", id = %attempt.lease.id, key = %attempt.claimed.lane.key,
                    "ran past its timeout and blocks its thread; use `spawn_blocking` in the handler"
                );
                attempt.abort(Ending::TimedOut);
            }
        }
    }

    /// One batch, so that a purge of millions holds up nothing else.
    async fn purge_some(&mut self) -> Result<()> {
        let Some(Purging { failed, after }) = self.purging.take() else { return Ok(()) };
        let config = &self.shared.config;
        let (states, kept) = if failed {
            ([State::Failed].as_slice(), config.keep_failed)
        } else {
            ([State::Completed, State::Canceled].as_slice(), config.keep_completed)
        };
        // Also when this one meets an error, somebody's lock for instance, the failed ones have their turn.
        self.purging = (!failed).then_some(Purging { failed: true, after: None });
        if let Some(kept) = kept {
            let (count, next) = self.answer(self.store.purge_kept(states, kept, after, purge::BATCH)).await?;
            if count > 0 {
                tracing::info!(target: "orchestratum::purge", count, ?states, "purged");
            }
            if next.is_some() {
                self.purging = Some(Purging { failed, after: next });
            }
        }
        Ok(())
    }
}

/// How long one of so many workers waits before it walks.
pub(crate) fn walk_anyhow(workers: usize) -> Duration {
    WALK_ANYHOW * u32::try_from(workers).unwrap_or(u32::MAX).clamp(1, 1_000)
}
