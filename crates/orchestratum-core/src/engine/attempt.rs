//! One attempt, from its claim to its report, as a chain of named steps.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::context::Context;
use crate::engine::held::Holdings;
use crate::engine::slots::Slot;
use crate::engine::{Shared, panic_text, quietly, storable};
use crate::error::Result;
use crate::outcome::Ending;
use crate::resolve::resolve;
use crate::retry::{MAX_RETRY_DELAY, RetryPolicy};
use crate::store::claim::Claimed;
use crate::store::instance::Held;
use crate::store::settle::{Lease, Report};
use crate::verdict::Verdict;

/// An attempt that this process holds.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) lease: Lease,
    pub(crate) claimed: Claimed,
    pub(crate) timeout: Duration,
    pub(crate) token: CancellationToken,
    pub(crate) shared: Arc<Shared>,
    /// Why the token was canceled; the first reason stays.
    stop: AtomicU8,
    /// Whether a report is on its way: the handler's task and the engine's watch may both want to send one.
    reported: AtomicBool,
    /// Whether the finisher is done with the report, one way or the other.
    let_go: AtomicBool,
    /// Whether the application's runtime has ever looked at the task.
    polled: AtomicBool,
    /// Whether the handler has called `complete_in` and been told that it went well.
    completed_in: AtomicBool,
    claimed_at: Instant,
    running: Mutex<Running>,
    holdings: Arc<Holdings>,
    reports: mpsc::UnboundedSender<Finished>,
}

#[derive(Debug, Default)]
struct Running {
    started: Option<Instant>,
    task: Option<AbortHandle>,
}

/// An attempt with its ending, on the way to the finisher.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) attempt: Arc<Attempt>,
    pub(crate) report: Report,
    /// Checked against the database before it is believed: `complete_in` was called, and the commit is the handler's.
    pub(crate) completed_in: bool,
}

impl AsRef<Report> for Finished {
    fn as_ref(&self) -> &Report {
        &self.report
    }
}

/// Why a handler was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stop {
    /// It was not.
    No = 0,
    /// A user canceled the command.
    Cancel = 1,
    /// The worker shuts down and its grace period is over.
    Shutdown = 2,
    /// The lease can no longer be trusted.
    LeaseLost = 3,
}

impl Attempt {
    pub(crate) fn new(
        shared: Arc<Shared>,
        lease: Lease,
        claimed: Claimed,
        holdings: Arc<Holdings>,
        reports: mpsc::UnboundedSender<Finished>,
    ) -> Self {
        Self {
            lease,
            timeout: Duration::from_millis(u64::try_from(claimed.timeout_ms).unwrap_or(0)),
            claimed,
            token: CancellationToken::new(),
            shared,
            stop: AtomicU8::new(Stop::No as u8),
            reported: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
            polled: AtomicBool::new(false),
            completed_in: AtomicBool::new(false),
            claimed_at: Instant::now(),
            running: Mutex::default(),
            holdings,
            reports,
        }
    }

    /// Runs on the application's runtime, in a task of its own.
    pub(crate) async fn run(self: Arc<Self>, slot: Slot, guard: GiveBack) {
        self.polled.store(true, Ordering::Release);
        let Some(_running) = slot.wait(&self).await else {
            return;
        };
        if self.stopped() != Stop::No {
            return;
        }
        let started = Instant::now();
        self.running().started = Some(started);
        let span = tracing::info_span!(
            target: "orchestratum::attempt", "attempt", id = %self.lease.id, key = %self.claimed.lane.key, attempt = self.lease.attempt
        );
        let context = Context::durable(Arc::clone(&self.shared.services), Arc::clone(&self));
        // Whatever the application's code panics in, its future's `drop` and its error's `Display` included.
        let execution = AssertUnwindSafe(self.execute(context).instrument(span)).catch_unwind();
        let ending = execution.await.unwrap_or_else(|panic| Ending::Panicked(storable(&panic_text(&*panic))));
        if ending == Ending::TimedOut {
            // The handler is gone; what it has spawned hears of it.
            self.token.cancel();
        }
        self.finish(ending);
        drop(guard);
    }

    async fn execute(&self, context: Context) -> Ending {
        let Some(executor) = self.shared.registry.get(&self.claimed.lane.key) else {
            return Ending::GivenBack;
        };
        if let Some(damage) = &self.claimed.damage {
            return Ending::Fatal(storable(&format!("its row cannot be read: {damage}")));
        }
        let run = executor.run.clone();
        let payload = Arc::clone(&self.claimed.payload);
        // The call that makes the future may panic as well.
        let handler = AssertUnwindSafe(async move { run(payload, context).await }).catch_unwind();
        match tokio::time::timeout(self.timeout, handler).await {
            Err(_) => Ending::TimedOut,
            Ok(Err(panic)) => Ending::Panicked(storable(&panic_text(&*panic))),
            Ok(Ok(Ok(output))) => match &output {
                Some(output) if output.len() > self.shared.config.payload_limit => Ending::Fatal(format!(
                    "the output has {} bytes of JSON, more than the limit of {}",
                    output.len(),
                    self.shared.config.payload_limit
                )),
                _ => Ending::Completed(output),
            },
            Ok(Ok(Err(error))) => self.read_error(&error),
        }
    }

    /// An error after a stop is the handler's way of stopping; before it, it is a failure or a verdict.
    fn read_error(&self, error: &anyhow::Error) -> Ending {
        match self.stopped() {
            Stop::Cancel => return Ending::Canceled,
            Stop::Shutdown => return Ending::GivenBack,
            Stop::LeaseLost => return Ending::LostLease,
            Stop::No => {}
        }
        let text = storable(&format!("{error:#}"));
        match error.downcast_ref::<Verdict>() {
            Some(Verdict::RetryAfter { after, .. }) => Ending::RetryAfter((*after).min(MAX_RETRY_DELAY), text),
            Some(Verdict::Fail { .. }) => Ending::Fatal(text),
            Some(Verdict::Snooze { after }) => Ending::Snoozed((*after).min(MAX_RETRY_DELAY)),
            None => Ending::Error(text),
        }
    }

    /// Sends the one report of this attempt; a second one is dropped.
    pub(crate) fn finish(self: &Arc<Self>, ending: Ending) {
        if self.reported.load(Ordering::Acquire) {
            return;
        }
        // Before the flag: the application's `on_success` may panic, and then this is not the report.
        let report = match std::panic::catch_unwind(AssertUnwindSafe(|| self.report(ending))) {
            Ok(Ok(report)) => report,
            // A follow-up that cannot be appended would fail again: say so where an operator looks.
            Ok(Err(error)) => self.plain_report(Ending::Fatal(storable(&format!("its follow-ups: {error}")))),
            Err(panic) => self.plain_report(Ending::Panicked(storable(&panic_text(&*panic)))),
        };
        if self.reported.swap(true, Ordering::AcqRel) {
            return;
        }
        let completed_in = self.completed_in.load(Ordering::Acquire);
        self.holdings.reported();
        // The finisher is gone only when the worker is; then the lease expires.
        let _ = self.reports.send(Finished { attempt: Arc::clone(self), report, completed_in });
    }

    /// The report of an ending, with the follow-ups that depend on the output.
    pub(crate) fn report(&self, ending: Ending) -> Result<Report> {
        let executor = self.shared.registry.get(&self.claimed.lane.key);
        let mut on_success = Vec::new();
        if let (Ending::Completed(output), Some(compute)) = (&ending, executor.and_then(|e| e.on_success.as_ref())) {
            let output = output.as_deref().unwrap_or("null");
            let commands =
                compute(&self.claimed.payload, output).map_err(|error| crate::error::Error::InvalidCommand {
                    key: self.claimed.lane.key.clone(),
                    option: "on_success",
                    problem: format!("{error:#}"),
                })?;
            for command in commands {
                on_success.push(resolve(command, &self.shared.config, &self.shared.registry)?);
            }
        }
        Ok(Report { on_success, ..self.plain_report(ending) })
    }

    /// The report of an ending, with the stored follow-ups only.
    pub(crate) fn plain_report(&self, ending: Ending) -> Report {
        let config = &self.shared.config;
        let retry_delay = match ending {
            Ending::Error(_) | Ending::TimedOut | Ending::Panicked(_) => self.retry_delay(),
            Ending::LostLease => config.lease_duration,
            // These end the command, or bring a wait of their own.
            Ending::Completed(_)
            | Ending::RetryAfter(..)
            | Ending::Fatal(_)
            | Ending::Snoozed(_)
            | Ending::GivenBack
            | Ending::Canceled => Duration::ZERO,
        };
        Report {
            lease: self.lease,
            ending,
            retry_count: self.claimed.retry_count,
            max_losses: config.max_lost_leases,
            retry_delay,
            follow_ups: self.claimed.follow_ups.clone(),
            on_success: Vec::new(),
            duration: self.running().started.map(|started| started.elapsed()),
        }
    }

    /// The wait before a retry: the key's own function, or the command's policy, or the orchestrator's.
    fn retry_delay(&self) -> Duration {
        let used = self.claimed.failures;
        let executor = self.shared.registry.get(&self.claimed.lane.key);
        if let Some(delay) = executor.and_then(|executor| executor.retry_delay.as_ref()) {
            // The application's function may panic; then the policy decides.
            if let Ok(delay) = std::panic::catch_unwind(AssertUnwindSafe(|| (delay.0)(used))) {
                return delay.min(MAX_RETRY_DELAY);
            }
        }
        let policy = self.stored_policy();
        policy.as_ref().unwrap_or(&self.shared.config.default_retry_policy).delay(used, fastrand::f64())
    }

    fn stored_policy(&self) -> Option<RetryPolicy> {
        match serde_json::from_str(self.claimed.retry_policy.as_deref()?) {
            Ok(policy) => Some(policy),
            Err(error) => {
                let id = self.lease.id;
                quietly(|| {
                    tracing::error!(
                        target: "orchestratum::retry_policy::unreadable", %id, %error,
                        "its retry policy cannot be read; the default one is taken"
                    );
                });
                None
            }
        }
    }

    /// Tells the handler to stop. The first reason stays, except that a lost lease outweighs all.
    ///
    /// Returns whether this was news.
    pub(crate) fn stop(&self, stop: Stop) -> bool {
        let before = if stop == Stop::LeaseLost {
            self.stop.swap(stop as u8, Ordering::AcqRel)
        } else {
            let first = self.stop.compare_exchange(Stop::No as u8, stop as u8, Ordering::AcqRel, Ordering::Acquire);
            first.unwrap_or_else(|before| before)
        };
        self.token.cancel();
        before == Stop::No as u8
    }

    pub(crate) fn stopped(&self) -> Stop {
        match self.stop.load(Ordering::Acquire) {
            1 => Stop::Cancel,
            2 => Stop::Shutdown,
            3 => Stop::LeaseLost,
            _ => Stop::No,
        }
    }

    /// Whether this is the first time that it is let go of.
    pub(crate) fn let_go(&self) -> bool {
        !self.let_go.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn set_completed_in(&self) {
        self.completed_in.store(true, Ordering::Release);
    }

    /// What the database should lease to this instance on its behalf.
    pub(crate) fn held(&self) -> Held {
        Held { id: self.lease.id, attempt: self.lease.attempt }
    }

    /// Whether nobody has begun to run it for so long that its own patience cannot have been asked.
    pub(crate) fn is_unstarted_for(&self, patience: Duration) -> bool {
        self.claimed_at.elapsed() > patience
            && self.running().started.is_none()
            && !self.reported.load(Ordering::Acquire)
    }

    pub(crate) fn was_polled(&self) -> bool {
        self.polled.load(Ordering::Acquire)
    }

    pub(crate) fn set_task(&self, task: AbortHandle) {
        self.running().task = Some(task);
    }

    /// Ends the attempt from outside: its task is aborted at its next await, and reported as ended now.
    pub(crate) fn abort(self: &Arc<Self>, ending: Ending) {
        self.finish(ending);
        self.token.cancel();
        if let Some(task) = self.running().task.take() {
            task.abort();
        }
    }

    /// Whether the handler is so far past its timeout that its own timer cannot have run: it blocks its thread.
    pub(crate) fn is_stuck(&self, patience: Duration) -> bool {
        let started = self.running().started;
        started.is_some_and(|started| started.elapsed() > self.timeout.saturating_add(patience))
            && !self.reported.load(Ordering::Acquire)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports an attempt as given back when its task ends without a report: aborted, or dropped by a runtime that ends,
/// even before it was polled.
#[derive(Debug)]
pub(crate) struct GiveBack(Arc<Attempt>);

impl GiveBack {
    pub(crate) fn new(attempt: &Arc<Attempt>) -> Self {
        Self(Arc::clone(attempt))
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        let ending = match self.0.stopped() {
            Stop::Cancel => Ending::Canceled,
            // A claim that never started uses up nothing.
            Stop::LeaseLost if self.0.running().started.is_some() => Ending::LostLease,
            Stop::LeaseLost => Ending::GivenBack,
            Stop::No | Stop::Shutdown if std::thread::panicking() => Ending::Panicked("panicked".to_owned()),
            Stop::No | Stop::Shutdown => Ending::GivenBack,
        };
        self.0.finish(ending);
    }
}
