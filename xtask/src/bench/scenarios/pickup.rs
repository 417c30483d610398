//! From just before the append to the start of the handler, one command at a time.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Figure, Plan, Subject};
use crate::bench::database::Kind;
use crate::bench::measurement::{lossy, quantile};
use crate::bench::process::times;

pub(super) fn measure(subject: &Subject<'_>, plan: Plan, run: u32) -> Result<Vec<Figure>> {
    let mut figures = same_process(subject, plan)?;
    // Where nobody tells of an append it is the poll that is measured: once is enough.
    let is_told = subject.database.kind == Kind::Postgres;
    if matches!(subject.program.name, "orchestratum" | "raw") && (is_told || run == 1) {
        figures.extend(other_process(subject, plan)?);
    }
    Ok(figures)
}

fn same_process(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let fresh = subject.set_up()?;
    let mut process = subject.start(&fresh, "pickup", &[("n", plan.samples.to_string())])?;
    process.tell("go")?;
    let said = process.hear("latencies_ns", Duration::from_secs(600))?;
    process.stop()?;
    let latencies: Vec<f64> =
        said["latencies_ns"].as_array().context("a list")?.iter().filter_map(serde_json::Value::as_f64).collect();
    let missing = said["missing"].as_u64().unwrap_or_default();
    Ok(quantiles("same process", &latencies, missing))
}

fn other_process(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let fresh = subject.set_up()?;
    // One at a time, for an idle worker: where the poll finds them the gap is longer than that, and no multiple of it.
    let (n, gap_ms) =
        if subject.database.kind == Kind::Postgres { (plan.samples, 20) } else { (plan.samples / 8, 1_370) };
    let (appended, started) = (subject.database.file("appended"), subject.database.file("started"));
    let options = |file: &std::path::Path| {
        [("n", n.to_string()), ("gap-ms", gap_ms.to_string()), ("times", file.display().to_string())]
    };
    let mut worker = subject.start(&fresh, "work", &options(&started))?;
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
    Ok(quantiles("other process", &latencies, missing))
}

/// Nobody knows how long one would have taken that did not come: no shorter than it was waited for.
const MISSING_NS: f64 = 5e9;

fn quantiles(case: &str, latencies_ns: &[f64], missing: u64) -> Vec<Figure> {
    let mut latencies_ns = latencies_ns.to_vec();
    latencies_ns.extend((0..missing).map(|_| MISSING_NS));
    let n = latencies_ns.len() as u64;
    let ms = |share| quantile(&latencies_ns, share) / 1e6;
    vec![
        Figure::new(case, "p50_ms", ms(0.5), n),
        Figure::new(case, "p95_ms", ms(0.95), n),
        Figure::new(case, "p99_ms", ms(0.99), n),
        Figure::new(case, "wrong", lossy(missing), n),
    ]
}
