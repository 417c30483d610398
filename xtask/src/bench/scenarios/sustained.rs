//! Appends and completions at the same time.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Figure, Plan, Subject};
use crate::bench::kernel::WritesEarly;
use crate::bench::measurement::{lossy, quantile};
use crate::bench::process::{counts, times};
use crate::bench::programs::is_judged;

/// What may be left at any moment, and when the last append has returned: a quarter of a second's commands.
const FLAT: f64 = 0.25;
const HALF: &str = "50 % of the flat rate";
const MOST: &str = "80 % of the flat rate";
/// The same, where the kernel does not let half a minute of writes gather.
const MOST_WRITTEN_EARLY: &str = "80 % of the flat rate, kernel writes early";
/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn measure(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let mut flat = highest_flat_rate(subject, plan)?;
    // Peers do not say when something is durably done.
    if !is_judged(subject.program.name) || flat == 0 {
        return Ok(vec![Figure::new("flat rate", "jobs_per_s", lossy(flat), 0)]);
    }
    // A rate of which four fifths cannot be held for a minute was not one that stays flat.
    let most = loop {
        match hold(subject, flat * 80 / 100, plan.hold, MOST) {
            Err(_) if flat > 1_000 => flat = flat * 9 / 10,
            most => break most?,
        }
    };
    let mut figures = vec![Figure::new("flat rate", "jobs_per_s", lossy(flat), 0)];
    figures.extend(hold(subject, flat / 2, plan.hold, HALF)?);
    figures.extend(most);
    if plan.kernel_writes_early {
        let _until_then = WritesEarly::begin().context("vm.dirty_background_bytes is not ours to set")?;
        figures.extend(hold(subject, flat * 80 / 100, plan.hold, MOST_WRITTEN_EARLY)?);
    }
    Ok(figures)
}

/// Doubles until the backlog grows, then halves the distance four times, then asks for less until it stays flat for
/// longer: a checkpoint comes every now and then.
fn highest_flat_rate(subject: &Subject<'_>, plan: Plan) -> Result<u64> {
    let seconds = if plan.quick { 2 } else { 5 };
    let (mut flat, mut steep) = (0, 500);
    while is_flat(subject, steep, seconds)? {
        (flat, steep) = (steep, steep * 2);
    }
    for _ in 0..4 {
        let rate = u64::midpoint(flat, steep);
        if is_flat(subject, rate, seconds)? {
            flat = rate;
        } else {
            steep = rate;
        }
    }
    while flat > 0 && !is_flat(subject, flat, 4 * seconds)? {
        flat = flat * 9 / 10;
    }
    Ok(flat)
}

fn is_flat(subject: &Subject<'_>, rate: u64, seconds: u64) -> Result<bool> {
    let fresh = subject.set_up()?;
    let n = ("n", (rate * seconds).to_string());
    let mut worker = subject.start(&fresh, "work", std::slice::from_ref(&n))?;
    let mut producer = subject.start(&fresh, "produce", &[n, ("rate", rate.to_string())])?;
    worker.tell("go")?;
    std::thread::sleep(Duration::from_millis(500));
    producer.tell("go")?;
    let started = std::time::Instant::now();
    let too_many = lossy(rate) * FLAT;
    let mut left = 0.0;
    while left <= too_many && started.elapsed() + LOOK < Duration::from_secs(seconds) {
        std::thread::sleep(LOOK);
        left = lossy(worker.left()?);
    }
    // A producer that cannot keep the pace says so, or is late.
    let kept_pace = left <= too_many
        && producer.hear("done", Duration::from_secs(3 * seconds + 30)).is_ok()
        && started.elapsed().as_secs_f64() < lossy(seconds) + FLAT;
    let flat = kept_pace && lossy(worker.left()?) <= too_many;
    drop(producer);
    worker.stop()?;
    Ok(flat)
}

/// Holds a rate, and tells how long commands took from append to start and to durable completion.
fn hold(subject: &Subject<'_>, rate: u64, time: Duration, case: &str) -> Result<Vec<Figure>> {
    let fresh = subject.set_up()?;
    let n = rate * time.as_secs();
    let file = |name: &str| subject.database.file(name);
    let (appended, started, finished, ledger) = (file("appended"), file("started"), file("finished"), file("ledger"));
    let option = |name: &'static str, path: &std::path::Path| (name, path.display().to_string());
    let number = ("n", n.to_string());
    let options = [number.clone(), option("times", &started), option("finished", &finished), option("ledger", &ledger)];
    let mut worker = subject.start(&fresh, "work", &options)?;
    let options = [number, option("times", &appended), ("rate", rate.to_string())];
    let mut producer = subject.start(&fresh, "produce", &options)?;
    worker.tell("go")?;
    std::thread::sleep(Duration::from_secs(1));
    producer.tell("go")?;
    producer.hear("done", time * 2 + Duration::from_secs(30))?;
    producer.stop()?;
    for _ in 0..1_000 {
        if worker.left()? == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    worker.stop()?;
    let wrong = counts(&[ledger], n)?.iter().filter(|count| **count != 1).count() as u64;
    let appended = times(&appended)?;
    let since = |times: Vec<u64>| -> Vec<f64> {
        let pairs = std::iter::zip(&appended, times).filter(|(_, time)| *time > 0);
        pairs.map(|(appended, time)| lossy(time.saturating_sub(*appended)) / 1e6).collect()
    };
    let (starts, ends) = (since(times(&started)?), since(times(&finished)?));
    if ends.is_empty() {
        bail!("no completion was watched");
    }
    Ok(vec![
        Figure::new(case, "jobs_per_s", lossy(rate), n),
        Figure::new(case, "start_p50_ms", quantile(&starts, 0.5), n),
        Figure::new(case, "start_p95_ms", quantile(&starts, 0.95), n),
        Figure::new(case, "start_p99_ms", quantile(&starts, 0.99), n),
        Figure::new(case, "p50_ms", quantile(&ends, 0.5), n),
        Figure::new(case, "p95_ms", quantile(&ends, 0.95), n),
        Figure::new(case, "p99_ms", quantile(&ends, 0.99), n),
        Figure::new(case, "wrong", lossy(wrong), n),
    ])
}
