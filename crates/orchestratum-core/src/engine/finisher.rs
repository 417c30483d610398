//! The finisher: writes endings to the database, as many at a time as have gathered meanwhile.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::attempt::Finished;
use crate::engine::backoff::Backoff;
use crate::engine::held::Holdings;
use crate::engine::{Shared, answer};
use crate::outcome::Ending;
use crate::state::State;
use crate::store::Store;
use crate::store::claim::Lane;
use crate::store::settle::{Report, Settled};

/// The settling loop.
#[derive(Debug)]
pub(crate) struct Finisher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) reports: mpsc::UnboundedReceiver<Finished>,
}

/// The most endings in one transaction. While one is under way the next gather, so that batches grow with the load and
/// a lone ending waits for nothing.
const MAX_BATCH: usize = 2_000;

impl Finisher {
    /// Runs until every attempt has reported and been settled. No error ends it.
    pub(crate) async fn run(mut self) {
        let mut finished = Vec::with_capacity(MAX_BATCH);
        while self.reports.recv_many(&mut finished, MAX_BATCH).await > 0 {
            let (in_own_transaction, finished): (Vec<_>, Vec<_>) =
                finished.drain(..).partition(|finished| finished.completed_in);
            for finished in in_own_transaction {
                // In a task of its own: a transaction that a handler forgot may still hold the row.
                let (shared, store, holdings) =
                    (Arc::clone(&self.shared), self.store.clone(), Arc::clone(&self.holdings));
                tokio::spawn(async move { confirm(&shared, &store, &holdings, finished).await });
            }
            settle(&self.shared, &self.store, &self.holdings, finished).await;
        }
    }
}

/// Settles until the database has answered for each; a report that it refuses for good is given up, and its command is
/// found by the housekeeper as leased but not held.
async fn settle(shared: &Shared, store: &Store, holdings: &Holdings, mut finished: Vec<Finished>) {
    let mut backoff = Backoff::new("finisher");
    while !finished.is_empty() {
        let reports: Vec<Report> = finished.iter().map(|finished| finished.report.clone()).collect();
        match answer(store, &shared.config, store.settle(&reports)).await {
            Ok(settled) => {
                backoff.succeeded();
                tell(shared, &finished, &settled);
                forget(shared, holdings, &finished);
                return;
            }
            Err(error) if error.is_transient() => {
                tokio::time::sleep(backoff.failed(&error)).await;
            }
            Err(error) if finished.len() == 1 => {
                let id = finished[0].attempt.lease.id;
                tracing::error!(name: "orchestratum.settle.refused", %id, %error, "the end of an attempt cannot be stored");
                forget(shared, holdings, &finished);
                holdings.change_lease(|lease| lease.doubtful_since = Some(tokio::time::Instant::now()));
                return;
            }
            Err(_) => {
                // One bad report must not take the others with it.
                let half = finished.split_off(finished.len() / 2);
                Box::pin(settle(shared, store, holdings, half)).await;
            }
        }
    }
}

/// Lets go of what has been settled, and lets the poller go on if it waited for that.
fn forget(shared: &Shared, holdings: &Holdings, finished: &[Finished]) {
    holdings.remove(finished.iter().map(|finished| &finished.attempt));
    if holdings.settled(finished.len()) > shared.config.most_unsettled() {
        shared.wake.poller();
    }
}

/// Believes a `complete_in` once its commit can be seen; without one the attempt has failed.
async fn confirm(shared: &Shared, store: &Store, holdings: &Holdings, mut finished: Finished) {
    let mut backoff = Backoff::new("finisher");
    let lease = finished.attempt.lease;
    let committed = loop {
        match answer(store, &shared.config, store.has_completed(lease)).await {
            Ok(committed) => break committed,
            Err(error) => tokio::time::sleep(backoff.failed(&error)).await,
        }
    };
    if committed {
        tell(shared, std::slice::from_ref(&finished), &[Settled::Now(State::Completed)]);
        forget(shared, holdings, std::slice::from_ref(&finished));
        return;
    }
    if matches!(finished.report.ending, Ending::Completed(_)) {
        finished.report.ending =
            Ending::Error("called `complete_in`, returned `Ok` and did not commit the transaction".to_owned());
        finished.report.on_success.clear();
    }
    settle(shared, store, holdings, vec![finished]).await;
}

/// Events, waiters, and lanes that are due again.
fn tell(shared: &Shared, finished: &[Finished], settled: &[Settled]) {
    for (finished, settled) in std::iter::zip(finished, settled) {
        let (report, claimed) = (&finished.report, &finished.attempt.claimed);
        let (id, key, attempt) = (claimed.id, claimed.key.as_str(), claimed.attempt);
        match settled {
            Settled::Now(State::Completed) => {
                tracing::debug!(name: "orchestratum.complete", %id, key, attempt, "completed");
            }
            Settled::Now(State::Failed) => {
                tracing::error!(name: "orchestratum.fail", %id, key, attempt, ending = ?report.ending, "failed for good");
            }
            Settled::Now(State::Canceled) => {
                tracing::info!(name: "orchestratum.cancel", %id, key, attempt, "canceled");
            }
            Settled::Now(_) => {
                let snoozed = matches!(report.ending, Ending::Snoozed(_) | Ending::GivenBack);
                let delay = match report.ending {
                    Ending::RetryAfter(delay, _) | Ending::Snoozed(delay) => delay,
                    Ending::GivenBack | Ending::LostLease => std::time::Duration::ZERO,
                    _ => report.retry_delay,
                };
                if snoozed {
                    tracing::debug!(name: "orchestratum.snooze", %id, key, attempt, ?delay, "runs again later");
                } else {
                    tracing::warn!(name: "orchestratum.retry", %id, key, attempt, ?delay, ending = ?report.ending, "will be retried");
                }
                let lane = Lane { queue: claimed.queue.clone(), key: claimed.key.clone(), priority: claimed.priority };
                shared.wake.lane(lane, delay);
            }
            Settled::LeaseLost => {
                tracing::warn!(name: "orchestratum.lease.lost", %id, key, attempt, "the lease was gone; nothing was written");
            }
        }
        for follow_up in &report.on_success {
            let lane =
                Lane { queue: follow_up.queue.clone(), key: follow_up.key.clone(), priority: follow_up.priority };
            shared.wake.lane(lane, std::time::Duration::ZERO);
        }
        if claimed.follow_ups.is_some() {
            shared.wake.survey();
        }
    }
    let ended =
        std::iter::zip(finished, settled).filter(|(_, settled)| !matches!(settled, Settled::Now(s) if !s.has_ended()));
    shared.wake.ended(ended.map(|(finished, _)| finished.attempt.lease.id));
}
