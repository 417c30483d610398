//! What can go wrong, by what the caller can do about it.

use sea_orm::DbErr;

use crate::command::CommandId;
use crate::state::IllegalTransition;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database refused a statement or cannot be reached; [`Error::is_transient`] tells whether to try again.
    #[error("database: {0}")]
    Database(DbErr),
    /// The file is held by a writer that does not let go: wait and try again; inside of a transaction of your own, append
    /// with `.within(&transaction)`.
    #[error(
        "another transaction holds the database file ({0}); inside of your own transaction append with \
         `.within(&transaction)`"
    )]
    Locked(DbErr),
    /// The database cannot be reached at start: look at the address, the credentials and the server.
    #[error("the database cannot be reached: {0}")]
    Unreachable(DbErr),
    /// An option of the builder makes no sense.
    #[error("invalid `{option}`: {problem}")]
    InvalidConfig {
        /// The builder's method.
        option: String,
        /// What is wrong with the value, with the value.
        problem: String,
    },
    /// An option of a command makes no sense; nothing was appended.
    #[error("invalid `{option}` of command `{key}`: {problem}")]
    InvalidCommand {
        /// The command's key.
        key: String,
        /// The method that set the option.
        option: &'static str,
        /// What is wrong with the value, with the value.
        problem: String,
    },
    /// Nobody is known to run this key; nothing was appended.
    #[error(
        "no executor is registered for key `{key}`; this program serves: {}. \
         Register one, declare the key with `.remote(\"{key}\")` if another program runs it, \
         or build with `.client_only()`. Handlers of requests are registered by `.mediator()`. A handler in a crate that nothing references is not linked: \
         add `use that_crate as _;`",
        list(known)
    )]
    UnknownKey {
        /// The key that was appended.
        key: String,
        /// The keys that this program serves.
        known: Vec<String>,
    },
    /// A payload or an output could not be written as JSON; nothing was stored.
    #[error("the {what} of command `{key}` cannot be written as JSON: {problem}")]
    Serialization {
        /// `payload` or `output`.
        what: &'static str,
        /// The command's key.
        key: String,
        /// What JSON says.
        problem: serde_json::Error,
    },
    /// The stored output is not of the type asked for.
    #[error("the output of command {id} is not of the type asked for: {source}")]
    Output {
        /// The command.
        id: CommandId,
        /// What JSON says.
        source: serde_json::Error,
    },
    /// There is no such command: it was never appended, was rolled back, or was purged.
    #[error("command {0} does not exist")]
    NotFound(CommandId),
    /// The command is in a state that does not allow this.
    #[error("command {id}: {source}")]
    NotAllowed {
        /// The command.
        id: CommandId,
        /// The state and what was tried.
        source: IllegalTransition,
    },
    /// A live command holds the unique key: wait until it has ended, or cancel it.
    #[error("command {holder} holds the unique key `{unique_key}` and has not ended")]
    UniqueKeyTaken {
        /// The key.
        unique_key: String,
        /// The live command that holds it.
        holder: CommandId,
    },
    /// The lease of this attempt is gone; whatever it writes now must be rolled back.
    #[error(
        "attempt {attempt} of command {id} has lost its lease, or has completed already: another attempt may be running"
    )]
    LeaseLost {
        /// The command.
        id: CommandId,
        /// The attempt that was late.
        attempt: u32,
    },
    /// The schema is missing or older than the program.
    #[error(
        "the database schema {}: call `.migrate()` on the builder, or, in a clone of Orchestratum and with DATABASE_URL \
         set, run `cargo run -p orchestratum-migration -- up`",
        match found { Some(found) => format!("is at version {found}, this program needs {needed}"), None => "is missing".to_owned() }
    )]
    SchemaBehind {
        /// The version found; `None` where there is no schema.
        found: Option<i32>,
        /// The version that this program needs.
        needed: i32,
    },
    /// The schema is newer than the program.
    #[error("the database schema is at version {found}, ahead of this program's {known}: deploy a newer program")]
    SchemaAhead {
        /// The version found.
        found: i32,
        /// The version that this program knows.
        known: i32,
    },
    /// Something that handlers need was not given to the builder.
    #[error("{wanted_by} needs the service `{service}`: add `.service(..)` or `.shared(..)` to the builder")]
    MissingService {
        /// The type name of the service.
        service: &'static str,
        /// The handler or call that asked for it.
        wanted_by: String,
    },
    /// The background tasks that write appends are gone, because the runtime that built the orchestrator was shut down.
    #[error("the runtime that built this orchestrator has been shut down")]
    Stopped,
    /// The worker never ran, because no thread could be made for it, or has ended by itself; the event
    /// `orchestratum::start::failed` or the message of a panic says why. What it held is reclaimed.
    #[error(
        "the worker does not run: no thread could be made for it (a limit of memory or threads?), or it has panicked"
    )]
    NotRunning,
    /// A worker was shut down and could not tell the database what became of some commands; their leases expire.
    #[error("{count} commands could not be given back before the worker stopped; others reclaim them")]
    Unsettled {
        /// How many.
        count: usize,
    },
}

/// The message says all that the database says: it is not told again as a source.
impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        if crate::store::backend::is_file_busy(&error) { Self::Locked(error) } else { Self::Database(error) }
    }
}

impl Error {
    /// Whether the same call may succeed later without any change: a lost connection, a deadlock, a busy file.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) | Self::Unreachable(error) => crate::store::is_transient(error),
            Self::Locked(_) => true,
            _ => false,
        }
    }

    /// Whether the database will never take this very data, or it was no error of the database at all.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Database(error) => crate::store::backend::is_refusal(error),
            Self::Locked(_) | Self::Unreachable(_) => false,
            _ => true,
        }
    }

    /// Whether nothing was stored for certain: rolled back by the database, or never sent.
    pub(crate) fn never_happened(&self) -> bool {
        self.is_conflict() || matches!(self, Self::Database(DbErr::ConnectionAcquire(_)))
    }

    /// Whether another transaction was in the way.
    pub(crate) fn is_conflict(&self) -> bool {
        match self {
            Self::Database(error) => crate::store::backend::is_conflict(error),
            Self::Locked(_) => true,
            _ => false,
        }
    }
}

fn list(keys: &[String]) -> String {
    if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") }
}
