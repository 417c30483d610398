//! What a handler is given besides its payload.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::DatabaseTransaction;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::command::CommandId;
use crate::engine::attempt::Attempt;
use crate::error::{Error, Result};
use crate::orchestrator::Orchestrator;
use crate::outcome::Ending;
use crate::services::Services;
use crate::store::settle::Settled;

/// The surroundings of one attempt; cheap to clone.
///
/// A handler that runs in process, through the mediator's `send`, gets one as well: without a command, with the same
/// services and a token of its own.
#[derive(Debug, Clone)]
pub struct Context {
    services: Arc<Services>,
    token: CancellationToken,
    attempt: Option<Arc<Attempt>>,
    orchestrator: Option<Orchestrator>,
}

impl Context {
    pub(crate) fn durable(services: Arc<Services>, attempt: Arc<Attempt>) -> Self {
        let orchestrator = Some(Orchestrator { shared: Arc::clone(&attempt.shared) });
        let token = attempt.token.clone();
        Self { services, token, attempt: Some(attempt), orchestrator }
    }

    /// A context without a command, for handlers called in process.
    #[must_use]
    pub fn of(orchestrator: &Orchestrator, token: CancellationToken) -> Self {
        let services = Arc::clone(orchestrator.services());
        Self { orchestrator: Some(orchestrator.clone()), ..Self::in_process(services, token) }
    }

    /// A context without a command and without an orchestrator, for tests that call a handler.
    #[must_use]
    pub fn in_process(services: Arc<Services>, token: CancellationToken) -> Self {
        Self { services, token, attempt: None, orchestrator: None }
    }

    /// The same surroundings without the command, for a handler that this one calls in process.
    #[must_use]
    pub fn nested(&self, token: CancellationToken) -> Self {
        Self { token, attempt: None, ..self.clone() }
    }

    /// The orchestrator, to append more commands.
    ///
    /// # Errors
    /// [`Error::MissingService`] in a context that was made without one.
    pub fn orchestrator(&self) -> Result<Orchestrator> {
        self.orchestrator.clone().ok_or_else(|| Error::MissingService {
            service: std::any::type_name::<Orchestrator>(),
            wanted_by: "a handler that was called without an orchestrator".to_owned(),
        })
    }

    /// The command that runs; `None` in process.
    #[must_use]
    pub fn command_id(&self) -> Option<CommandId> {
        self.attempt.as_ref().map(|attempt| attempt.lease.id)
    }

    /// The number of this attempt, from 1; it grows at every claim, also after a snooze or a lost lease. 1 in process.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt.as_ref().map_or(1, |attempt| attempt.lease.attempt)
    }

    /// Retries left after this attempt; 0 in process.
    #[must_use]
    pub fn retries_left(&self) -> u32 {
        self.attempt.as_ref().map_or(0, |attempt| attempt.claimed.retry_count.saturating_sub(attempt.claimed.failures))
    }

    /// The key of the command; empty in process.
    #[must_use]
    pub fn key(&self) -> &str {
        self.attempt.as_ref().map_or("", |attempt| &attempt.claimed.lane.key)
    }

    /// The queue that the command runs in; empty in process.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.attempt.as_ref().map_or("", |attempt| &attempt.claimed.lane.queue)
    }

    /// How long the attempt may run; `None` in process.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        self.attempt.as_ref().map(|attempt| attempt.timeout)
    }

    /// The service of this type.
    ///
    /// # Errors
    /// [`Error::MissingService`]. Better found at start: the mediator checks the services of its handlers at `build()`.
    pub fn service<T: ?Sized + Send + Sync + 'static>(&self) -> Result<Arc<T>> {
        let wanted_by = match &self.attempt {
            Some(attempt) => format!("the executor of `{}`", attempt.claimed.lane.key),
            None => "a handler".to_owned(),
        };
        self.services.get(&wanted_by)
    }

    /// All services.
    #[must_use]
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Resolves when the handler should stop: a user canceled the command, the instance shuts down and its grace
    /// period is over, or the lease is lost. An error returned after that uses up no retry.
    pub async fn canceled(&self) {
        self.token.cancelled().await;
    }

    /// Whether the handler should stop.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token behind [`canceled`](Self::canceled), for libraries that take one.
    #[must_use]
    pub const fn cancellation_token(&self) -> &CancellationToken {
        &self.token
    }

    /// Completes the command within the handler's own transaction: the output, the follow-ups and whatever else the
    /// transaction writes commit together, or not at all. Commit it right after, then return `Ok`.
    ///
    /// Until the commit the command's row is locked, so that no reclaim can pass; no heartbeat waits for it. On SQLite
    /// the transaction stalls every other writer, heartbeats included: keep it short, and begin it `Immediate`.
    ///
    /// A handler that called this, returned `Ok` and did not commit has failed its attempt. In process there is no
    /// command, and the call does nothing.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when another attempt may be running: leave with `?`, so that the transaction is abandoned.
    /// [`Error::Serialization`] when the output cannot be written as JSON, [`Error::InvalidCommand`] when it is larger
    /// than the payload limit or a follow-up that is computed from it is not valid; these are the same with each attempt,
    /// so a handler that returns them with `?` uses up its retries. [`Error::Database`] otherwise.
    pub async fn complete_in<T: Serialize + Sync>(&self, transaction: &DatabaseTransaction, output: T) -> Result<()> {
        let Some(attempt) = &self.attempt else {
            return Ok(());
        };
        let key = &attempt.claimed.lane.key;
        let output = write_output(key, &output)?;
        let (bytes, limit) = (output.as_ref().map_or(0, String::len), attempt.shared.config.payload_limit);
        if bytes > limit {
            let problem = format!("{bytes} bytes of JSON are more than the limit of {limit}");
            return Err(Error::InvalidCommand { key: key.clone(), option: "output", problem });
        }
        let report = attempt.report(Ending::Completed(output))?;
        match attempt.shared.store_for(transaction)?.complete_in(transaction, &report).await? {
            Settled::Now(_) => {
                attempt.set_completed_in();
                Ok(())
            }
            Settled::LeaseLost => Err(Error::LeaseLost { id: attempt.lease.id, attempt: attempt.lease.attempt }),
        }
    }
}

/// An output as JSON text; `()` and `None` are nothing.
#[doc(hidden)]
pub fn write_output(key: &str, output: &impl Serialize) -> Result<Option<String>> {
    match serde_json::to_string(output) {
        Ok(text) if text == "null" => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(problem) => Err(Error::Serialization { what: "output", key: key.to_owned(), problem }),
    }
}
