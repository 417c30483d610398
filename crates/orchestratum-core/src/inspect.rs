//! What an application, a command line or a dashboard sees of commands and queues.

use std::time::Duration;

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::command::CommandId;
use crate::error::{Error, Result};
use crate::instance_id::InstanceId;
use crate::outcome::AttemptKind;
use crate::state::State;

/// A command as the database had it at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CommandInfo {
    /// The identity.
    pub id: CommandId,
    /// The key that routes it.
    pub key: String,
    /// The lane it runs in.
    pub queue: String,
    /// Larger runs first.
    pub priority: i16,
    /// Where it is in its life.
    pub state: State,
    /// The number of the latest attempt; 0 before the first.
    pub attempt: u32,
    /// Retries allowed after the first attempt.
    pub retry_count: u32,
    /// Failures used up; 0 once the command has ended.
    pub failures: u32,
    /// Leases lost; 0 once the command has ended.
    pub losses: u32,
    /// How long one attempt may run.
    pub timeout: Duration,
    /// The unique key that it was appended with.
    pub unique_key: Option<String>,
    /// The payload, as JSON text.
    pub payload: String,
    /// When it is due, or was due when it was claimed; `None` once it has ended.
    pub run_at: Option<OffsetDateTime>,
    /// When it was appended, by the database's clock.
    pub created_at: OffsetDateTime,
    /// When it ended, by the database's clock.
    pub finished_at: Option<OffsetDateTime>,
    /// How long the last attempt ran, by the clock of the instance that ran it.
    pub duration: Option<Duration>,
    /// The instance that holds it, or that ended it.
    pub instance: Option<InstanceId>,
    /// Whether a user asked to cancel it while it was running.
    pub cancel_requested: bool,
    /// The output of a completed command, as JSON text; `None` for `()`.
    pub output: Option<String>,
    /// Why it failed, or the error of the attempt during which it was canceled.
    pub error: Option<String>,
}

/// An attempt that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttemptInfo {
    /// The number of the attempt.
    pub attempt: u32,
    /// How it ended.
    pub kind: AttemptKind,
    /// What the executor or the engine said.
    pub error: String,
    /// The instance that ran it.
    pub instance: Option<InstanceId>,
    /// When it ended, by the database's clock.
    pub ended_at: OffsetDateTime,
}

/// The state of a command and, once it has ended, its output and error, as stored.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) state: State,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<String>,
}

/// How a command has ended, if it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// Not yet; the state it is in.
    Live(State),
    /// With this output.
    Completed(T),
    /// With this error.
    Failed(String),
    /// Because a user asked for it.
    Canceled,
}

impl<T> Outcome<T> {
    /// The output of a completed command.
    pub fn completed(self) -> Option<T> {
        match self {
            Self::Completed(output) => Some(output),
            Self::Live(_) | Self::Failed(_) | Self::Canceled => None,
        }
    }

    /// Whether the command has ended.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        !matches!(self, Self::Live(_))
    }
}

impl<T: DeserializeOwned> Outcome<T> {
    pub(crate) fn read(id: CommandId, ending: Ending) -> Result<Self> {
        let Ending { state, output, error } = ending;
        Ok(match state {
            State::Completed => {
                let output = output.as_deref().unwrap_or("null");
                Self::Completed(serde_json::from_str(output).map_err(|source| Error::Output { id, source })?)
            }
            State::Failed => Self::Failed(error.unwrap_or_default()),
            State::Canceled => Self::Canceled,
            State::Pending | State::Blocked | State::Running => Self::Live(state),
        })
    }
}

/// Which commands to list. What is empty or `None` does not restrict.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Filter {
    pub(crate) states: Vec<State>,
    pub(crate) keys: Vec<String>,
    pub(crate) queues: Vec<String>,
    pub(crate) created_from: Option<OffsetDateTime>,
    pub(crate) created_before: Option<OffsetDateTime>,
}

impl Filter {
    /// All commands.
    pub fn all() -> Self {
        Self::default()
    }

    /// Commands that have not ended.
    pub fn live() -> Self {
        Self { states: State::ALL.into_iter().filter(|state| !state.has_ended()).collect(), ..Self::default() }
    }

    /// Commands that have ended.
    pub fn ended() -> Self {
        Self { states: State::ALL.into_iter().filter(|state| state.has_ended()).collect(), ..Self::default() }
    }

    /// Commands in this state; call it again for more.
    pub fn state(mut self, state: State) -> Self {
        self.states.push(state);
        self
    }

    /// Commands of this key; call it again for more.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// Commands of this queue; call it again for more.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queues.push(queue.into());
        self
    }

    /// Commands appended at this instant or later.
    pub const fn created_from(mut self, instant: OffsetDateTime) -> Self {
        self.created_from = Some(instant);
        self
    }

    /// Commands appended before this instant.
    pub const fn created_before(mut self, instant: OffsetDateTime) -> Self {
        self.created_before = Some(instant);
        self
    }
}

/// Which part of a list, and in which order. Ids sort by the time of the append, to a millisecond, by the clock of the
/// machine that appended.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Page {
    pub(crate) limit: u16,
    pub(crate) order: Order,
    pub(crate) after: Option<CommandId>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The latest append first.
    #[default]
    NewestFirst,
    /// The earliest append first.
    OldestFirst,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: 50, order: Order::NewestFirst, after: None }
    }
}

impl Page {
    /// At most this many commands, up to 1,000. The default is 50.
    pub const fn limit(mut self, limit: u16) -> Self {
        self.limit = if limit > 1_000 { 1_000 } else { limit };
        self
    }

    /// The order. The default is the latest append first.
    pub const fn order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// The page after the one whose last command had this id.
    pub const fn after(mut self, last: CommandId) -> Self {
        self.after = Some(last);
        self
    }
}

/// A count that stops at 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// The number counted.
    pub value: u64,
    /// Whether there are more.
    pub at_least: bool,
}

/// How much there is of what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Queues that have live commands or are paused, by name.
    pub queues: Vec<QueueStats>,
    /// Completed commands that have not been purged.
    pub completed: Count,
    /// Failed commands that have not been purged.
    pub failed: Count,
    /// Canceled commands that have not been purged.
    pub canceled: Count,
}

/// Live commands of one queue. All four numbers are from a sample when `capped`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct QueueStats {
    /// The name.
    pub queue: String,
    /// Whether the queue is paused.
    pub paused: bool,
    /// Pending and due.
    pub due: u64,
    /// Pending and scheduled for later.
    pub scheduled: u64,
    /// Blocked.
    pub blocked: u64,
    /// Running.
    pub running: u64,
    /// Whether counting stopped at 10,000 commands of the queue.
    pub capped: bool,
}
