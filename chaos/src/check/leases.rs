//! When handlers may run.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use super::Violations;
use super::history::{Execution, History};
use super::stored::{Command, Stored};
use crate::job::{EFFECT, POLICY, SNOOZES, SNOOZING};
use crate::ledger::{Entry, Record};

/// Two clocks of the database are a delay apart: SQLite's are cut off at the millisecond.
const RESOLUTION: u64 = 2_000_000;

/// No two executions of a command believed in their leases at once. Compared are all of them with each other: an old
/// one may have slept through several newer ones.
pub(super) fn leases_never_overlapped(history: &History<'_>, violations: &mut Violations) {
    for (id, executions) in &history.executions {
        for (index, later) in executions.iter().enumerate() {
            for earlier in &executions[..index] {
                let (old, new) = if earlier.attempt < later.attempt { (earlier, later) } else { (later, earlier) };
                let is_excused = history.is_excused(old.process, new.started.max(old.started), old.over);
                // One that was claimed before a pause may begin behind it, before it is told.
                if earlier.attempt == later.attempt || earlier.attempt > later.attempt && !is_excused {
                    let what = format!("{id}: {} after {}", later.attempt, earlier.attempt);
                    violations.add("attempts that do not grow", what);
                }
                if earlier.over > later.started && !is_excused && !old.is_deaf {
                    let late = (earlier.over - later.started) / 1_000_000;
                    let what = format!("{id}: attempt {} for {late} ms beside {}", earlier.attempt, later.attempt);
                    violations.add("two live leases", what);
                }
            }
        }
    }
}

pub(super) fn nothing_began_before_its_time(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    for (id, command) in &stored.commands {
        for execution in history.executions_of(id) {
            let early = command.job.not_before.saturating_sub(execution.started);
            if early > RESOLUTION {
                let what = format!("{id}, attempt {}: {} ms early", execution.attempt, early / 1_000_000);
                violations.add("began before its time", what);
            }
        }
    }
}

/// Behind its failure or its snooze a command waits as long as was asked for. One that has lost its lease in between need
/// not: nobody was told that it was to wait. Nor need an older attempt, which was claimed before a pause.
pub(super) fn nothing_was_run_again_too_soon(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    for (id, command) in &stored.commands {
        for pair in history.executions_of(id).windows(2) {
            let Some(ended) = pair[0].ended else { continue };
            let wait = u64::try_from(wait_behind(command, &pair[0]).as_nanos()).unwrap_or(u64::MAX);
            let early = ended.saturating_add(wait).saturating_sub(pair[1].started);
            if wait > 0 && early > RESOLUTION && pair[1].attempt > pair[0].attempt {
                let what = format!("{id}, attempt {}: {} ms early", pair[1].attempt, early / 1_000_000);
                violations.add("run again too soon", what);
            }
        }
    }
}

/// How long a command waits at least behind this execution: not at all where nobody has written down that it should.
fn wait_behind(command: &Command, execution: &Execution<'_>) -> Duration {
    let number = i64::from(execution.attempt);
    let line = command.attempts.iter().find(|line| i64::from(line.attempt) == number);
    match line {
        Some(line) if is_noted_in_time(&line.kind, execution) => {
            let before = |attempt: i32| i64::from(attempt) < number;
            let used = command.attempts.iter().filter(|line| before(line.attempt) && line.kind != "lost_lease").count();
            POLICY.delay(u32::try_from(used).unwrap_or(u32::MAX), 0.0)
        }
        None if command.row.key == SNOOZING && execution.attempt <= SNOOZES => command.job.snooze(),
        _ => Duration::ZERO,
    }
}

/// What follows an end begins behind it.
pub(super) fn nothing_followed_too_soon(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    let parents = stored.commands.values().filter(|command| !command.is_follow_up());
    let ends: HashMap<u64, u64> =
        parents.filter_map(|command| Some((command.job.number, not_ended_before(command, history)?))).collect();
    for (id, command) in stored.commands.iter().filter(|(_, command)| command.is_follow_up()) {
        let Some(end) = ends.get(&command.job.number) else { continue };
        if history.executions_of(id).first().is_some_and(|first| first.started < *end) {
            violations.add("followed up too soon", id);
        }
    }
}

/// When a command had not ended yet: when its handler said that it ended, or began where that completes the command
/// itself; or when it was to be canceled for the first time. Nobody knows it of one that was parked, whose handler may
/// still have been running.
fn not_ended_before(command: &Command, history: &History<'_>) -> Option<u64> {
    let ended = command.ended.as_ref()?;
    let last = history.execution(&ended.id, ended.attempt);
    match ended.state.as_str() {
        "canceled" => history.cancel_asked.get(&ended.id).copied(),
        "completed" if command.row.key == EFFECT => Some(last?.started),
        "completed" => last?.ended,
        _ => {
            let line = command.attempts.iter().find(|line| line.attempt == ended.attempt)?;
            last.filter(|last| is_noted_in_time(&line.kind, last))?.ended
        }
    }
}

/// For how long after its beginning only the timer of an attempt ends it as timed out. A second behind the timeout the
/// housekeeper does, too, and what it ends is noted later.
const BY_ITS_TIMER: u64 = 1_000_000_000;

/// Whether an attempt that failed so had noted its end before the engine heard of it.
fn is_noted_in_time(kind: &str, execution: &Execution<'_>) -> bool {
    match kind {
        "error" | "panic" => execution.failed,
        "timeout" => execution.ended.is_some_and(|ended| ended.saturating_sub(execution.started) <= BY_ITS_TIMER),
        _ => false,
    }
}

/// Where the server and the network are left alone, only who dies, ends, sleeps or gets no memory loses a lease. Of one
/// that had not begun nobody has written down who held it.
pub(super) fn leases_were_lost_for_a_reason(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    let troubles = troubles(history.records);
    for (id, command) in &stored.commands {
        for line in command.attempts.iter().filter(|line| line.kind == "lost_lease") {
            let executions = history.executions_of(id).iter();
            let mut held = executions.filter(|execution| i64::from(execution.attempt) == i64::from(line.attempt));
            let lost = stored.monotonic(line.ended_at.as_micros());
            let is_well = |execution: &&Execution<'_>| {
                let troubles = troubles.get(execution.process).map_or(&[][..], Vec::as_slice);
                !troubles.iter().any(|(from, to)| i128::from(*from) <= lost && *to >= execution.started)
            };
            if let Some(execution) = held.find(is_well) {
                let what = format!("{id}, attempt {}, of {}", line.attempt, execution.process);
                violations.add("a lease that was lost without a reason", what);
            }
        }
    }
}

/// What a process has claimed before or in the middle of its trouble it may begin so much later.
const RECOVERED: u64 = 5_000_000_000;

/// From when to when each process was away, asleep or without memory.
fn troubles(records: &[Record]) -> HashMap<&str, Vec<(u64, u64)>> {
    let mut troubles: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    // Since when each sleeps or gets no memory: one that sleeps may get none either, and what ends first ends alone.
    let mut asleep: HashMap<&str, u64> = HashMap::new();
    let mut starved: HashMap<&str, u64> = HashMap::new();
    for record in records {
        let ended = match &record.entry {
            Entry::Died { process, .. } | Entry::Left { process } => Some((process, Some(record.at), u64::MAX)),
            Entry::Paused { process } => {
                asleep.insert(process, record.at);
                None
            }
            Entry::Starved { process } => {
                starved.insert(process, record.at);
                None
            }
            Entry::Resumed { process } => Some((process, asleep.remove(process.as_str()), record.at + RECOVERED)),
            Entry::Fed { process } => Some((process, starved.remove(process.as_str()), record.at + RECOVERED)),
            _ => None,
        };
        if let Some((process, Some(from), to)) = ended {
            troubles.entry(process).or_default().push((from, to));
        }
    }
    for (process, from) in asleep.into_iter().chain(starved) {
        troubles.entry(process).or_default().push((from, u64::MAX));
    }
    troubles
}

pub(super) fn nothing_began_after_a_cancel(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    // When it was canceled, and the last attempt that may have begun before.
    let mut canceled: HashMap<Uuid, (u64, u32)> = HashMap::new();
    for record in history.records {
        if let Entry::Canceled { id, at_once, attempt } = &record.entry {
            let last = if *at_once { 0 } else { attempt.unwrap_or(u32::MAX) };
            canceled.insert(*id, (record.at, last));
            if *at_once && stored.commands.get(id).is_some_and(|command| command.state() != "canceled") {
                violations.add("canceled and not so ended", id);
            }
        }
    }
    for (id, (at, last)) in canceled {
        for execution in history.executions_of(&id) {
            let is_late = execution.started > at && execution.attempt > last;
            // What was claimed before a pause may begin behind it, before it is told.
            if is_late && !history.is_excused(execution.process, execution.started, execution.over) {
                violations.add("began after it was canceled", format!("{id}, attempt {}", execution.attempt));
            }
        }
    }
}

/// What happened without memory may be found a moment later.
const FOUND_LATE: u64 = 1_000_000_000;

/// A process that has ended by `abort` has begun a deadly command and not ended it, or got no memory then.
pub(super) fn only_the_deadly_end_their_process(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    let deadly = stored.commands.iter().filter(|(_, command)| command.is_deadly());
    let executions = deadly.flat_map(|(id, _)| history.executions_of(id));
    let excused: HashSet<&str> =
        executions.filter(|execution| execution.ended.is_none()).map(|execution| execution.process).collect();
    // Until when each got no memory.
    let mut starved: HashMap<&str, u64> = HashMap::new();
    for record in history.records {
        match &record.entry {
            Entry::Starved { process } => {
                starved.insert(process, u64::MAX);
            }
            Entry::Fed { process } => {
                starved.insert(process, record.at + FOUND_LATE);
            }
            Entry::Died { process, aborted: true } => {
                let is_starved = starved.get(process.as_str()).is_some_and(|until| record.at <= *until);
                if !is_starved && !excused.contains(process.as_str()) {
                    violations.add("a process that aborted without reason", process);
                }
            }
            _ => {}
        }
    }
}
