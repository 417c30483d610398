//! A worker whose handlers wait, and a worker that has nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Figure, Plan, Subject};
use crate::bench::measurement::lossy;
use crate::bench::process::counts;

/// A thousand commands that each await two seconds.
pub(super) fn long(subject: &Subject<'_>) -> Result<Vec<Figure>> {
    const N: u64 = 1_000;
    let fresh = subject.set_up()?;
    subject.fill(&fresh, 0, N)?;
    let ledger = subject.database.file("ledger");
    let options = [("n", N.to_string()), ("handler-ms", "2000".to_owned()), ("ledger", ledger.display().to_string())];
    let mut worker = subject.start(&fresh, "work", &options)?;
    let (before, cpu) = (subject.database.counters(&fresh)?, worker.cpu_us());
    let started = Instant::now();
    worker.tell("go")?;
    let mut connections: f64 = 0.0;
    // What is asked of the database here would count as the worker's.
    let mut ran = 0;
    while ran < N || worker.left()? > 0 {
        ran = worker.progress()?.unwrap_or(ran);
        connections = connections.max(subject.database.connections(&fresh)?.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(100));
        if started.elapsed() > Duration::from_secs(300) {
            bail!("a thousand commands of two seconds are not done after 300 s");
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let spent = subject.database.counters(&fresh)?.since(&before);
    let (memory, cpu) = (worker.peak_rss_mib(), worker.cpu_us() - cpu);
    worker.stop()?;
    let wrong = counts(&[ledger], N)?.iter().filter(|count| **count != 1).count() as u64;
    let figure = |metric, value| Figure::new("2 s each", metric, value, N);
    let mut figures = vec![
        figure("jobs_per_s", lossy(N) / seconds),
        figure("wrong", lossy(wrong)),
        figure("cpu_us_per_command", lossy(cpu) / lossy(N)),
        figure("peak_rss_mib", memory),
    ];
    figures.extend(spent.statements.map(|count| figure("statements_per_command", count / lossy(N))));
    figures.extend(spent.wal_bytes.map(|bytes| figure("wal_bytes_per_command", bytes / lossy(N))));
    if connections > 0.0 {
        figures.push(figure("connections", connections));
    }
    Ok(figures)
}

/// Statements and processor time of a worker with an empty table.
pub(super) fn idle(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let fresh = subject.set_up()?;
    let mut worker = subject.start(&fresh, "work", &[])?;
    worker.tell("go")?;
    std::thread::sleep(Duration::from_secs(3));
    let (before, cpu) = (subject.database.counters(&fresh)?, worker.cpu_us());
    std::thread::sleep(plan.hold);
    let (after, cpu) = (subject.database.counters(&fresh)?.since(&before), worker.cpu_us() - cpu);
    let memory = worker.peak_rss_mib();
    worker.stop()?;
    let per_min = 60.0 / plan.hold.as_secs_f64();
    let figure = |metric, value| Figure::new("idle", metric, value, 0);
    let mut figures = vec![figure("cpu_us_per_min", lossy(cpu) * per_min), figure("peak_rss_mib", memory)];
    figures.extend(after.statements.map(|count| figure("statements_per_min", count * per_min)));
    Ok(figures)
}
