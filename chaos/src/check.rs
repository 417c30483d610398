//! Compares what the processes wrote down with what the database has.

mod appends;
mod endings;
mod history;
mod leases;
mod stored;
#[cfg(test)]
mod tests;
pub(crate) mod tried;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::Result;
use orchestratum_core::entity::live;
use sea_orm::EntityTrait as _;
use serde::Serialize;
use uuid::Uuid;

use crate::ledger::{Entry, Record};
use history::History;
use stored::{Command, Stored};

/// How many violations of one kind are listed.
const LISTED: usize = 10;

/// What a run has shown.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) database: String,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    /// The command that repeats it.
    pub(crate) again: String,
    pub(crate) counts: BTreeMap<&'static str, usize>,
    pub(crate) faults: BTreeMap<String, usize>,
    pub(crate) violations: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: Vec<(&str, usize)>| {
            counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "  {}", list(self.counts.iter().map(|(name, count)| (*name, *count)).collect()))?;
        writeln!(f, "  faults: {}", list(self.faults.iter().map(|(name, count)| (name.as_str(), *count)).collect()))?;
        for violation in &self.violations {
            writeln!(f, "  VIOLATED: {violation}")?;
        }
        let verdict = if self.violations.is_empty() { "every guarantee held" } else { "NOT every guarantee held" };
        write!(
            f,
            "  {verdict}; again with the same load and faults, as far as they do not depend on what came when:\n  {}",
            self.again
        )
    }
}

/// Collects violations, and says how many there were of each kind.
#[derive(Default)]
struct Violations(BTreeMap<&'static str, Vec<String>>);

impl Violations {
    fn add(&mut self, kind: &'static str, what: impl fmt::Display) {
        self.0.entry(kind).or_default().push(what.to_string());
    }

    fn list(self) -> Vec<String> {
        let line = |(kind, all): (&str, Vec<String>)| {
            let listed = all.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join("; ");
            format!("{kind} ({}): {listed}", all.len())
        };
        self.0.into_iter().map(line).collect()
    }
}

/// `leased` is how many nanoseconds the lease of a paused process goes on for certain: none where the server or the network
/// may be away.
pub(crate) async fn check(url: &str, records: &[Record], leased: u64) -> Result<Report> {
    let connection = sea_orm::Database::connect(url).await?;
    let (stored, history) = (Stored::read(&connection).await?, History::of(records, leased));
    let state = |wanted: &str| stored.commands.values().filter(|command| command.state() == wanted).count();
    let parked = stored.commands.values().filter(|command| command.is_parked());
    let mut counts = BTreeMap::from([
        ("acknowledged", acknowledged(records)),
        ("stored", stored.commands.len()),
        ("completed", state("completed")),
        ("failed", state("failed")),
        ("canceled", state("canceled")),
        ("parked", parked.count()),
        ("parked innocents", stored.parked_innocents().count()),
        ("parked innocents that are short", endings::short(stored.parked_innocents()).count()),
        ("executions", history.executions.values().map(Vec::len).sum()),
        ("lost leases", stored.commands.values().map(|command| command.attempts_of("lost_lease")).sum()),
        ("effects", stored.effects.values().sum()),
        ("ms in which nothing was completed, at most", longest_gap(&stored, records)),
    ]);
    counts.extend(tried::noted(records).into_iter().chain(tried::kept(&stored)));
    Ok(Report { counts, violations: judged(&stored, &history).list(), ..Report::default() })
}

fn judged(stored: &Stored, history: &History<'_>) -> Violations {
    let mut violations = Violations::default();
    endings::everything_ended_as_it_should(stored, history, &mut violations);
    endings::effects_and_follow_ups_came_once(stored, &mut violations);
    endings::acknowledged_effects_are_there(stored, history, &mut violations);
    endings::few_innocents_were_parked(stored, acknowledged(history.records), &mut violations);
    appends::what_was_acknowledged_is_there_and_what_was_rolled_back_is_not(stored, history, &mut violations);
    appends::batches_are_whole(stored, &mut violations);
    appends::orders_and_their_commands_came_together(stored, &mut violations);
    appends::unique_keys_never_met(stored, &mut violations);
    leases::leases_never_overlapped(history, &mut violations);
    leases::nothing_began_before_its_time(stored, history, &mut violations);
    leases::nothing_was_run_again_too_soon(stored, history, &mut violations);
    leases::nothing_followed_too_soon(stored, history, &mut violations);
    if history.is_undisturbed() {
        leases::leases_were_lost_for_a_reason(stored, history, &mut violations);
    }
    leases::nothing_began_after_a_cancel(stored, history, &mut violations);
    leases::only_the_deadly_end_their_process(stored, history, &mut violations);
    violations
}

/// The same where ended commands are not kept: from the ledgers, and from what must be there or not in the end.
pub(crate) async fn check_what_is_kept(url: &str, records: &[Record]) -> Result<Report> {
    let connection = sea_orm::Database::connect(url).await?;
    let (live, effects) = (live::Entity::find().all(&connection).await?, stored::effects(&connection).await?);
    let history = History::of(records, 0);
    let violations = judged_by_what_is_kept(&live, &effects, &history);
    let mut counts = BTreeMap::from([
        ("acknowledged beside the stream", acknowledged(records)),
        ("executions of theirs", history.executions.values().map(Vec::len).sum()),
    ]);
    counts.extend(tried::noted(records));
    Ok(Report { counts, violations: violations.list(), ..Report::default() })
}

fn judged_by_what_is_kept(live: &[live::Model], effects: &HashMap<Uuid, usize>, history: &History<'_>) -> Violations {
    let mut violations = Violations::default();
    for row in live {
        violations.add("left live", format!("{} ({}, {})", row.id, row.key, row.state));
    }
    for (id, count) in effects.iter().filter(|(_, count)| **count > 1) {
        violations.add("took effect twice", format!("{id}: {count} times"));
    }
    for record in history.records {
        match &record.entry {
            Entry::Appended { id, refused: None, shape, .. }
                if !history.executions.contains_key(id) && !history.cancel_asked.contains_key(id) =>
            {
                violations.add("acknowledged and never run", format!("{id} ({shape:?})"));
            }
            Entry::Effected { id, attempt } if !effects.contains_key(id) => {
                violations.add("an effect that was acknowledged and lost", format!("{id}, attempt {attempt}"));
            }
            _ => {}
        }
    }
    leases::leases_never_overlapped(history, &mut violations);
    violations
}

fn acknowledged(records: &[Record]) -> usize {
    records.iter().filter(|record| matches!(record.entry, Entry::Appended { refused: None, .. })).count()
}

/// Milliseconds between two completions, wherever, until the last append, hence until the faults were over.
fn longest_gap(stored: &Stored, records: &[Record]) -> usize {
    let is_append = |record: &&Record| matches!(record.entry, Entry::Appended { .. }) && &*record.process != "rig";
    let last_append = records.iter().rev().find(is_append).map_or(0, |record| i128::from(record.at));
    let completed = stored.commands.values().filter(|command| command.state() == "completed");
    let mut ends: Vec<i128> =
        completed.filter_map(Command::finished_at).map(|micros| stored.monotonic(micros)).collect();
    ends.sort_unstable();
    let gaps = ends.windows(2).filter(|pair| pair[0] < last_append).map(|pair| pair[1] - pair[0]);
    usize::try_from(gaps.max().unwrap_or(0) / 1_000_000).unwrap_or(usize::MAX)
}
