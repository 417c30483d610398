//! The rate while much stands in the way.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Figure, Plan, Subject};
use crate::bench::measurement::{lossy, median};
use crate::bench::process::{Process, counts};

/// Not counted: plans and caches warm up.
const WARM_UP: u64 = 20_000;
/// Stretches that are measured, one after the other; the middle one counts. Each lasts for two seconds, in which a
/// vacuum or the writing of dirty pages can take a third.
const STRETCHES: u64 = 3;
/// With nothing in the way.
const UNDISTURBED: &str = "10,000 waiting";

/// What stands in the way, and how many commands wait behind those that are counted.
struct Obstacle {
    kind: &'static str,
    count: u64,
    waiting: u64,
}

/// Each case has a run without it right before: the speed of a machine drifts by a third within minutes.
pub(super) fn measure(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let (million, counted) = if plan.quick { (100_000, 30_000) } else { (1_000_000, 100_000) };
    let nothing = Obstacle { kind: "", count: 0, waiting: 10_000 };
    let cases = [
        ("1 million waiting", Obstacle { waiting: million, ..nothing }),
        ("5 million waiting", Obstacle { waiting: 5 * million, ..nothing }),
        ("5 million ended", Obstacle { kind: "ended", count: 5 * million, ..nothing }),
        ("1 million scheduled", Obstacle { kind: "scheduled", count: million, ..nothing }),
        ("1 million of an unknown key", Obstacle { kind: "unknown", count: million, ..nothing }),
    ];
    let (mut figures, mut undisturbed) = (Vec::new(), Vec::new());
    for (case, obstacle) in cases {
        let (before, memory) = rate(subject, &nothing, counted)?;
        undisturbed.push((before, memory));
        let (rate, memory) = rate(subject, &obstacle, counted)?;
        figures.push(Figure::new(case, "jobs_per_s", rate, counted));
        figures.push(Figure::new(case, "share_of_undisturbed", rate / before, counted));
        figures.push(Figure::new(case, "peak_rss_mib", memory, counted));
    }
    let (rates, memories): (Vec<f64>, Vec<f64>) = undisturbed.into_iter().unzip();
    figures.push(Figure::new(UNDISTURBED, "jobs_per_s", median(&rates), counted));
    figures.push(Figure::new(UNDISTURBED, "peak_rss_mib", memories.into_iter().fold(0.0, f64::max), counted));
    Ok(figures)
}

/// Commands a second, and the most memory that the worker held, in MiB.
fn rate(subject: &Subject<'_>, obstacle: &Obstacle, counted: u64) -> Result<(f64, f64)> {
    let fresh = subject.set_up()?;
    if obstacle.count > 0 {
        let options = [("kind", obstacle.kind.to_owned()), ("n", obstacle.count.to_string())];
        subject.perform(&fresh, "obstruct", &options)?;
    }
    let n = WARM_UP + STRETCHES * counted + obstacle.waiting;
    subject.fill(&fresh, 0, n)?;
    let ledger = subject.database.file("ledger");
    let options = [("n", n.to_string()), ("ledger", ledger.display().to_string())];
    let mut worker = subject.start(&fresh, "work", &options)?;
    worker.tell("go")?;
    let mut rates = Vec::new();
    let mut begun = wait(&mut worker, WARM_UP)?;
    for stretch in 1..=STRETCHES {
        let ended = wait(&mut worker, WARM_UP + stretch * counted)?;
        rates.push(lossy(ended.1 - begun.1) / (ended.0 - begun.0).as_secs_f64());
        begun = ended;
    }
    let memory = worker.peak_rss_mib();
    worker.stop()?;
    let again = counts(&[ledger], n)?.iter().filter(|count| **count > 1).count();
    ensure!(again == 0, "{again} commands ran more than once");
    Ok((median(&rates), memory))
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
