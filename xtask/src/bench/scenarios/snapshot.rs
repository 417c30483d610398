//! Rounds of drains while a session elsewhere keeps every dead row alive.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::drain::drain;
use super::{Figure, Plan, Subject};
use crate::bench::programs::is_judged;

const ROUNDS: u64 = 10;
/// A peer's last round is the one that ends after this.
const ENOUGH: Duration = Duration::from_secs(30);

pub(super) fn measure(subject: &Subject<'_>, plan: Plan) -> Result<Vec<Figure>> {
    if subject.variant == "default" && subject.program.name != "orchestratum" {
        return Ok(Vec::new());
    }
    let fresh = subject.set_up()?;
    let Some(snapshot) = subject.database.hold_snapshot(&fresh)? else { return Ok(Vec::new()) };
    let each = if plan.quick { 10_000 } else { 100_000 };
    let (mut figures, started) = (Vec::new(), Instant::now());
    for round in 0..ROUNDS {
        if started.elapsed() > ENOUGH && !is_judged(subject.program.name) {
            break;
        }
        let commands = round * each..(round + 1) * each;
        let options = [("from", commands.start.to_string()), ("n", commands.end.to_string())];
        subject.perform(&fresh, "append", &options)?;
        if round == 0 {
            subject.database.settle(&fresh)?;
        }
        let drained = drain(subject, &fresh, commands, 1)?;
        let case = format!("round {}", round + 1);
        figures.extend(drained.figures(&case));
    }
    drop(snapshot);
    Ok(figures)
}
