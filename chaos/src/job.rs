//! What the commands do: one executor for each way to behave, good or bad.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use orchestratum_core::{Builder, Context, Orchestrator, RetryPolicy, Verdict};
use sea_orm::ConnectionTrait as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ledger::{self, End, Entry, Ledger, Shape};
use crate::pulse::{Pulse, STREAMED, Streamed};

/// The payload of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// Given once; a follow-up has that of its parent.
    pub(crate) number: u64,
    /// How it, or the parent, was appended.
    pub(crate) shape: Shape,
    /// No handler may begin before, by the monotonic clock that all processes share: when it was asked for, and the
    /// delay.
    pub(crate) not_before: u64,
    /// The number of the first of those that are appended at once.
    pub(crate) batch: Option<u64>,
}

impl Job {
    /// One that is about to be asked for.
    pub(crate) fn new(number: u64, shape: Shape, delay: Duration) -> Self {
        let delay = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        Self { number, shape, not_before: ledger::now().saturating_add(delay), batch: None }
    }

    /// How long it snoozes each time.
    pub(crate) fn snooze(&self) -> Duration {
        self.millis(300)
    }

    /// Spread by the number, so that a seed repeats it.
    fn millis(&self, most: u64) -> Duration {
        Duration::from_millis(self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % most)
    }
}

/// Commands that must end completed, whatever happens.
pub(crate) const GOOD: [&str; 9] = ["quick", "slow", LONG, EFFECT, FLAKY, "panicking", SNOOZING, "blocking", "memory"];
/// Runs for longer than the lease.
pub(crate) const LONG: &str = "long";
/// Completes itself, in a transaction of its own.
pub(crate) const EFFECT: &str = "effect";
/// Returns an error at its first two attempts.
pub(crate) const FLAKY: &str = "flaky";
/// Snoozes at each of its first attempts.
pub(crate) const SNOOZING: &str = "snoozing";
pub(crate) const SNOOZES: u32 = 2;
/// Commands that must end failed.
pub(crate) const BAD: [&str; 2] = [FAILING, STUCK];
/// Returns an error whenever it runs.
pub(crate) const FAILING: &str = "failing";
/// Never ends by itself.
pub(crate) const STUCK: &str = "stuck";
pub(crate) const STUCK_TIMEOUT: Duration = Duration::from_millis(300);
/// Kills its process twice.
pub(crate) const DEADLY: &str = "deadly";
/// Kills its process whenever it runs, and must be parked.
pub(crate) const FATAL: &str = "fatal";
/// What another one appends when it completes.
pub(crate) const AFTER_SUCCESS: &str = "after-success";
/// What another one appends when it fails or is canceled.
pub(crate) const AFTER_FAILURE: &str = "after-failure";

/// Retries of the commands that must complete: their handlers meet every fault of the database as an error of theirs.
pub(crate) const RETRIES: u32 = 50;
/// Retries of those that must fail.
pub(crate) const BAD_RETRIES: u32 = 2;

/// How long a command waits that has failed.
pub(crate) const POLICY: RetryPolicy =
    RetryPolicy::Exponential { first: Duration::from_millis(100), max: Duration::from_secs(2), jitter: 0.1 };

/// What all processes of a run set, producers too: options are taken at the append.
pub(crate) fn builder(url: &str, lease: Duration, keep: Option<Duration>) -> Builder {
    Orchestrator::builder()
        .database(url)
        .lease_duration(lease)
        .default_retry_policy(POLICY)
        .default_retry_count(RETRIES)
        .default_timeout(Duration::from_secs(60))
        .shutdown_grace(Duration::from_secs(2))
        .keep_completed(keep)
        .keep_failed(keep)
}

/// The executors, each of which writes its beginning and its end into the ledger; those of the stream are counted.
pub(crate) fn register(mut builder: Builder, ledger: &Ledger, pulse: &Arc<Pulse>, never_deadly: bool) -> Builder {
    let pulse = Arc::clone(pulse);
    builder = builder.service(ledger.clone()).executor(STREAMED, move |streamed: Streamed, _: Context| {
        let pulse = Arc::clone(&pulse);
        async move {
            pulse.ended(streamed);
            anyhow::Ok(())
        }
    });
    let keys = GOOD.into_iter().chain(BAD).chain([DEADLY, FATAL, AFTER_SUCCESS, AFTER_FAILURE]);
    for key in keys {
        if never_deadly && [DEADLY, FATAL].contains(&key) {
            builder = builder.remote(key);
            continue;
        }
        builder = builder.executor(key, move |job: Job, context: Context| async move {
            let ledger = context.service::<Ledger>()?;
            let Some(id) = context.command_id() else { bail!("a command without an id") };
            let mut execution = Execution { ledger, id: id.as_uuid(), attempt: context.attempt(), end: End::Stopped };
            // The other ends by its timeout alone, which is noted only when a thread is free to drop it.
            let is_deaf = ["blocking", STUCK].contains(&key);
            execution.ledger.note(Entry::Started { id: execution.id, attempt: execution.attempt, is_deaf });
            let mut running = std::pin::pin!(run(key, job, &context));
            let ended = tokio::select! {
                biased;
                ended = &mut running => ended,
                () = context.canceled() => {
                    execution.ledger.note(Entry::Told { id: execution.id, attempt: execution.attempt });
                    running.await
                }
            };
            execution.end = match &ended {
                Ok(()) => End::Succeeded,
                Err(error) if !context.is_canceled() && !error.is::<Verdict>() => End::Failed,
                Err(_) => End::Stopped,
            };
            ended
        });
    }
    builder
}

/// Notes its end when it is dropped: a handler may end in the middle. The engine hears of the end behind that.
struct Execution {
    ledger: Arc<Ledger>,
    id: Uuid,
    attempt: u32,
    end: End,
}

impl Drop for Execution {
    fn drop(&mut self) {
        let end = if std::thread::panicking() { End::Failed } else { self.end };
        self.ledger.note(Entry::Ended { id: self.id, attempt: self.attempt, end });
    }
}

async fn run(key: &str, job: Job, context: &Context) -> Result<()> {
    let millis = |most: u64| job.millis(most);
    match key {
        "slow" => sleep(context, millis(500)).await,
        LONG => sleep(context, Duration::from_secs(6) + millis(2_000)).await,
        EFFECT => effect(job, context).await,
        FLAKY if context.attempt() < 3 => bail!("not yet"),
        "panicking" if context.attempt() < 2 => panic!("as ordered"),
        SNOOZING if context.attempt() <= SNOOZES => Err(Verdict::snooze(job.snooze()).into()),
        "blocking" => {
            std::thread::sleep(millis(1_500));
            Ok(())
        }
        "memory" => {
            let much = vec![1_u8; 16 << 20];
            sleep(context, millis(200)).await?;
            anyhow::ensure!(much.iter().step_by(4_096).all(|byte| *byte == 1), "memory changed");
            Ok(())
        }
        FAILING => bail!("never"),
        STUCK => std::future::pending().await,
        DEADLY if context.attempt() < 3 => std::process::abort(),
        FATAL => std::process::abort(),
        _ => Ok(()),
    }
}

/// Sleeps as a well-behaved handler does: until told to stop.
async fn sleep(context: &Context, time: Duration) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = context.canceled() => bail!("told to stop"),
    }
}

/// Takes effect in the transaction of its completion.
async fn effect(job: Job, context: &Context) -> Result<()> {
    let Some(id) = context.command_id() else { bail!("a command without an id") };
    let transaction = context.orchestrator()?.begin().await?;
    let sql = format!("INSERT INTO chaos_effects (command, number) VALUES ('{id}', {})", job.number);
    transaction.execute_unprepared(&sql).await?;
    context.complete_in(&transaction, ()).await?;
    transaction.commit().await?;
    context.service::<Ledger>()?.note(Entry::Effected { id: id.as_uuid(), attempt: context.attempt() });
    Ok(())
}
