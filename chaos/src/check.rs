//! Compares what the processes wrote down with what the database has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use anyhow::{Context as _, Result};
use orchestratum_core::entity::{attempt, command, ended, live};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, EntityTrait as _, Statement};
use serde::Serialize;
use uuid::Uuid;

use crate::job::{BAD, FOLLOW_UP, Job};
use crate::ledger::{Entry, Record, Shape};

/// Lost leases that park a command, as the processes have it by default.
const LOSSES: usize = 5;
/// How soon after waking a paused process has told its handlers.
const WAKING: u64 = 3_000_000_000;
/// How many violations of one kind are listed.
const LISTED: usize = 10;

/// What a run has shown.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) database: String,
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
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
        write!(f, "  {verdict}; --seed {} repeats it", self.seed)
    }
}

/// The commands and what became of them, as the database has them.
struct Stored {
    commands: HashMap<Uuid, Command>,
    live: Vec<live::Model>,
    orders: HashSet<u64>,
    /// How often each command took effect.
    effects: HashMap<Uuid, usize>,
}

struct Command {
    row: command::Model,
    number: u64,
    ended: Option<ended::Model>,
    attempts: Vec<attempt::Model>,
}

impl Command {
    fn state(&self) -> &str {
        self.ended.as_ref().map_or("live", |ended| &ended.state)
    }

    fn attempts_of(&self, kind: &str) -> usize {
        self.attempts.iter().filter(|attempt| attempt.kind == kind).count()
    }

    /// Lost its lease more often than it may.
    fn is_parked(&self) -> bool {
        self.state() == "failed" && self.attempts_of("lost_lease") > LOSSES
    }
}

/// One run of a handler.
struct Execution<'a> {
    process: &'a str,
    attempt: u32,
    started: u64,
    /// When its process had stopped to believe in its lease, or was dead.
    over: u64,
    /// It cannot hear that it is told to stop, and its attempt may be over before it is.
    is_deaf: bool,
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

pub(crate) async fn check(url: &str, records: &[Record]) -> Result<Report> {
    let connection = sea_orm::Database::connect(url).await?;
    let stored = read(&connection).await?;
    let executions = executions(records);
    let mut violations = Violations::default();
    everything_ended_as_it_should(&stored, &mut violations);
    what_was_acknowledged_is_there_and_what_was_rolled_back_is_not(&stored, records, &mut violations);
    effects_and_follow_ups_came_once(&stored, records, &mut violations);
    unique_keys_never_met(&stored, &mut violations);
    leases_never_overlapped(records, &executions, &mut violations);

    let state = |wanted: &str| stored.commands.values().filter(|command| command.state() == wanted).count();
    let acknowledged = records.iter().filter(|record| matches!(record.entry, Entry::Appended { .. })).count();
    let counts = BTreeMap::from([
        ("acknowledged", acknowledged),
        ("stored", stored.commands.len()),
        ("completed", state("completed")),
        ("failed", state("failed")),
        ("canceled", state("canceled")),
        ("parked", stored.commands.values().filter(|command| command.is_parked()).count()),
        ("executions", executions.values().map(Vec::len).sum()),
        ("lost leases", stored.commands.values().map(|command| command.attempts_of("lost_lease")).sum()),
        ("effects", stored.effects.values().sum()),
        ("ms in which nothing ended, at most", longest_gap(records)),
    ]);
    Ok(Report { counts, violations: violations.list(), ..Report::default() })
}

/// The same where ended commands are not kept: from the ledgers, and from what must be there or not in the end.
pub(crate) async fn check_what_is_kept(url: &str, records: &[Record]) -> Result<Report> {
    let connection = sea_orm::Database::connect(url).await?;
    let executions = executions(records);
    let mut violations = Violations::default();
    for row in live::Entity::find().all(&connection).await? {
        violations.add("left live", format!("{} ({}, {})", row.id, row.key, row.state));
    }
    let canceled: HashSet<Uuid> = records.iter().filter_map(Record::canceled).collect();
    for record in records {
        if let Entry::Appended { id, is_new: true, shape, .. } = &record.entry
            && !executions.contains_key(id)
            && !canceled.contains(id)
        {
            violations.add("acknowledged and never run", format!("{id} ({shape:?})"));
        }
    }
    let sql = "SELECT command FROM chaos_effects GROUP BY command HAVING count(*) > 1";
    for row in connection.query_all_raw(Statement::from_string(connection.get_database_backend(), sql)).await? {
        violations.add("took effect twice", row.try_get_by_index::<String>(0)?);
    }
    leases_never_overlapped(records, &executions, &mut violations);
    let acknowledged = records.iter().filter(|record| matches!(record.entry, Entry::Appended { .. })).count();
    let counts = BTreeMap::from([
        ("acknowledged beside the stream", acknowledged),
        ("executions of theirs", executions.values().map(Vec::len).sum()),
        ("ms in which none of theirs ended, at most", longest_gap(records)),
    ]);
    Ok(Report { counts, violations: violations.list(), ..Report::default() })
}

/// Milliseconds between two ends of handlers, wherever, until the faults were over.
fn longest_gap(records: &[Record]) -> usize {
    let is_append = |record: &Record| matches!(record.entry, Entry::Appended { .. }) && &*record.process != "rig";
    let last_append = records.iter().rposition(is_append).unwrap_or(0);
    let ends = records[..last_append].iter().filter(|record| matches!(record.entry, Entry::Ended { .. }));
    let ends: Vec<u64> = ends.map(|record| record.at).collect();
    let longest = ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    usize::try_from(longest / 1_000_000).unwrap_or(usize::MAX)
}

async fn read(connection: &DatabaseConnection) -> Result<Stored> {
    let mut ended: HashMap<Uuid, ended::Model> =
        ended::Entity::find().all(connection).await?.into_iter().map(|row| (row.id, row)).collect();
    let mut attempts: HashMap<Uuid, Vec<attempt::Model>> = HashMap::new();
    for row in attempt::Entity::find().all(connection).await? {
        attempts.entry(row.command_id).or_default().push(row);
    }
    let mut commands = HashMap::new();
    for row in command::Entity::find().all(connection).await? {
        let Job { number } = serde_json::from_str(&row.payload).context("a payload changed")?;
        let (ended, attempts) = (ended.remove(&row.id), attempts.remove(&row.id).unwrap_or_default());
        commands.insert(row.id, Command { row, number, ended, attempts });
    }
    let rows = async |sql: &str| {
        connection.query_all_raw(Statement::from_string(connection.get_database_backend(), sql)).await
    };
    let mut orders = HashSet::new();
    for row in rows("SELECT number FROM chaos_orders").await? {
        orders.insert(u64::try_from(row.try_get_by_index::<i64>(0)?)?);
    }
    let mut effects = HashMap::new();
    for row in rows("SELECT command FROM chaos_effects").await? {
        *effects.entry(row.try_get_by_index::<String>(0)?.parse()?).or_default() += 1;
    }
    Ok(Stored { commands, live: live::Entity::find().all(connection).await?, orders, effects })
}

fn everything_ended_as_it_should(stored: &Stored, violations: &mut Violations) {
    for row in &stored.live {
        violations.add("left live", format!("{} ({}, {})", row.id, row.key, row.state));
    }
    for (id, command) in &stored.commands {
        let (key, state) = (command.row.key.as_str(), command.state());
        let is_bad = BAD.contains(&key);
        let as_it_should = match state {
            "completed" => !is_bad,
            "failed" => is_bad || command.is_parked(),
            "canceled" => true,
            _ => continue,
        };
        if !as_it_should {
            let error = command.ended.as_ref().and_then(|ended| ended.error.clone()).unwrap_or_default();
            violations.add("ended as it should not", format!("{id} ({key}) {state}: {error}"));
        }
        let failures = ["error", "panic", "timeout"].iter().map(|kind| command.attempts_of(kind)).sum::<usize>();
        let allowed = usize::try_from(command.row.retry_count).unwrap_or(0) + 1;
        if failures > allowed || command.attempts_of("lost_lease") > LOSSES + 1 {
            violations.add("more attempts than allowed", format!("{id} ({key}): {failures} failures"));
        }
    }
}

fn what_was_acknowledged_is_there_and_what_was_rolled_back_is_not(
    stored: &Stored,
    records: &[Record],
    violations: &mut Violations,
) {
    let mut by_number: HashMap<u64, usize> = HashMap::new();
    for command in stored.commands.values().filter(|command| command.row.key != FOLLOW_UP) {
        *by_number.entry(command.number).or_default() += 1;
    }
    let mut canceled: HashMap<Uuid, u64> = HashMap::new();
    let mut explained = HashSet::new();
    let died: HashSet<&str> = records
        .iter()
        .filter_map(|record| match &record.entry {
            Entry::Died { process } => Some(process.as_str()),
            _ => None,
        })
        .collect();
    let mut serials_of_the_dead = HashSet::new();
    for record in records {
        match &record.entry {
            Entry::Began { serial } if died.contains(&*record.process) => {
                // Its last appends may have happened without an answer.
                serials_of_the_dead.insert(u64::from(*serial));
            }
            Entry::Appended { number, id, is_new, shape } => {
                explained.insert(*number);
                if !stored.commands.contains_key(id) {
                    violations.add("acknowledged and lost", format!("{id} ({shape:?})"));
                }
                if *is_new && by_number.get(number) != Some(&1) {
                    violations.add("appended more than once", format!("{id} ({shape:?}): {:?}", by_number.get(number)));
                }
                if *shape == Shape::Within && !stored.orders.contains(number) {
                    violations.add("appended without the rest of its transaction", id);
                }
            }
            Entry::RolledBack { id } if stored.commands.contains_key(id) => {
                violations.add("rolled back and there", id);
            }
            Entry::Unsure { number, .. } => {
                explained.insert(*number);
            }
            Entry::Canceled { id, at_once: true } => {
                canceled.insert(*id, record.at);
                if stored.commands.get(id).is_some_and(|command| command.state() != "canceled") {
                    violations.add("canceled and not so ended", id);
                }
            }
            Entry::Started { id, attempt, .. } => {
                if canceled.get(id).is_some_and(|at| *at < record.at) {
                    violations.add("ran after it was canceled", format!("{id}, attempt {attempt}"));
                }
                if !stored.commands.contains_key(id) {
                    violations.add("ran without having been appended", id);
                }
            }
            _ => {}
        }
    }
    for (id, command) in &stored.commands {
        let number = command.number;
        if !explained.contains(&number) && !serials_of_the_dead.contains(&(number >> 32)) {
            violations.add("there without having been appended", format!("{id} ({})", command.row.key));
        }
    }
}

fn effects_and_follow_ups_came_once(stored: &Stored, records: &[Record], violations: &mut Violations) {
    for (id, command) in stored.commands.iter().filter(|(_, command)| command.row.key == "effect") {
        let (effects, wanted) =
            (stored.effects.get(id).copied().unwrap_or(0), usize::from(command.state() == "completed"));
        if effects != wanted && command.ended.is_some() {
            violations.add("took effect wrongly", format!("{id} {}: {effects} times", command.state()));
        }
    }
    let mut follow_ups: HashMap<u64, usize> = HashMap::new();
    for command in stored.commands.values().filter(|command| command.row.key == FOLLOW_UP) {
        *follow_ups.entry(command.number).or_default() += 1;
    }
    for record in records {
        if let Entry::Appended { number, id, is_new: true, shape: Shape::Chained } = &record.entry
            && stored.commands.get(id).is_some_and(|command| command.ended.is_some())
            && follow_ups.get(number) != Some(&1)
        {
            violations.add("not followed up once", format!("{id}: {:?}", follow_ups.get(number)));
        }
    }
}

/// One with a key may only be appended when the one before it has ended, by the database's clock.
fn unique_keys_never_met(stored: &Stored, violations: &mut Violations) {
    let mut by_key: BTreeMap<&str, Vec<&Command>> = BTreeMap::new();
    for command in stored.commands.values() {
        if let Some(key) = &command.row.unique_key {
            by_key.entry(key).or_default().push(command);
        }
    }
    for commands in by_key.values_mut() {
        commands.sort_by_key(|command| command.row.created_at.as_micros());
        for pair in commands.windows(2) {
            let ended = pair[0].ended.as_ref().map(|ended| ended.finished_at.as_micros());
            if ended.is_none_or(|ended| ended > pair[1].row.created_at.as_micros()) {
                violations.add("two with one unique key", format!("{} and {}", pair[0].row.id, pair[1].row.id));
            }
        }
    }
}

fn leases_never_overlapped(
    records: &[Record],
    executions: &HashMap<Uuid, Vec<Execution<'_>>>,
    violations: &mut Violations,
) {
    let pauses = pauses(records);
    for (id, executions) in executions {
        for (earlier, later) in executions.iter().zip(executions.iter().skip(1)) {
            if earlier.attempt >= later.attempt {
                let what = format!("{id}: {} after {}", later.attempt, earlier.attempt);
                violations.add("attempts that do not grow", what);
            }
            let was_paused = pauses.get(earlier.process).is_some_and(|pauses| {
                pauses.iter().any(|(from, to)| *from <= later.started && later.started <= to.saturating_add(WAKING))
            });
            if earlier.over > later.started && !was_paused && !earlier.is_deaf {
                let late = (earlier.over - later.started) / 1_000_000;
                let what = format!("{id}: attempt {} for {late} ms beside {}", earlier.attempt, later.attempt);
                violations.add("two live leases", what);
            }
        }
    }
}

/// From when to when each process was paused.
fn pauses(records: &[Record]) -> HashMap<&str, Vec<(u64, u64)>> {
    let mut pauses: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for record in records {
        match &record.entry {
            Entry::Paused { process } => pauses.entry(process).or_default().push((record.at, u64::MAX)),
            Entry::Resumed { process } => {
                if let Some(last) = pauses.get_mut(process.as_str()).and_then(|pauses| pauses.last_mut()) {
                    last.1 = record.at;
                }
            }
            _ => {}
        }
    }
    pauses
}

/// The runs of each command's handlers, in the order of their beginnings.
fn executions(records: &[Record]) -> HashMap<Uuid, Vec<Execution<'_>>> {
    let mut executions: HashMap<Uuid, Vec<Execution<'_>>> = HashMap::new();
    let mut over: HashMap<(Uuid, u32, &str), u64> = HashMap::new();
    let mut died: HashMap<&str, u64> = HashMap::new();
    for record in records {
        match &record.entry {
            Entry::Started { id, attempt, is_deaf } => {
                let (process, started) = (&*record.process, record.at);
                let execution = Execution { process, attempt: *attempt, started, over: u64::MAX, is_deaf: *is_deaf };
                executions.entry(*id).or_default().push(execution);
            }
            Entry::Told { id, attempt } | Entry::Ended { id, attempt } => {
                over.entry((*id, *attempt, &record.process)).or_insert(record.at);
            }
            Entry::Died { process } => {
                died.entry(process).or_insert(record.at);
            }
            _ => {}
        }
    }
    for (id, executions) in &mut executions {
        for execution in executions {
            let own = over.get(&(*id, execution.attempt, execution.process)).copied().unwrap_or(u64::MAX);
            execution.over = own.min(died.get(execution.process).copied().unwrap_or(u64::MAX));
        }
    }
    executions
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(7);

    /// What a history of two executions in two processes is judged to be.
    fn judged(history: &[(u64, &str, Entry)]) -> Vec<String> {
        let record = |(at, process, entry): &(u64, &str, Entry)| Record {
            at: *at,
            process: (*process).into(),
            entry: entry.clone(),
        };
        let records: Vec<Record> = history.iter().map(record).collect();
        let mut violations = Violations::default();
        leases_never_overlapped(&records, &executions(&records), &mut violations);
        violations.0.into_keys().map(str::to_owned).collect()
    }

    fn started(attempt: u32) -> Entry {
        Entry::Started { id: ID, attempt, is_deaf: false }
    }

    fn ended(attempt: u32) -> Entry {
        Entry::Ended { id: ID, attempt }
    }

    #[test]
    fn two_executions_that_believe_in_their_leases_are_a_violation() {
        let overlapping = [(1, "a", started(1)), (2, "b", started(2)), (3, "a", ended(1)), (4, "b", ended(2))];
        assert_eq!(judged(&overlapping), ["two live leases"]);
        let never_ended = [(1, "a", started(1)), (2, "b", started(2)), (4, "b", ended(2))];
        assert_eq!(judged(&never_ended), ["two live leases"]);
        let same_number = [(1, "a", started(1)), (2, "a", ended(1)), (3, "b", started(1)), (4, "b", ended(1))];
        assert_eq!(judged(&same_number), ["attempts that do not grow"]);
    }

    #[test]
    fn one_that_was_told_or_died_or_was_paused_does_not_believe() {
        let died = Entry::Died { process: "a".to_owned() };
        let told = Entry::Told { id: ID, attempt: 1 };
        for over in [ended(1), died, told] {
            let by = if matches!(over, Entry::Died { .. }) { "rig" } else { "a" };
            assert!(
                judged(&[(1, "a", started(1)), (2, by, over), (3, "b", started(2)), (4, "b", ended(2))]).is_empty()
            );
        }
        let paused = Entry::Paused { process: "a".to_owned() };
        let resumed = Entry::Resumed { process: "a".to_owned() };
        let history = [
            (1, "a", started(1)),
            (2, "rig", paused),
            (3, "b", started(2)),
            (4, "rig", resumed),
            (5, "a", ended(1)),
            (6, "b", ended(2)),
        ];
        assert!(judged(&history).is_empty());
    }
}
