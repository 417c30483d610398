//! From what an application asked for to what the store writes: defaults filled in, limits checked.

use std::time::Duration;

use crate::command::{Command, Due, FollowUps, NewCommand, RunAt};
use crate::config::{Config, DEFAULT_QUEUE, LONGEST, name_problem};
use crate::error::{Error, Result};
use crate::executor::{Defaults, Registry};
use crate::instant::Timestamp;

/// How deep follow-ups of follow-ups may be nested: a chain longer than this is better computed step by step.
const MAX_DEPTH: usize = 16;

/// Decides every option of a command, of its follow-ups, and of theirs.
pub(crate) fn resolve(command: Command, config: &Config, registry: &Registry) -> Result<NewCommand> {
    let new = resolve_at(command, config, registry, None)?;
    let bytes = new.stored_follow_ups().map_or(0, |follow_ups| follow_ups.len());
    if bytes > config.payload_limit {
        let problem = format!("{bytes} bytes of follow-ups are more than the limit of {}", config.payload_limit);
        return Err(Error::InvalidCommand { key: new.key, option: heaviest(&new.follow_ups), problem });
    }
    Ok(new)
}

/// The method that set most of these.
fn heaviest(follow_ups: &FollowUps) -> &'static str {
    let weight = |commands: &[NewCommand]| commands.iter().map(NewCommand::weight).sum::<usize>();
    let FollowUps { success, failure, cancel } = follow_ups;
    let cancel = cancel.as_deref().map_or(0, weight);
    let options = [(cancel, "on_cancel"), (weight(failure), "on_failure"), (weight(success), "on_success")];
    options.into_iter().max_by_key(|(weight, _)| *weight).map_or("on_success", |(_, option)| option)
}

/// `follows`: the method that made it a follow-up, and how deep it is.
fn resolve_at(
    command: Command,
    config: &Config,
    registry: &Registry,
    follows: Option<(&'static str, usize)>,
) -> Result<NewCommand> {
    let Command { key, payload, .. } = &command;
    let invalid = |option, problem: String| Err(Error::InvalidCommand { key: shorten(key), option, problem });
    if let Some(problem) = name_problem(key) {
        return invalid("key", problem);
    }
    registry.check_appendable(key)?;
    let unset = Defaults::default();
    let defaults = registry.get(key).map_or(&unset, |executor| &executor.defaults);
    if let Some((option, depth)) = follows
        && depth > MAX_DEPTH
    {
        return invalid(option, format!("follow-ups are nested more than {MAX_DEPTH} deep"));
    }
    if payload.len() > config.payload_limit {
        let problem = format!("{} bytes of JSON are more than the limit of {}", payload.len(), config.payload_limit);
        return invalid("payload", problem);
    }
    let queue = command.queue.as_deref().or(defaults.queue.as_deref()).unwrap_or(DEFAULT_QUEUE);
    if let Some(problem) = name_problem(queue) {
        return invalid("queue", problem);
    }
    if let Some(problem) = command.unique.as_deref().and_then(name_problem) {
        return invalid("unique", problem);
    }
    let timeout = command.timeout.or(defaults.timeout).unwrap_or(config.default_timeout);
    if timeout < Duration::from_millis(1) || timeout > LONGEST {
        return invalid("timeout", format!("{timeout:?} is not between 1 ms and 100 years"));
    }
    let retry_count = command.retry_count.or(defaults.retry_count).unwrap_or(config.default_retry_count);
    let Ok(retry_count) = i32::try_from(retry_count) else {
        return invalid("retry_count", format!("{retry_count} is more than {}", i32::MAX));
    };
    let retry_policy = command.retry_policy.clone().or_else(|| defaults.retry_policy.clone());
    if let Some(problem) = retry_policy.as_ref().and_then(|policy| policy.problem()) {
        return invalid("retry_policy", problem.to_owned());
    }
    let run_at = match command.due {
        Due::At(instant) => RunAt::AtMicros(Timestamp::from(instant).as_micros()),
        Due::After(delay) => match i64::try_from(delay.as_micros()) {
            Ok(micros) if Timestamp::now().as_micros().saturating_add(micros) <= Timestamp::MAX.as_micros() => {
                RunAt::AfterMicros(micros)
            }
            _ => return invalid("delay", format!("{delay:?} ends after the year 9999")),
        },
    };
    let depth = follows.map_or(1, |(_, depth)| depth + 1);
    let all = |commands: Vec<Command>, option| {
        let commands = commands.into_iter();
        let resolved = commands.map(|command| resolve_at(command, config, registry, Some((option, depth))));
        resolved.collect::<Result<Vec<_>>>()
    };
    let new = NewCommand {
        queue: queue.to_owned(),
        priority: command.priority.or(defaults.priority).unwrap_or(0),
        run_at,
        timeout_ms: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX),
        retry_count,
        retry_policy,
        unique_key: command.unique,
        follow_ups: FollowUps {
            success: all(command.on_success, "on_success")?,
            cancel: command.on_cancel.map(|commands| all(commands, "on_cancel")).transpose()?,
            failure: all(command.on_failure, "on_failure")?,
        },
        key: command.key,
        payload: command.payload,
    };
    Ok(new)
}

/// A key for a message: the start of it where it is absurdly long.
fn shorten(key: &str) -> String {
    if key.len() <= crate::config::MAX_KEY_BYTES {
        key.to_owned()
    } else {
        key.chars().take(20).chain(['…']).collect()
    }
}
