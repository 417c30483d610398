//! The finisher: writes endings to the database, as many at a time as have gathered meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

use crate::appender::announce;
use crate::engine::attempt::{Attempt, Finished};
use crate::engine::backoff::Backoff;
use crate::engine::held::Holdings;
use crate::engine::wake::PollerWake;
use crate::engine::{Shared, answer, guarded, is_about_the_batch, quietly, storable, tell_of_end};
use crate::error::{Error, Result};
use crate::outcome::Ending;
use crate::state::State;
use crate::store::settle::{Report, Settled, follow_ups};
use crate::store::{Store, together};

/// The settling loop.
#[derive(Debug)]
pub(crate) struct Finisher {
    pub(crate) reports: mpsc::UnboundedReceiver<Finished>,
    pub(crate) settler: Settler,
}

/// What it takes to settle an attempt.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) holdings: Arc<Holdings>,
    /// The poller that waits when too much is unsettled.
    pub(crate) wake: Arc<PollerWake>,
    /// Shared by the transactions under way: one outage is told once.
    pub(crate) backoff: Arc<Mutex<Backoff>>,
}

/// The most endings in one transaction. While one is under way the next gather, so that batches grow with the load and
/// a lone ending waits for nothing.
const MAX_BATCH: usize = 2_000;

/// The most endings in one transaction that are decided one by one, at a few statements each: a transaction stays far
/// below the time that an answer may take.
const MAX_DECISIONS: usize = 100;

/// How many endings must have gathered before they are settled beside a transaction that is under way: a commit waits
/// for the disk, and the database can work meanwhile, but small transactions cost more than they gain.
const WORTH_A_SECOND: usize = 200;

impl Finisher {
    /// Runs until every attempt has reported and been settled. No error ends it.
    pub(crate) async fn run(mut self) {
        let at_once = self.settler.store.backend.transactions_at_once();
        let mut under_way = FuturesUnordered::new();
        let mut gathered = Vec::with_capacity(MAX_BATCH);
        let mut open = true;
        while open || !under_way.is_empty() {
            tokio::select! {
                Some(()) = under_way.next() => {}
                count = self.reports.recv_many(&mut gathered, MAX_BATCH), if open && gathered.len() < MAX_BATCH => {
                    open = count > 0;
                }
            }
            let worth_it = match under_way.len() {
                0 => !gathered.is_empty(),
                busy => busy < at_once && gathered.len() >= WORTH_A_SECOND,
            };
            if worth_it {
                let rest = gathered.split_off(together(&gathered, MAX_BATCH, |finished| finished.report.weight()));
                under_way.push(self.settler.clone().settle_batch(std::mem::replace(&mut gathered, rest)));
            }
        }
    }
}

impl Settler {
    async fn settle_batch(self, finished: Vec<Finished>) {
        let attempts: Vec<Arc<Attempt>> = finished.iter().map(|finished| Arc::clone(&finished.attempt)).collect();
        if let Err(error) = Box::pin(guarded(self.settle_all(finished))).await {
            self.lose(&attempts, &error);
        }
    }

    async fn settle_all(&self, finished: Vec<Finished>) -> Result<()> {
        let (in_own_transaction, finished): (Vec<_>, Vec<_>) =
            finished.into_iter().partition(|finished| finished.completed_in);
        for finished in in_own_transaction {
            // In a task of its own: a transaction that a handler forgot may still hold the row.
            self.spawn(Arc::clone(&finished.attempt), self.clone().confirm(finished));
        }
        let (completed, mut others): (Vec<_>, Vec<_>) =
            finished.into_iter().partition(|finished| matches!(finished.report.ending, Ending::Completed(_)));
        self.settle(completed).await;
        while !others.is_empty() {
            let rest = others.split_off(others.len().min(MAX_DECISIONS));
            self.settle(std::mem::replace(&mut others, rest)).await;
        }
        Ok(())
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, attempt: Arc<Attempt>, settling: impl Future<Output = ()> + Send + 'static) {
        let settler = self.clone();
        let settling = async {
            settling.await;
            Ok(())
        };
        tokio::spawn(async move {
            if let Err(error) = guarded(settling).await {
                settler.lose(&[attempt], &error);
            }
        });
    }

    /// After a panic nobody knows which of these were settled. Those that are still held are let go of, so that they
    /// are found as leased and not held.
    fn lose(&self, attempts: &[Arc<Attempt>], error: &Error) {
        let count = self.let_go(attempts.iter());
        if count > 0 {
            self.holdings.doubt();
            self.wake.notify();
            quietly(|| {
                tracing::error!(
                    target: "orchestratum::settle::lost", count, %error, "endings were lost to a panic; their commands run again"
                );
            });
        }
    }

    /// Settles a batch. One that the database refuses, or that waits for somebody's lock, is halved until the bad one
    /// is alone; that one is settled in a task of its own, so that the others do not wait for it.
    async fn settle(&self, mut finished: Vec<Finished>) {
        while !finished.is_empty() {
            let Err(error) = self.settle_once(&finished).await else { return self.backoff().succeeded() };
            if !is_about_the_batch(&error) {
                let wait = self.backoff().failed(&error);
                tokio::time::sleep(wait).await;
            } else if finished.len() > 1 {
                let half = finished.split_off(finished.len() / 2);
                Box::pin(self.settle(half)).await;
            } else if let Some(alone) = finished.pop() {
                self.spawn(Arc::clone(&alone.attempt), self.clone().settle_alone(alone));
            }
        }
    }

    async fn settle_once(&self, finished: &[Finished]) -> Result<()> {
        let settled = answer(&self.store, &self.shared.config, self.store.settle(finished)).await?;
        // Whatever telling runs into, these are settled.
        self.forget(finished);
        self.tell(finished, &settled);
        Ok(())
    }

    /// Settles one attempt however long it takes. An ending that the database refuses is told as a failure, if that is
    /// refused as one without follow-ups; and what no ending can be written for is given back as if nobody held it.
    async fn settle_alone(self, mut finished: Finished) {
        let mut backoff = Backoff::new("finisher");
        let mut refusals = 0;
        loop {
            match self.settle_once(std::slice::from_ref(&finished)).await {
                Ok(()) => return backoff.succeeded(),
                Err(error) if error.is_refusal() => {
                    let id = finished.attempt.lease.id;
                    tracing::error!(
                        target: "orchestratum::settle::refused", %id, %error, "the end of an attempt cannot be stored"
                    );
                    refusals += 1;
                    match refusals {
                        1 => {
                            let reason = format!("its end cannot be stored: {error}");
                            finished.report.ending = Ending::Fatal(storable(&reason));
                            finished.report.on_success.clear();
                        }
                        // Those for a failure, which somebody has changed by hand.
                        2 => finished.report.follow_ups = None,
                        _ => {
                            self.forget(std::slice::from_ref(&finished));
                            return self.holdings.doubt();
                        }
                    }
                }
                Err(error) => tokio::time::sleep(backoff.failed(&error)).await,
            }
        }
    }

    /// Believes a `complete_in` once its commit can be seen; without one the attempt has failed.
    async fn confirm(self, mut finished: Finished) {
        let mut backoff = Backoff::new("finisher");
        let lease = finished.attempt.lease;
        let committed = loop {
            match answer(&self.store, &self.shared.config, self.store.has_completed(lease)).await {
                Ok(committed) => {
                    backoff.succeeded();
                    break committed;
                }
                Err(error) => tokio::time::sleep(backoff.failed(&error)).await,
            }
        };
        if committed {
            if !matches!(finished.report.ending, Ending::Completed(_)) {
                let (id, ending) = (lease.id, &finished.report.ending);
                tracing::warn!(target: "orchestratum::complete::late", %id, ?ending, "completed by its own transaction, whatever its handler said afterwards");
            }
            self.forget(std::slice::from_ref(&finished));
            return self.tell(std::slice::from_ref(&finished), &[Settled::Now(State::Completed)]);
        }
        if matches!(finished.report.ending, Ending::Completed(_)) {
            let error = "called `complete_in`, returned `Ok` and did not commit the transaction".to_owned();
            let duration = finished.report.duration;
            finished.report = Report { duration, ..finished.attempt.plain_report(Ending::Error(error)) };
        }
        self.settle_alone(finished).await;
    }

    /// Lets go of attempts, each once, and lets the poller go on if it waited for that.
    fn let_go<'a>(&self, attempts: impl Iterator<Item = &'a Arc<Attempt>>) -> usize {
        let (count, before) = self.holdings.let_go(attempts);
        if before > self.shared.config.most_unsettled() {
            self.wake.notify();
        }
        count
    }

    fn forget(&self, finished: &[Finished]) {
        self.let_go(finished.iter().map(|finished| &finished.attempt));
    }

    /// Events, waiters, and lanes that are due again.
    fn tell(&self, finished: &[Finished], settled: &[Settled]) {
        for (finished, settled) in std::iter::zip(finished, settled) {
            self.tell_one(finished, *settled);
        }
        let reports: Vec<&Report> = finished.iter().map(AsRef::as_ref).collect();
        let appended = follow_ups(&reports, settled);
        announce(&self.shared.wake, &appended);
        self.shared.notifier.announce(&appended);
        let is_live = |settled: &Settled| matches!(settled, Settled::Now(state) if !state.has_ended());
        let ended = std::iter::zip(finished, settled).filter(|(_, settled)| !is_live(settled));
        self.shared.wake.ended(ended.map(|(finished, _)| finished.attempt.lease.id));
    }

    fn tell_one(&self, finished: &Finished, settled: Settled) {
        let (report, claimed) = (&finished.report, &finished.attempt.claimed);
        let (id, key, attempt) = (claimed.id, claimed.lane.key.as_str(), claimed.attempt);
        match settled {
            Settled::Now(state) if state.has_ended() => tell_of_end(report.lease, key, state, &report.ending),
            Settled::Now(_) => {
                let (delay, snoozed) = match report.ending {
                    Ending::RetryAfter(delay, _) => (delay, false),
                    Ending::Snoozed(delay) => (delay, true),
                    Ending::GivenBack => (Duration::ZERO, true),
                    Ending::LostLease => (Duration::ZERO, false),
                    _ => (report.retry_delay, false),
                };
                if snoozed {
                    tracing::debug!(target: "orchestratum::snooze", %id, key, attempt, ?delay, "runs again later");
                } else {
                    tracing::warn!(
                        target: "orchestratum::retry", %id, key, attempt, ?delay, ending = ?report.ending, "will be retried"
                    );
                }
                self.shared.wake.lane(&claimed.lane, delay);
            }
            Settled::LeaseLost => {
                tracing::warn!(
                    target: "orchestratum::lease::lost", %id, key, attempt, "the lease was gone; nothing was written"
                );
            }
        }
    }
}
