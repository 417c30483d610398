//! How commands must end, and what must have come of it.

use std::collections::HashMap;

use orchestratum_core::entity::ended;

use super::Violations;
use super::history::History;
use super::stored::{Command, SAME_TIME, Stored};
use crate::job::{AFTER_FAILURE, AFTER_SUCCESS, BAD, BAD_RETRIES, EFFECT, FAILING, FATAL, FLAKY, LONG, RETRIES, STUCK};
use crate::ledger::{Entry, Shape};

pub(super) fn everything_ended_as_it_should(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    for id in &stored.strays {
        violations.add("rows of no command", id);
    }
    for (id, command) in &stored.commands {
        let key = &command.row.key;
        match (&command.live, &command.ended) {
            (Some(live), None) => violations.add("left live", format!("{id} ({key}, {})", live.state)),
            (Some(_), Some(ended)) => violations.add("live and ended", format!("{id} ({key}, {})", ended.state)),
            (None, None) => violations.add("neither live nor ended", format!("{id} ({key})")),
            (None, Some(ended)) => {
                ended_as_it_should(command, ended, history, violations);
                completed_by_its_handler(stored, command, ended, history, violations);
            }
        }
        attempts_are_within_bounds(command, history, violations);
    }
}

fn ended_as_it_should(command: &Command, ended: &ended::Model, history: &History<'_>, violations: &mut Violations) {
    let (id, key) = (&ended.id, command.row.key.as_str());
    let is_bad = BAD.contains(&key);
    let as_it_should = match ended.state.as_str() {
        "completed" => !is_bad,
        "failed" => is_bad || command.is_parked(),
        "canceled" => history.cancel_asked.contains_key(id),
        _ => false,
    };
    if !as_it_should {
        let error = ended.error.as_deref().unwrap_or_default();
        violations.add("ended as it should not", format!("{id} ({key}) {}: {error}", ended.state));
    }
    // A line of a ledger survives the kill of its process, so the handler has begun if the line is there, and only then.
    let must_have_run = ended.state == "completed" || ended.state == "failed" && !command.is_parked();
    if must_have_run && !history.has_started(id, ended.attempt) {
        violations.add("ended without having run", format!("{id} ({key}), attempt {}", ended.attempt));
    }
    let last = history.executions_of(id).iter().map(|execution| execution.attempt).max().unwrap_or(0);
    if i64::from(last) > i64::from(ended.attempt) {
        violations.add("ran on after its end", format!("{id} ({key}), attempt {last} after {}", ended.attempt));
    }
}

/// The handler of the attempt has said that it succeeded, before the engine could know: a ledger has that line although
/// the process was killed right behind it. Only `effect` completes its command itself, and may not live to say so.
fn completed_by_its_handler(
    stored: &Stored,
    command: &Command,
    ended: &ended::Model,
    history: &History<'_>,
    violations: &mut Violations,
) {
    let (id, key) = (&ended.id, command.row.key.as_str());
    let Some(execution) = history.execution(id, ended.attempt) else { return };
    if ended.state != "completed" || key == EFFECT {
        return;
    }
    match execution.succeeded {
        None => violations.add("completed without success", format!("{id} ({key}), attempt {}", ended.attempt)),
        Some(at) if stored.monotonic(ended.finished_at.as_micros()) + SAME_TIME < i128::from(at) => {
            violations.add("completed before its handler had ended", format!("{id} ({key})"));
        }
        Some(_) => {}
    }
}

fn attempts_are_within_bounds(command: &Command, history: &History<'_>, violations: &mut Violations) {
    let (id, key) = (&command.row.id, command.row.key.as_str());
    let failures = || command.attempts.iter().filter(|attempt| attempt.kind != "lost_lease");
    let allowed = usize::try_from(command.row.retry_count).unwrap_or(0) + 1;
    let may_fail = BAD.contains(&key) && !command.is_parked();
    if command.state() == "failed" && may_fail && failures().count() < allowed {
        violations.add("failed with retries left", format!("{id} ({key}): {} failures", failures().count()));
    }
    if command.row.key == FATAL && !command.is_parked() && !history.cancel_asked.contains_key(id) {
        violations.add("killed its process for ever", format!("{id} ended {}", command.state()));
    }
    // One that fails of its own doing is told of, if only as a lease that was lost before it could be written down. Not
    // where the handler's own completion was committed, and it did not hear of that.
    let completes_itself = |ended: &&ended::Model| key == EFFECT && ended.state == "completed";
    let completed = command.ended.as_ref().filter(completes_itself).map(|ended| ended.attempt);
    for execution in history.executions_of(id).iter().filter(|execution| execution.failed) {
        let number = i32::try_from(execution.attempt).ok();
        let is_told = command.attempts.iter().any(|attempt| Some(attempt.attempt) == number);
        if !is_told && number != completed && !history.cancel_asked.contains_key(id) {
            violations.add("a failure that was not counted", format!("{id} ({key}), attempt {}", execution.attempt));
        }
    }
    if failures().count() > allowed || command.has_lost_too_many_leases() {
        violations.add("more attempts than allowed", format!("{id} ({key}): {} failures", failures().count()));
    }
    let (kinds, most) = failures_of(key);
    for attempt in failures() {
        let (number, error) = (attempt.attempt, &attempt.error);
        if !kinds.contains(&attempt.kind.as_str()) || failures().count() > most {
            violations.add("failed as it cannot", format!("{id} ({key}), attempt {number}, {}: {error}", attempt.kind));
        }
        if !history.has_started(id, number) {
            violations.add("failed without having run", format!("{id} ({key}), attempt {number}: {error}"));
        }
    }
}

/// Whoever takes neighbors along does so again and again only to those that run for long.
pub(super) fn few_innocents_were_parked(stored: &Stored, acknowledged: usize, violations: &mut Violations) {
    let parked = short(stored.parked_innocents()).count();
    if parked * 10_000 > acknowledged {
        violations.add("innocents that were parked", format!("{parked} of {acknowledged}"));
    }
}

pub(super) fn short<'a>(commands: impl Iterator<Item = &'a Command>) -> impl Iterator<Item = &'a Command> {
    commands.filter(|command| command.row.key != LONG)
}

/// How a handler can fail by its own doing, and how often. One that is told to stop has not failed.
fn failures_of(key: &str) -> (&'static [&'static str], usize) {
    let retries = |count: u32| usize::try_from(count).unwrap_or(usize::MAX).saturating_add(1);
    match key {
        // It meets every fault of the database.
        EFFECT => (&["error", "timeout"], retries(RETRIES)),
        FLAKY => (&["error"], 2),
        "panicking" => (&["panic"], 1),
        FAILING => (&["error"], retries(BAD_RETRIES)),
        STUCK => (&["timeout"], retries(BAD_RETRIES)),
        _ => (&[], 0),
    }
}

/// Whose commit was acknowledged has completed its command, and none behind it.
pub(super) fn acknowledged_effects_are_there(stored: &Stored, history: &History<'_>, violations: &mut Violations) {
    for record in history.records {
        let Entry::Effected { id, attempt } = &record.entry else { continue };
        let ended = stored.commands.get(id).and_then(|command| command.ended.as_ref());
        let is_its_own =
            |ended: &ended::Model| ended.state == "completed" && i64::from(ended.attempt) == i64::from(*attempt);
        if !ended.is_some_and(is_its_own) {
            violations.add("a completion that was acknowledged and lost", format!("{id}, attempt {attempt}"));
        }
    }
}

pub(super) fn effects_and_follow_ups_came_once(stored: &Stored, violations: &mut Violations) {
    for (id, command) in &stored.commands {
        let takes_effect = command.row.key == EFFECT && command.state() == "completed";
        let effects = stored.effects.get(id).copied().unwrap_or(0);
        if effects != usize::from(takes_effect) {
            violations.add("took effect wrongly", format!("{id} {}: {effects} times", command.state()));
        }
    }
    for id in stored.effects.keys().filter(|id| !stored.commands.contains_key(id)) {
        violations.add("took effect wrongly", format!("{id}, which is not there"));
    }
    let mut follow_ups: HashMap<u64, Vec<&str>> = HashMap::new();
    for command in stored.commands.values().filter(|command| command.is_follow_up()) {
        follow_ups.entry(command.job.number).or_default().push(&command.row.key);
    }
    for (id, command) in stored.commands.iter().filter(|(_, command)| !command.is_follow_up()) {
        let wanted: &[&str] = match command.state() {
            _ if command.job.shape != Shape::Chained => &[],
            "completed" => &[AFTER_SUCCESS],
            "failed" | "canceled" => &[AFTER_FAILURE],
            _ => &[],
        };
        let came = follow_ups.remove(&command.job.number).unwrap_or_default();
        if came != wanted {
            violations.add("not followed up once", format!("{id} {}: {came:?}", command.state()));
        }
    }
    for (number, came) in follow_ups {
        violations.add("not followed up once", format!("number {number}, which is not there: {came:?}"));
    }
}
