//! Waiting commands, until the database shows every one of them done.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Figure, Plan, Subject};
use crate::bench::database::{Counters, Fresh};
use crate::bench::measurement::lossy;
use crate::bench::process::{Process, counts};

/// A worker that has run nothing for so long will not.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn measure(subject: &Subject<'_>, plan: Plan, run: u32) -> Result<Vec<Figure>> {
    let rate = estimate(subject)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of commands")]
    let n = ((rate * plan.drain.as_secs_f64()) as u64).clamp(10, 2_000_000);
    let mut figures = Vec::new();
    let ours = subject.program.name == "orchestratum";
    // More processes are looked at once: of peers, whether the better settings are even better in two.
    let more: &[usize] = match subject.variant {
        _ if run > 1 || plan.quick => &[1],
        "tuned" if ours => &[1, 2, 4],
        "tuned" if subject.program.shares() => &[1, 2],
        _ => &[1],
    };
    for processes in more {
        let fresh = subject.set_up()?;
        subject.fill(&fresh, 0, n)?;
        let mut drained = drain(subject, &fresh, 0..n, *processes)?;
        let purged = if ours && *processes == 1 { Some(subject.perform(&fresh, "purge", &[])?) } else { None };
        let case = if *processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") };
        if let Some(said) = &purged {
            // What has ended otherwise than completed is not among them.
            drained.wrong = drained.wrong.max(n.abs_diff(said["purged"].as_u64().unwrap_or_default()));
        }
        figures.extend(drained.figures(&case));
        if let Some(seconds) = purged.and_then(|said| said["seconds"].as_f64()) {
            // What is kept for a day is removed one day: as fast as this, if nothing was ever waited for.
            figures.push(Figure::new(case, "jobs_per_s_purged", lossy(n) / (drained.seconds + seconds), n));
        }
    }
    Ok(figures)
}

/// Of fewer the start of the program is a part of what each costs.
const ENOUGH_TO_SHARE: u64 = 1_000;

/// How fast it is, roughly, so that a drain lasts as long for a slow program as for a fast one.
pub(super) fn estimate(subject: &Subject<'_>) -> Result<f64> {
    const PROBE: u64 = 20_000;
    let fresh = subject.set_up()?;
    subject.fill(&fresh, 0, PROBE)?;
    let mut worker = subject.start(&fresh, "work", &[("n", PROBE.to_string())])?;
    worker.tell("go")?;
    let (started, mut ran) = (Instant::now(), 0);
    while ran < PROBE && started.elapsed() < Duration::from_secs(4) {
        ran = worker.progress()?.unwrap_or(ran);
        std::thread::sleep(Duration::from_millis(1));
    }
    let seconds = started.elapsed().as_secs_f64();
    worker.stop()?;
    Ok(lossy(ran) / seconds)
}

/// What a drain gave.
pub(super) struct Drained {
    pub(super) n: u64,
    pub(super) seconds: f64,
    /// Commands that did not run exactly once.
    pub(super) wrong: u64,
    counters: Counters,
    cpu_us: u64,
    peak_rss_mib: f64,
}

/// Runs workers until all commands are done and the database says so.
pub(super) fn drain(subject: &Subject<'_>, fresh: &Fresh, commands: Range<u64>, processes: usize) -> Result<Drained> {
    let n = commands.end - commands.start;
    let ledgers: Vec<_> = (0..processes).map(|index| subject.database.file(&format!("ledger-{index}"))).collect();
    let mut workers = Vec::new();
    for ledger in &ledgers {
        let options = [("n", commands.end.to_string()), ("ledger", ledger.display().to_string())];
        workers.push(subject.start(fresh, "work", &options)?);
    }
    let cpu = |workers: &[Process]| workers.iter().map(Process::cpu_us).sum::<u64>();
    let (before, cpu_before, started) = (subject.database.counters(fresh)?, cpu(&workers), Instant::now());
    for worker in &mut workers {
        worker.tell("go")?;
    }
    wait_until_run(&mut workers, n)?;
    // The last ones are settled by now, or the database would be asked in vain, which takes it long beside many dead rows.
    std::thread::sleep(Duration::from_millis(10));
    let seconds = loop {
        // What the answer shows was so when it was asked for.
        let seconds = started.elapsed().as_secs_f64();
        if workers[0].left()? == 0 {
            break seconds;
        }
        if started.elapsed() > Duration::from_secs(300) {
            bail!("after 300 s some commands are not done");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let cpu_us = cpu(&workers) - cpu_before;
    let peak_rss_mib = workers.iter().map(Process::peak_rss_mib).fold(0.0, f64::max);
    let mut after = subject.database.counters(fresh)?;
    // Commits are told late; the few of an idle second do not matter.
    std::thread::sleep(Duration::from_millis(1_200));
    after.commits = subject.database.counters(fresh)?.commits;
    for worker in workers {
        worker.stop()?;
    }
    let counts = counts(&ledgers, commands.end)?;
    let wrong = counts.iter().skip(usize::try_from(commands.start)?).filter(|count| **count != 1).count() as u64;
    Ok(Drained { n, seconds, wrong, counters: after.since(&before), cpu_us, peak_rss_mib })
}

/// Waits until so many handlers have run in all workers together.
fn wait_until_run(workers: &mut [Process], n: u64) -> Result<()> {
    let mut ran = vec![0; workers.len()];
    let mut heard = Instant::now();
    while ran.iter().sum::<u64>() < n {
        for (ran, worker) in std::iter::zip(&mut ran, &mut *workers) {
            if let Some(told) = worker.progress()? {
                *ran = told;
                heard = Instant::now();
            }
        }
        if heard.elapsed() > PATIENCE {
            bail!("{} of {n} commands ran, and then none for {PATIENCE:?}", ran.iter().sum::<u64>());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl Drained {
    pub(super) fn rate(&self) -> f64 {
        lossy(self.n) / self.seconds
    }

    pub(super) fn figures(&self, case: &str) -> Vec<Figure> {
        let figure = |metric, value| Figure::new(case, metric, value, self.n);
        let each = |metric, value: Option<f64>| {
            value.filter(|_| self.n >= ENOUGH_TO_SHARE).map(|value| figure(metric, value / lossy(self.n)))
        };
        let mut figures = vec![
            figure("jobs_per_s", self.rate()),
            figure("wrong", lossy(self.wrong)),
            figure("peak_rss_mib", self.peak_rss_mib),
        ];
        figures.extend(each("cpu_us_per_command", Some(lossy(self.cpu_us))));
        figures.extend(each("server_cpu_us_per_command", self.counters.cpu_us));
        figures.extend(each("wal_bytes_per_command", self.counters.wal_bytes));
        figures.extend(each("commits_per_command", self.counters.commits));
        figures.extend(each("statements_per_command", self.counters.statements));
        figures
    }
}
