//! From just before the append to the start of the handler, one command at a time.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Figure, Plan, Subject};
use crate::bench::database::Kind;
use crate::bench::measurement::{lossy, quantile};
use crate::bench::process::{counts, times};
use crate::bench::programs::is_judged;

pub(super) fn measure(subject: &Subject<'_>, plan: Plan, run: u32) -> Result<Vec<Figure>> {
    let mut figures = same_process(subject, plan)?;
    // Where nobody tells of an append it is the poll that is measured: once is enough.
    let is_told = subject.database.kind == Kind::Postgres;
    // Peers poll at their defaults, some of them once in seconds.
    let is_quick = is_judged(subject.program.name) || subject.variant == "tuned";
    if subject.program.shares() && is_quick && (is_told || run == 1) {
        figures.extend(other_process(subject, plan)?);
    }
    Ok(figures)
}

fn same_process(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let fresh = subject.set_up()?;
    let ledger = subject.database.file("ledger");
    // At their defaults some peers take two seconds each.
    let is_slow = subject.variant == "default" && !is_judged(subject.program.name);
    let samples = if is_slow { plan.samples / 4 } else { plan.samples };
    let options = [("n", samples.to_string()), ("ledger", ledger.display().to_string())];
    let mut process = subject.start(&fresh, "pickup", &options)?;
    process.tell("go")?;
    let said = process.hear("latencies_ns", Duration::from_secs(600))?;
    process.stop()?;
    let again = counts(&[ledger], samples)?.iter().filter(|count| **count > 1).count() as u64;
    let latencies: Vec<f64> =
        said["latencies_ns"].as_array().context("a list")?.iter().filter_map(serde_json::Value::as_f64).collect();
    let missing = said["missing"].as_u64().unwrap_or_default();
    Ok(quantiles("same process", &latencies, missing, again))
}

fn other_process(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let fresh = subject.set_up()?;
    // One at a time, for an idle worker: where the poll finds them the gap is longer than that, and no multiple of it.
    let is_polled = subject.database.kind != Kind::Postgres && subject.program.name == "orchestratum";
    let (n, gap_ms) = if is_polled { (plan.samples / 8, 1_370) } else { (plan.samples, 20) };
    let (appended, started) = (subject.database.file("appended"), subject.database.file("started"));
    let options = |file: &std::path::Path| {
        [("n", n.to_string()), ("gap-ms", gap_ms.to_string()), ("times", file.display().to_string())]
    };
    let ledger = subject.database.file("ledger");
    let counted = [&options(&started)[..], &[("ledger", ledger.display().to_string())]].concat();
    let mut worker = subject.start(&fresh, "work", &counted)?;
    worker.tell("go")?;
    std::thread::sleep(Duration::from_secs(2));
    let mut producer = subject.start(&fresh, "produce", &options(&appended))?;
    producer.tell("go")?;
    producer.hear("done", Duration::from_secs(600))?;
    producer.stop()?;
    std::thread::sleep(Duration::from_secs(2));
    worker.stop()?;
    let pairs = std::iter::zip(times(&appended)?, times(&started)?);
    let latencies: Vec<f64> =
        pairs.filter(|(_, started)| *started > 0).map(|(appended, started)| lossy(started - appended)).collect();
    let missing = n - latencies.len() as u64;
    let again = counts(&[ledger], n)?.iter().filter(|count| **count > 1).count() as u64;
    Ok(quantiles("other process", &latencies, missing, again))
}

/// Without those that would tell of a command that did not come in time: nobody knows how long it would have taken.
fn quantiles(case: &str, latencies_ns: &[f64], missing: u64, again: u64) -> Vec<Figure> {
    let mut latencies_ns = latencies_ns.to_vec();
    latencies_ns.extend((0..missing).map(|_| f64::INFINITY));
    let n = latencies_ns.len() as u64;
    let shares = [("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)];
    let ms = shares.map(|(metric, share)| Figure::new(case, metric, quantile(&latencies_ns, share) / 1e6, n));
    let mut figures: Vec<Figure> = ms.into_iter().filter(|figure| figure.value.is_finite()).collect();
    figures.push(Figure::new(case, "wrong", lossy(missing + again), n));
    figures
}
