//! The housekeeper: reclaims what dead instances held, gives back what nobody holds, watches for stuck handlers and
//! purges what is old.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::backoff::Backoff;
use crate::engine::held::Holdings;
use crate::engine::{Shared, answer, jittered};
use crate::error::Result;
use crate::outcome::Ending;
use crate::state::State;
use crate::store::Store;
use crate::store::instance::Held;
use crate::store::settle::{Lease, Report};

/// The housekeeping loop.
#[derive(Debug)]
pub(crate) struct Housekeeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) stopping: CancellationToken,
}

/// How many commands of a dead instance one transaction takes back.
const RECLAIM_BATCH: usize = 500;
/// How many ended commands one transaction of a purge looks at.
const PURGE_BATCH: usize = 500;
/// The pause between two of them, so that a purge of millions leaves room for work.
const PURGE_PAUSE: Duration = Duration::from_millis(20);
/// How often a purge starts.
const PURGE_INTERVAL: Duration = Duration::from_secs(60);
/// How long past its timeout a handler's own timer may be late before the handler is taken to block its thread.
const STUCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a claim whose answer was lost may still be under way on the server.
const CLAIM_IN_FLIGHT: Duration = Duration::from_secs(30);

impl Housekeeper {
    /// Runs until the worker stops. No error ends it.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new("housekeeper");
        let mut next_reclaim = Instant::now();
        let mut next_purge = Instant::now() + jittered(PURGE_INTERVAL);
        while !self.stopping.is_cancelled() {
            self.stop_stuck();
            let now = Instant::now();
            let result = if next_reclaim <= now {
                next_reclaim = now + jittered(self.shared.config.heartbeat_interval());
                self.reclaim().await
            } else if next_purge <= now {
                next_purge = now + jittered(PURGE_INTERVAL);
                self.purge().await
            } else {
                Ok(())
            };
            let wait = match result {
                Ok(()) => {
                    backoff.succeeded();
                    let next = next_reclaim.min(next_purge).saturating_duration_since(Instant::now());
                    next.min(Duration::from_millis(500))
                }
                Err(error) => backoff.failed(&error),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        answer(&self.store, &self.shared.config, call).await
    }

    async fn reclaim(&self) -> Result<()> {
        for instance in self.answer(self.store.fence()).await? {
            loop {
                let count = self
                    .answer(self.store.reclaim(instance, self.shared.config.max_lost_leases, RECLAIM_BATCH))
                    .await?;
                if count == 0 {
                    break;
                }
                tracing::warn!(name: "orchestratum.reclaim", %instance, count, "reclaimed what a dead instance held");
                self.shared.wake.survey();
            }
            self.answer(self.store.forget(instance)).await?;
        }
        self.give_back_what_nobody_holds().await
    }

    /// A claim whose answer was lost has leased commands to this instance that it does not hold. They go back once the
    /// claim can no longer be under way, so that it is looked for once and found.
    async fn give_back_what_nobody_holds(&self) -> Result<()> {
        let lease = self.holdings.lease();
        let Some(doubtful_since) = lease.doubtful_since else {
            return Ok(());
        };
        let leased = self.answer(self.store.held(lease.instance)).await?;
        // Looked at after the database, and twice: what was claimed in between is held by now.
        let held: HashSet<Held> = self
            .holdings
            .all()
            .iter()
            .map(|attempt| Held { id: attempt.lease.id, attempt: attempt.lease.attempt })
            .collect();
        let lost: Vec<Held> = leased.difference(&held).copied().collect();
        let still = self.answer(self.store.held(lease.instance)).await?;
        let lost = lost.into_iter().filter(|held| still.contains(held) && self.holdings.get(held.id).is_none());
        let reports: Vec<Report> = lost.map(|held| self.unheld(held, lease.instance)).collect();
        if !reports.is_empty() {
            self.answer(self.store.settle(&reports)).await?;
            tracing::warn!(name: "orchestratum.snooze", count = reports.len(), "gave back claims whose answer was lost");
            self.shared.wake.survey();
        }
        if doubtful_since.elapsed() > CLAIM_IN_FLIGHT {
            self.holdings.change_lease(|lease| {
                if lease.doubtful_since == Some(doubtful_since) {
                    lease.doubtful_since = None;
                }
            });
        }
        Ok(())
    }

    fn unheld(&self, held: Held, instance: crate::instance_id::InstanceId) -> Report {
        Report {
            lease: Lease { id: held.id, attempt: held.attempt, instance },
            ending: Ending::GivenBack,
            retry_count: 0,
            max_losses: self.shared.config.max_lost_leases,
            retry_delay: Duration::ZERO,
            follow_ups: None,
            on_success: Vec::new(),
            duration: None,
        }
    }

    /// A handler that blocks its thread keeps its slot until it returns, but its command goes on.
    fn stop_stuck(&self) {
        for attempt in self.holdings.all() {
            if attempt.is_stuck(STUCK_PATIENCE) {
                tracing::error!(
                    name: "orchestratum.attempt.stuck", id = %attempt.lease.id, key = %attempt.claimed.key,
                    "ran past its timeout and blocks its thread; use `spawn_blocking` in the handler"
                );
                attempt.abort(Ending::TimedOut);
            }
        }
    }

    async fn purge(&self) -> Result<()> {
        let config = &self.shared.config;
        for (states, kept) in [
            ([State::Completed, State::Canceled].as_slice(), config.keep_completed),
            ([State::Failed].as_slice(), config.keep_failed),
        ] {
            let Some(kept) = kept else { continue };
            let mut after = None;
            let mut count = 0;
            loop {
                let purged = self.answer(self.store.purge(states, kept, after, PURGE_BATCH)).await?;
                count += purged.count;
                after = purged.next;
                if after.is_none() || after.is_some_and(|id| is_younger(id, kept)) || self.stopping.is_cancelled() {
                    break;
                }
                tokio::time::sleep(PURGE_PAUSE).await;
            }
            if count > 0 {
                tracing::info!(name: "orchestratum.purge", count, ?states, "purged");
            }
        }
        Ok(())
    }
}

/// Whether commands from this id on were appended so recently that none of them can be old enough.
fn is_younger(id: crate::command::CommandId, age: Duration) -> bool {
    let Some(appended) = id.as_uuid().get_timestamp() else {
        return false;
    };
    let (seconds, _) = appended.to_unix();
    let now = crate::instant::Timestamp::now().as_micros() / 1_000_000;
    now.saturating_sub(i64::try_from(seconds).unwrap_or(0)) < i64::try_from(age.as_secs()).unwrap_or(i64::MAX)
}
