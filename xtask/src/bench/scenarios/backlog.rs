//! The rate while much stands in the way.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Figure, Plan, Subject};
use crate::bench::measurement::{lossy, median};
use crate::bench::process::Process;

/// Not counted: plans and caches warm up.
const WARM_UP: u64 = 20_000;
/// Stretches that are measured, one after the other; the middle one counts. Each lasts for two seconds, in which a
/// vacuum or the writing of dirty pages can take a third.
const STRETCHES: u64 = 3;

pub(super) fn measure(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let (million, counted) = if plan.quick { (100_000, 30_000) } else { (1_000_000, 100_000) };
    let cases = [
        ("10,000 waiting", "", 0, 10_000),
        ("1 million waiting", "", 0, million),
        ("5 million waiting", "", 0, 5 * million),
        ("5 million ended", "ended", 5 * million, 10_000),
        ("1 million scheduled", "scheduled", million, 10_000),
        ("1 million of an unknown key", "unknown", million, 10_000),
    ];
    let mut figures = Vec::new();
    for (case, kind, obstructions, waiting) in cases {
        let fresh = subject.set_up()?;
        if obstructions > 0 {
            subject.perform(&fresh, "obstruct", &[("kind", kind.to_owned()), ("n", obstructions.to_string())])?;
        }
        let n = WARM_UP + STRETCHES * counted + waiting;
        subject.fill(&fresh, 0, n)?;
        let mut worker = subject.start(&fresh, "work", &[("n", n.to_string())])?;
        worker.tell("go")?;
        let mut rates = Vec::new();
        let mut begun = wait(&mut worker, WARM_UP)?;
        for stretch in 1..=STRETCHES {
            let ended = wait(&mut worker, WARM_UP + stretch * counted)?;
            rates.push(lossy(ended.1 - begun.1) / (ended.0 - begun.0).as_secs_f64());
            begun = ended;
        }
        let rate = median(&rates);
        let memory = worker.peak_rss_mib();
        worker.stop()?;
        figures.push(Figure::new(case, "jobs_per_s", rate, counted));
        figures.push(Figure::new(case, "peak_rss_mib", memory, counted));
    }
    Ok(figures)
}

/// When at least so many have run, and how many they were.
fn wait(worker: &mut Process, count: u64) -> Result<(Instant, u64)> {
    let started = Instant::now();
    loop {
        if let Some(ran) = worker.progress()?
            && ran >= count
        {
            return Ok((Instant::now(), ran));
        }
        if started.elapsed() > Duration::from_secs(120) {
            bail!("fewer than {count} commands ran within two minutes");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}
