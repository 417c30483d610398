//! Appends, each durable when its call returns.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Figure, Plan, Subject};
use crate::bench::measurement::lossy;

pub(super) fn measure(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if subject.program.variants.len() > 1 && subject.variant != "tuned" {
        // Settings are about workers; an append is the same under both.
        return Ok(figures);
    }
    let share = if plan.quick { 4 } else { 1 };
    for (mode, n) in [("one", 2_000), ("tasks", 10_000), ("all", 100_000), ("within", 2_000)] {
        let n = n / share;
        let fresh = subject.set_up()?;
        subject.database.settle(&fresh)?;
        let before = subject.database.counters(&fresh)?;
        let mut process = subject.start(&fresh, "append", &[("mode", mode.to_owned()), ("n", n.to_string())])?;
        process.tell("go")?;
        let said = match process.hear("appended", Duration::from_secs(600)) {
            Ok(said) => said,
            Err(error) if mode == "within" && error.to_string().contains("not offered") => continue,
            Err(error) => return Err(error),
        };
        let spent = subject.database.counters(&fresh)?.since(&before);
        let wrong = process.left()?.abs_diff(n);
        process.stop()?;
        let seconds = said["seconds"].as_f64().context("a time")?;
        figures.push(Figure::new(mode, "jobs_per_s", lossy(n) / seconds, n));
        figures.push(Figure::new(mode, "wrong", lossy(wrong), n));
        let each = [
            ("wal_bytes_per_command", spent.wal_bytes),
            ("statements_per_command", spent.statements),
            ("server_cpu_us_per_command", spent.cpu_us),
        ];
        for (metric, value) in each {
            figures.extend(value.map(|value| Figure::new(mode, metric, value / lossy(n), n)));
        }
    }
    Ok(figures)
}
