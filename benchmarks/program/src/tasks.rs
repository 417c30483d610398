//! What a program does, one function a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;
use tokio::task::JoinSet;

use crate::ledger;
use crate::talk::{Runner, say};
use crate::{Mode, Options, Payload, Queue, Task};

/// How many commands one call of `append_all` gets when there are many: what the libraries' documents suggest.
const CHUNK: u64 = 5_000;
/// How many tasks append at once.
const TASKS: usize = 64;
/// How many commands a producer at a rate appends in one call.
const BATCH: u64 = 50;
/// A pick-up that takes longer is counted as missing.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pick-ups are sampled no longer than this: a library that polls every few seconds shows it soon enough.
const SAMPLING: Duration = Duration::from_secs(20);

/// The runner has said `stop`, and what is under way may break off.
pub(crate) static LEAVES: AtomicBool = AtomicBool::new(false);

pub(crate) async fn run<Q: Queue>(options: Options) -> Result<()> {
    let worked = matches!(options.task, Task::Work | Task::Pickup);
    let times = options.times.is_some() || options.task == Task::Pickup;
    let pause = Duration::from_millis(options.handler_ms);
    ledger::open(options.n, times, options.finished.is_some(), pause);
    let queue = Q::open(&options).await?;
    let mut runner = Runner::listen();
    if options.task == Task::SetUp {
        queue.set_up().await?;
    }
    runner.ready(Q::VERSION).await;
    match options.task {
        Task::SetUp => {}
        Task::Append => append(&queue, &options).await?,
        Task::Obstruct => queue.obstruct(&options.kind, options.n).await?,
        Task::Purge => {
            let started = Instant::now();
            let purged = queue.purge().await?;
            say(&json!({ "purged": purged, "seconds": started.elapsed().as_secs_f64() }));
        }
        Task::Work => {
            queue.start().await?;
            tokio::spawn(tell_progress());
        }
        Task::Pickup => pickup(&queue, &options).await?,
        Task::Produce => produce(&queue, &options).await?,
    }
    if !worked {
        say(&json!({ "done": true }));
    }
    while runner.next().await == "left" {
        say(&json!({ "left": queue.left().await? }));
    }
    LEAVES.store(true, Ordering::Relaxed);
    if worked {
        queue.stop().await?;
    }
    ledger::save(options.ledger.as_deref(), options.times.as_deref(), options.finished.as_deref())
}

async fn append<Q: Queue>(queue: &Q, options: &Options) -> Result<()> {
    let (from, to) = (options.from, options.n);
    let started = Instant::now();
    match options.mode {
        Mode::One => {
            for i in from..to {
                queue.append(Payload::new(i)).await?;
            }
        }
        Mode::Within => {
            for i in from..to {
                queue.append_within(Payload::new(i)).await?;
            }
        }
        Mode::Tasks => {
            let next = Arc::new(AtomicU64::new(from));
            let mut tasks = JoinSet::new();
            for _ in 0..TASKS {
                let (queue, next) = (queue.clone(), Arc::clone(&next));
                tasks.spawn(async move {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= to {
                            return Ok::<_, anyhow::Error>(());
                        }
                        queue.append(Payload::new(i)).await?;
                    }
                });
            }
            while let Some(ended) = tasks.join_next().await {
                ended??;
            }
        }
        Mode::All => {
            let mut start = from;
            while start < to {
                let end = to.min(start + CHUNK);
                queue.append_all((start..end).map(Payload::new).collect()).await?;
                start = end;
            }
        }
    }
    say(&json!({ "appended": to - from, "seconds": started.elapsed().as_secs_f64() }));
    Ok(())
}

/// Says how many handlers have run, whenever it has changed.
async fn tell_progress() {
    let mut told = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let total = ledger::total();
        if total != told {
            told = total;
            say(&json!({ "ran": total }));
        }
    }
}

async fn pickup<Q: Queue>(queue: &Q, options: &Options) -> Result<()> {
    queue.start().await?;
    // Whatever the library does when it starts is over.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut latencies, mut missing, begun) = (Vec::new(), 0_u64, Instant::now());
    for i in (0..options.n).take_while(|_| begun.elapsed() < SAMPLING) {
        let before = ledger::now();
        queue.append(Payload::new(i)).await?;
        let appended = Instant::now();
        while ledger::time_of(i) == 0 && appended.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        match ledger::time_of(i) {
            0 => missing += 1,
            started => latencies.push(started.saturating_sub(before)),
        }
        tokio::time::sleep(Duration::from_millis(options.gap_ms)).await;
    }
    say(&json!({ "latencies_ns": latencies, "missing": missing }));
    Ok(())
}

/// Appends at a rate in small batches, noting when each was due, also when this process was late; or one by one with
/// gaps, noting when each call began.
async fn produce<Q: Queue>(queue: &Q, options: &Options) -> Result<()> {
    if options.rate == 0 {
        for i in options.from..options.n {
            ledger::appended(i, ledger::now());
            queue.append(Payload::new(i)).await?;
            tokio::time::sleep(Duration::from_millis(options.gap_ms)).await;
        }
        return Ok(());
    }
    let (started, clock) = (tokio::time::Instant::now(), ledger::now());
    let mut tasks = JoinSet::new();
    let mut next = options.from;
    while next < options.n {
        let end = options.n.min(next + BATCH);
        let due = Duration::from_secs_f64(lossy(end - options.from) / lossy(options.rate));
        tokio::time::sleep_until(started + due).await;
        let due = clock + u64::try_from(due.as_nanos())?;
        let (queue, batch) = (queue.clone(), next..end);
        next = end;
        tasks.spawn(async move {
            batch.clone().for_each(|i| ledger::appended(i, due));
            queue.append_all(batch.map(Payload::new).collect()).await
        });
        while let Some(ended) = tasks.try_join_next() {
            ended??;
        }
        if tasks.len() as u64 * BATCH > options.rate.max(10_000) {
            bail!("the appends of more than a second are under way: {} a second is too many", options.rate);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts of a benchmark")]
fn lossy(count: u64) -> f64 {
    count as f64
}
