//! What must be there, and what must not.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::Violations;
use super::history::History;
use super::stored::{Command, SAME_TIME, Stored};
use crate::ledger::{Entry, Refused, Shape};
use crate::load::{BULK, TASKS};

pub(super) fn what_was_acknowledged_is_there_and_what_was_rolled_back_is_not(
    stored: &Stored,
    history: &History<'_>,
    violations: &mut Violations,
) {
    let by_number = stored.by_number();
    for (number, count) in by_number.iter().filter(|(_, count)| **count > 1) {
        violations.add("appended more than once", format!("number {number}: {count} commands"));
    }
    let mut explained = HashSet::new();
    for record in history.records {
        match &record.entry {
            Entry::Appended { number, id, shape, refused } => {
                explained.insert(*number);
                match (stored.commands.get(id), refused) {
                    (None, _) => violations.add("acknowledged and lost", format!("{id} ({shape:?})")),
                    (Some(command), None) if command.job.number != *number => {
                        violations.add("acknowledged under the id of another", format!("{id} ({shape:?})"));
                    }
                    (Some(_), None) => {}
                    (Some(holder), Some(refused)) => refused_rightly(stored, holder, refused, violations),
                }
                if refused.is_some() && by_number.contains_key(number) {
                    violations.add("refused and there", format!("number {number} beside {id}"));
                }
            }
            Entry::RolledBack { number, id } => {
                explained.insert(*number);
                if stored.commands.contains_key(id) {
                    violations.add("rolled back and there", id);
                }
                if stored.orders.contains(number) {
                    violations.add("an order that survived its rollback", format!("number {number}"));
                }
            }
            Entry::Unsure { number, .. } => {
                explained.insert(*number);
            }
            _ => {}
        }
    }
    let dead = serials_of_the_dead(history);
    // What each of the dead had under way, one append a task; those appended at once by the first of them.
    let mut under_way: HashMap<u64, HashSet<u64>> = HashMap::new();
    for (id, command) in &stored.commands {
        let number = command.job.number;
        let is_explained = explained.contains(&number);
        if !is_explained && dead.contains(&(number >> 32)) {
            under_way.entry(number >> 32).or_default().insert(command.job.batch.unwrap_or(number));
        } else if !is_explained {
            violations.add("there without having been appended", format!("{id} ({})", command.row.key));
        }
        if command.job.shape == Shape::RolledBack {
            violations.add("rolled back and there", id);
        }
    }
    for (serial, appends) in under_way.into_iter().filter(|(_, appends)| appends.len() > TASKS as usize) {
        let what = format!("{} appends of process {serial}, which had {TASKS} at once", appends.len());
        violations.add("there without having been appended", what);
    }
    for id in history.executions.keys().filter(|id| !stored.commands.contains_key(id)) {
        violations.add("ran without having been appended", id);
    }
}

/// An append is refused for a live command with its key, and for no other.
fn refused_rightly(stored: &Stored, holder: &Command, refused: &Refused, violations: &mut Violations) {
    let Refused { unique_key, asked } = refused;
    let id = holder.row.id;
    if holder.row.unique_key.as_ref() != Some(unique_key) {
        violations.add("refused for another key", format!("{unique_key} for {id}, {:?}", holder.row.unique_key));
    }
    let ended = holder.finished_at().map(|finished| stored.monotonic(finished));
    if ended.is_some_and(|ended| ended + SAME_TIME < i128::from(*asked)) {
        violations.add("refused for one that had ended", format!("{unique_key} for {id}"));
    }
}

/// What is appended at once is there as a whole or not at all, whatever became of the answer, but for the one that may
/// be refused for its unique key.
pub(super) fn batches_are_whole(stored: &Stored, violations: &mut Violations) {
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    let plain = stored.commands.values().filter(|command| command.row.unique_key.is_none());
    for batch in plain.filter_map(|command| command.job.batch) {
        *counts.entry(batch).or_default() += 1;
    }
    for (batch, count) in counts.into_iter().filter(|(_, count)| *count != BULK - 1) {
        violations.add("a part of a batch", format!("{count} of {} with the first number {batch}", BULK - 1));
    }
}

/// The last appends of these processes, one of each task, may have happened without a word. One that ends in order says
/// what it asked for.
fn serials_of_the_dead(history: &History<'_>) -> HashSet<u64> {
    let died = history.records.iter().filter_map(|record| match &record.entry {
        Entry::Died { process, .. } => Some(process.as_str()),
        _ => None,
    });
    let died: HashSet<&str> = died.collect();
    let serials = history.records.iter().filter_map(|record| match &record.entry {
        Entry::Began { serial } if died.contains(&*record.process) => Some(u64::from(*serial)),
        _ => None,
    });
    serials.collect()
}

/// Whatever became of the answer: a row of the application and the command of the same transaction.
pub(super) fn orders_and_their_commands_came_together(stored: &Stored, violations: &mut Violations) {
    let commands = stored.commands.iter().filter(|(_, command)| !command.is_follow_up());
    let within: HashMap<u64, &Uuid> = commands
        .filter(|(_, command)| command.job.shape == Shape::Within)
        .map(|(id, command)| (command.job.number, id))
        .collect();
    for (number, id) in within.iter().filter(|(number, _)| !stored.orders.contains(number)) {
        violations.add("a command without its order", format!("{id}, number {number}"));
    }
    for number in stored.orders.iter().filter(|number| !within.contains_key(number)) {
        violations.add("an order without its command", format!("number {number}"));
    }
}

/// One with a key may only be appended when the one before it has ended, by the database's clock.
///
/// The command's row is written by a statement that begins when the live row is there, hence behind the commit that
/// removed the one before; and that one's end is dated by a statement before that commit. Of two of one instant the one
/// that ended first came first.
pub(super) fn unique_keys_never_met(stored: &Stored, violations: &mut Violations) {
    let ended = |command: &Command| command.ended.as_ref().map_or(i64::MAX, |ended| ended.finished_at.as_micros());
    let mut by_key: BTreeMap<&str, Vec<&Command>> = BTreeMap::new();
    for command in stored.commands.values() {
        if let Some(key) = &command.row.unique_key {
            by_key.entry(key).or_default().push(command);
        }
    }
    for commands in by_key.values_mut() {
        commands.sort_by_key(|command| (command.row.created_at.as_micros(), ended(command)));
        for pair in commands.windows(2) {
            if ended(pair[0]) > pair[1].row.created_at.as_micros() {
                violations.add("two with one unique key", format!("{} and {}", pair[0].row.id, pair[1].row.id));
            }
        }
    }
}
