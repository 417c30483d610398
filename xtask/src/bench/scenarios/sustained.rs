//! Appends and completions at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::drain::estimate;
use super::{Figure, Plan, Subject};
use crate::bench::kernel::WritesEarly;
use crate::bench::measurement::{lossy, quantile};
use crate::bench::process::{counts, times};
use crate::bench::programs::is_judged;

/// What may be left at any moment, and when the last append has returned: a quarter of a second's commands, or what two
/// appends have brought.
const FLAT: f64 = 0.25;
const TWO_APPENDS: f64 = 100.0;
/// How much later than it should the last append of a minute may return.
const LATE: f64 = 1.0;
/// How often a rate may turn out to be too high when a part of it is held; the table shows how often it was.
const GIVEN_UP: u64 = 5;
const HALF: &str = "50 % of the flat rate";
const MOST: &str = "80 % of the flat rate";
/// The same, where the kernel does not let half a minute of writes gather.
const MOST_WRITTEN_EARLY: &str = "80 % of the flat rate, kernel writes early";
/// What is left at first does not count: where nobody tells of an append the first ones wait for a poll.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// What is tried first at least.
const LOWEST: u64 = 500;
/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn measure(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    if !subject.program.shares() {
        return Ok(Vec::new());
    }
    let mut flat = highest_flat_rate(subject, plan)?;
    // Peers do not say when something is durably done.
    if !is_judged(subject.program.name) || flat == 0 {
        return Ok(vec![Figure::new("flat rate", "jobs_per_s", lossy(flat), 0)]);
    }
    // Most run with the defaults; `raw` has none.
    if subject.variant == "tuned" && subject.program.variants.len() > 1 {
        return Ok(vec![Figure::new("flat rate", "jobs_per_s", lossy(flat), 0)]);
    }
    // A rate of which a part cannot be held for a minute was not one that stays flat.
    let mut given_up = 0;
    let held = loop {
        match hold_parts(subject, flat, plan)? {
            Some(held) => break held,
            None => {
                println!("of {flat} commands a second a part could not be held");
                ensure!(given_up < GIVEN_UP, "no rate can be held for {:?}", plan.hold);
                given_up += 1;
                flat = flat * 9 / 10;
            }
        }
    };
    let mut figures = vec![
        Figure::new("flat rate", "jobs_per_s", lossy(flat), 0),
        Figure::new("flat rate", "given_up", lossy(given_up), 0),
    ];
    figures.extend(held);
    Ok(figures)
}

/// `None` when an append of one of the parts was too late.
fn hold_parts(subject: &Subject<'_>, flat: u64, plan: Plan) -> Result<Option<Vec<Figure>>> {
    let Some(most) = hold(subject, flat * 80 / 100, plan, MOST)? else { return Ok(None) };
    let Some(mut figures) = hold(subject, flat / 2, plan, HALF)? else { return Ok(None) };
    figures.extend(most);
    if plan.kernel_writes_early {
        let _until_then = WritesEarly::begin().context("vm.dirty_background_bytes is not ours to set")?;
        let Some(early) = hold(subject, flat * 80 / 100, plan, MOST_WRITTEN_EARLY)? else { return Ok(None) };
        figures.extend(early);
    }
    Ok(Some(figures))
}

/// Begins with a quarter of a drain's rate, doubles until the backlog grows, then halves the distance four times, then
/// asks for less until it stays flat for longer: a checkpoint comes every now and then.
fn highest_flat_rate(subject: &Subject<'_>, plan: Plan) -> Result<u64> {
    let seconds = if plan.quick { 2 } else { 5 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of commands")]
    let quarter = (estimate(subject)? / 4.0) as u64;
    let (mut flat, mut steep) = (0, quarter.max(LOWEST));
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
    let ledger = subject.database.file("ledger");
    let options = [n.clone(), ("ledger", ledger.display().to_string())];
    let mut worker = subject.start(&fresh, "work", &options)?;
    let mut producer = subject.start(&fresh, "produce", &[n, ("rate", rate.to_string())])?;
    worker.tell("go")?;
    std::thread::sleep(Duration::from_millis(500));
    producer.tell("go")?;
    let started = Instant::now();
    let too_many = (lossy(rate) * FLAT).max(TWO_APPENDS);
    let mut left = 0.0;
    while left <= too_many && started.elapsed() + LOOK < Duration::from_secs(seconds) {
        std::thread::sleep(LOOK);
        if started.elapsed() >= WARM_UP {
            left = lossy(worker.left()?);
        }
    }
    let kept_pace = left <= too_many
        && kept_pace(producer.hear("done", Duration::from_secs(3 * seconds + 30)))?
        && started.elapsed().as_secs_f64() < lossy(seconds) + FLAT;
    let flat = kept_pace && lossy(worker.left()?) <= too_many;
    drop(producer);
    worker.stop()?;
    let again = counts(&[ledger], rate * seconds)?.iter().filter(|count| **count > 1).count();
    ensure!(again == 0 || !is_judged(subject.program.name), "{again} commands ran more than once");
    Ok(flat)
}

/// A producer that cannot keep the pace says so, or is late.
fn kept_pace(done: Result<Value>) -> Result<bool> {
    match done {
        Ok(_) => Ok(true),
        Err(error) if error.to_string().contains("too many") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Holds a rate, and tells how long commands took from append to start and to durable completion; `None` when the last
/// append was too late. The seconds in which everything is cold come first and are told of apart.
fn hold(subject: &Subject<'_>, rate: u64, plan: Plan, case: &str) -> Result<Option<Vec<Figure>>> {
    let fresh = subject.set_up()?;
    let time = plan.cold + plan.hold;
    let (n, cold) = (rate * time.as_secs(), rate * plan.cold.as_secs());
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
    let begun = Instant::now();
    let is_done = kept_pace(producer.hear("done", time * 2 + Duration::from_secs(30)))?;
    let took = begun.elapsed().as_secs_f64();
    if !is_done || took >= time.as_secs_f64() + LATE {
        return Ok(None);
    }
    producer.stop()?;
    for _ in 0..1_000 {
        if worker.left()? == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    worker.stop()?;
    let mut wrong = counts(&[ledger], n)?.iter().filter(|count| **count != 1).count() as u64;
    let appended = times(&appended)?;
    // Of the first ones, and of the others; commands are numbered as they are appended.
    let since = |times: Vec<u64>| -> (Vec<f64>, Vec<f64>) {
        let took = |(appended, time): (&u64, &u64)| lossy(time.saturating_sub(*appended)) / 1e6;
        let all = || (0..).zip(std::iter::zip(&appended, &times)).filter(|(_, (_, time))| **time > 0);
        let (first, others) = (all().filter(|(i, _)| *i < cold), all().filter(|(i, _)| *i >= cold));
        (first.map(|(_, pair)| took(pair)).collect(), others.map(|(_, pair)| took(pair)).collect())
    };
    let ((_, starts), (first_ends, ends)) = (since(times(&started)?), since(times(&finished)?));
    // One in a hundred is watched for.
    let (first, watched) = (first_ends.len() as u64, ends.len() as u64);
    wrong += n.div_ceil(100) - first - watched;
    Ok(Some(vec![
        Figure::new(case, "jobs_per_s", lossy(n) / took, n),
        Figure::new(case, "start_p50_ms", quantile(&starts, 0.5), n - cold),
        Figure::new(case, "start_p95_ms", quantile(&starts, 0.95), n - cold),
        Figure::new(case, "start_p99_ms", quantile(&starts, 0.99), n - cold),
        Figure::new(case, "p50_ms", quantile(&ends, 0.5), watched),
        Figure::new(case, "p95_ms", quantile(&ends, 0.95), watched),
        Figure::new(case, "p99_ms", quantile(&ends, 0.99), watched),
        Figure::new(case, "cold_p99_ms", quantile(&first_ends, 0.99), first),
        Figure::new(case, "wrong", lossy(wrong), n),
    ]))
}
