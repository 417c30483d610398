//! What an application asks for: a key, a payload and options.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sea_orm::DeriveValueType;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::retry::RetryPolicy;

/// The identity of a command, a UUID of version 7: ids of one process sort by the time of their append.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, DeriveValueType)]
#[serde(transparent)]
pub struct CommandId(Uuid);

impl CommandId {
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id as a plain UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl From<Uuid> for CommandId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl FromStr for CommandId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be appended",
    label = "neither a `(key, payload)` pair, nor a `Command`, nor a request",
    note = "derive `Request` for it, or append `(\"key\", value)` with a value that is `Serialize`"
)]
/// Anything that can be appended: a `(key, payload)` pair, a [`Command`], or a request type of the mediator.
pub trait IntoCommand {
    /// Turns the value into a command.
    ///
    /// # Errors
    /// [`Error::Serialization`] when the payload cannot be written as JSON.
    fn into_command(self) -> Result<Command>;
}

impl<K: Into<String>, P: Serialize> IntoCommand for (K, P) {
    fn into_command(self) -> Result<Command> {
        Command::new(self.0, &self.1)
    }
}

impl IntoCommand for Command {
    fn into_command(self) -> Result<Command> {
        Ok(self)
    }
}

/// A command under construction. What is not set is filled in at append, from the key's defaults, then from the
/// orchestrator's.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a command does nothing until it is appended"]
pub struct Command {
    pub(crate) key: String,
    pub(crate) payload: String,
    pub(crate) queue: Option<String>,
    pub(crate) priority: Option<i16>,
    pub(crate) due: Due,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry_count: Option<u32>,
    pub(crate) retry_policy: Option<RetryPolicy>,
    pub(crate) unique: Option<String>,
    pub(crate) on_success: Vec<Command>,
    pub(crate) on_failure: Vec<Command>,
    pub(crate) on_cancel: Option<Vec<Command>>,
}

/// When a command is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Due {
    After(Duration),
    At(OffsetDateTime),
}

impl Command {
    /// A command for `key`, with a payload written as JSON.
    ///
    /// # Errors
    /// [`Error::Serialization`] when the payload cannot be written as JSON.
    pub fn new(key: impl Into<String>, payload: &impl Serialize) -> Result<Self> {
        let key = key.into();
        match serde_json::to_string(payload) {
            Ok(payload) => Ok(Self {
                key,
                payload,
                queue: None,
                priority: None,
                due: Due::After(Duration::ZERO),
                timeout: None,
                retry_count: None,
                retry_policy: None,
                unique: None,
                on_success: Vec::new(),
                on_failure: Vec::new(),
                on_cancel: None,
            }),
            Err(problem) => Err(Error::Serialization { what: "payload", key, problem }),
        }
    }

    /// How long one attempt may run before it is stopped. From 1 ms to 100 years.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Retries after the first attempt: `3` allows four attempts.
    pub const fn retry_count(mut self, retries: u32) -> Self {
        self.retry_count = Some(retries);
        self
    }

    /// The waits between attempts, stored with the command.
    pub const fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.retry_policy = Some(policy);
        self
    }

    /// Run no sooner than this long after the append, by the database's clock.
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// Run no sooner than this instant, by the database's clock.
    pub const fn at(mut self, instant: OffsetDateTime) -> Self {
        self.due = Due::At(instant);
        self
    }

    /// The lane to run in; the default is the key's, then `default`.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Larger runs first. The default is 0.
    pub const fn priority(mut self, priority: i16) -> Self {
        self.priority = Some(priority);
        self
    }

    /// At most one live command holds this key. It is free again when the command ends.
    pub fn unique(mut self, key: impl Into<String>) -> Self {
        self.unique = Some(key.into());
        self
    }

    /// Appends `command` when this one completes, in the same transaction. Call it again for more.
    ///
    /// All follow-ups of a command, and theirs, are stored with it: sixteen deep, and as much JSON as the limit of payloads
    /// allows.
    pub fn on_success(mut self, command: Self) -> Self {
        self.on_success.push(command);
        self
    }

    /// Appends `command` when this one fails for good, in the same transaction; also when it is canceled, unless
    /// [`on_cancel`](Self::on_cancel) says otherwise.
    pub fn on_failure(mut self, command: Self) -> Self {
        self.on_failure.push(command);
        self
    }

    /// Appends `command` when this one is canceled, in the same transaction, instead of what
    /// [`on_failure`](Self::on_failure) appends.
    pub fn on_cancel(mut self, command: Self) -> Self {
        self.on_cancel.get_or_insert_default().push(command);
        self
    }

    /// Appends nothing when this command is canceled, whatever [`on_failure`](Self::on_failure) says.
    pub fn nothing_on_cancel(mut self) -> Self {
        self.on_cancel = Some(Vec::new());
        self
    }

    /// The key that routes the command to its executor.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The payload, as JSON text.
    #[must_use]
    pub fn payload(&self) -> &str {
        &self.payload
    }
}

/// A command with every option decided, as the store writes it.
///
/// It is also the stored form of a follow-up: whoever ends the parent, a command line or another build included, can
/// append it without knowing the request's type or the defaults of the program that appended the parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NewCommand {
    pub(crate) key: String,
    pub(crate) queue: String,
    pub(crate) priority: i16,
    pub(crate) payload: String,
    pub(crate) run_at: RunAt,
    pub(crate) timeout_ms: i64,
    pub(crate) retry_count: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_policy: Option<RetryPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unique_key: Option<String>,
    #[serde(default, skip_serializing_if = "FollowUps::is_empty")]
    pub(crate) follow_ups: FollowUps,
}

impl NewCommand {
    /// The policy as JSON text, if it has one of its own.
    pub(crate) fn stored_policy(&self) -> Option<String> {
        // A policy is numbers, which are always written.
        serde_json::to_string(self.retry_policy.as_ref()?).ok()
    }

    /// The follow-ups as JSON text, if there are any.
    pub(crate) fn stored_follow_ups(&self) -> Option<String> {
        (!self.follow_ups.is_empty()).then(|| serde_json::to_string(&self.follow_ups).ok()).flatten()
    }

    /// How many bytes of payload it brings, those of its follow-ups included.
    pub(crate) fn weight(&self) -> usize {
        let FollowUps { success, failure, cancel } = &self.follow_ups;
        let follow_ups = success.iter().chain(failure).chain(cancel.iter().flatten());
        self.payload.len() + follow_ups.map(Self::weight).sum::<usize>()
    }
}

/// When a command is due, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RunAt {
    /// After the database's statement time.
    AfterMicros(i64),
    /// Since 1970.
    AtMicros(i64),
}

/// Commands to append when another one ends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct FollowUps {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) success: Vec<NewCommand>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failure: Vec<NewCommand>,
    /// `None`: those of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cancel: Option<Vec<NewCommand>>,
}

impl FollowUps {
    pub(crate) const fn is_empty(&self) -> bool {
        self.success.is_empty() && self.failure.is_empty() && self.cancel.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The id is also the cursor of a list.
        #[test]
        fn any_text_is_an_id_or_an_error(
            text in prop_oneof![any::<String>(), "[0-9a-fA-F]{30,34}", "(urn:uuid:|\\{)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{11,13}\\}?"],
        ) {
            if let Ok(id) = text.parse::<CommandId>() {
                prop_assert_eq!(id.to_string().parse::<CommandId>(), Ok(id));
            }
        }

        #[test]
        fn an_id_is_read_as_it_was_written(id in any::<u128>()) {
            let id = CommandId::from(Uuid::from_u128(id));
            prop_assert_eq!(id.to_string().parse::<CommandId>(), Ok(id));
        }
    }
}
