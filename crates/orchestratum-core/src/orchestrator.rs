//! The handle through which an application appends and inspects.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{DatabaseConnection, DatabaseTransaction, TransactionTrait};
use serde::de::DeserializeOwned;

use crate::append::{Append, AppendAll};
use crate::builder::Builder;
use crate::command::{CommandId, IntoCommand};
use crate::config::{MAX_KEY_BYTES, name_problem};
use crate::engine::Shared;
use crate::engine::worker::Worker;
use crate::error::{Error, Result};
use crate::inspect::{AttemptInfo, CommandInfo, Count, Ending, Filter, Outcome, Page, Stats};
use crate::services::Services;
use crate::state::State;
use crate::store::operate::Canceled;
use crate::store::{heeded, purge};

/// The handle of an application: cheap to clone, to be shared by all its tasks.
///
/// Made by [`Orchestrator::builder`] on the runtime that will outlive it.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    pub(crate) shared: Arc<Shared>,
}

/// The waits between two looks at a command that another process runs: from the first, doubling, to the last.
const WAIT_STEPS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

impl Orchestrator {
    /// Starts to configure an orchestrator.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts background processing in this process. Handlers run on the current runtime.
    ///
    /// A database that is away is waited for. With no executor registered, the worker only keeps house: it reclaims
    /// what dead instances held and purges what is old.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(&self) -> Worker {
        if self.shared.registry.is_empty() {
            tracing::warn!(target: "orchestratum::start::idle", "no executor is registered: this worker runs no command");
        }
        Worker::start(Arc::clone(&self.shared))
    }

    /// Appends a command: a `(key, payload)` pair, a [`Command`](crate::Command), or a request of the mediator.
    ///
    /// Await it for an [`Appended`](crate::Appended), after setting options or not. Appends of many tasks at once share
    /// a commit.
    ///
    /// # Errors
    /// [`Error::UnknownKey`], [`Error::InvalidCommand`] and [`Error::Serialization`] before anything is written,
    /// [`Error::Database`] otherwise.
    pub fn append(&self, command: impl IntoCommand) -> Append<'_> {
        Append::new(self, command)
    }

    /// Appends many commands, all or none, in one transaction and few statements.
    ///
    /// # Errors
    /// Like [`append`](Self::append); one bad command refuses all.
    pub fn append_all<C: IntoCommand>(&self, commands: impl IntoIterator<Item = C>) -> AppendAll<'_> {
        AppendAll::new(self, commands)
    }

    /// The command as it is now; `None` if it was never appended, was rolled back, or was purged.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn get(&self, id: CommandId) -> Result<Option<CommandInfo>> {
        self.shared.store.get(id).await
    }

    /// One page of the commands that fit the filter.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn list(&self, filter: Filter, page: Page) -> Result<Vec<CommandInfo>> {
        self.shared.store.list(&filter, &page).await
    }

    /// How many commands fit the filter; counting stops at 10,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn count(&self, filter: Filter) -> Result<Count> {
        self.shared.store.count(&filter).await
    }

    /// The attempts of a command that did not succeed, the earliest first.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn attempts(&self, id: CommandId) -> Result<Vec<AttemptInfo>> {
        self.shared.store.attempts(id).await
    }

    /// How the command has ended, if it has, with its output. Use `()` for a command without one, and
    /// [`IgnoredAny`](serde::de::IgnoredAny) for whatever it may be.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Output`] when the output is of another type; [`Error::Database`].
    pub async fn outcome<T: DeserializeOwned>(&self, id: CommandId) -> Result<Outcome<T>> {
        Outcome::read(id, self.shared.store.ending(id).await?)
    }

    /// Waits until the command has ended, however long that takes, and reads its outcome. An end in this process is
    /// heard at once, one elsewhere within a second.
    ///
    /// # Errors
    /// Like [`outcome`](Self::outcome); a database that is away for a while is waited for.
    pub async fn wait<T: DeserializeOwned>(&self, id: CommandId) -> Result<Outcome<T>> {
        let watch = self.shared.wake.watch(id);
        Outcome::read(id, self.wait_until_ended(id, &watch.notify).await?)
    }

    async fn wait_until_ended(&self, id: CommandId, watch: &tokio::sync::Notify) -> Result<Ending> {
        let mut step = WAIT_STEPS.0;
        loop {
            let mut heard = std::pin::pin!(watch.notified());
            // Before the look: an end between the look and the wait is heard.
            heard.as_mut().enable();
            match self.shared.store.ending(id).await {
                Ok(ending) if ending.state.has_ended() => return Ok(ending),
                Err(error) if !error.is_transient() => return Err(error),
                Ok(_) | Err(_) => {}
            }
            tokio::select! {
                () = heard => {}
                () = tokio::time::sleep(step) => step = (step * 2).min(WAIT_STEPS.1),
            }
        }
    }

    /// Cancels a command: a waiting one now, a running one by telling its handler.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotAllowed`] when it has ended; [`Error::Database`].
    pub async fn cancel(&self, id: CommandId) -> Result<Canceled> {
        let canceled = self.shared.store.cancel(id).await?;
        match canceled {
            Canceled::Now => {
                tracing::info!(target: "orchestratum::cancel", %id, "canceled");
                self.shared.wake.ended(std::iter::once(id));
                // Its follow-ups may be due.
                self.shared.wake.survey();
            }
            Canceled::Requested => self.shared.wake.heartbeat(),
        }
        Ok(canceled)
    }

    /// Runs an ended command again: it is pending and due now, with all its retries; the attempt number goes on.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotAllowed`] when it has not ended; [`Error::UniqueKeyTaken`] when another live
    /// command holds its unique key; [`Error::Database`].
    pub async fn retry(&self, id: CommandId) -> Result<()> {
        self.shared.store.retry(id).await?;
        tracing::info!(target: "orchestratum::retry", %id, "an operator wants it to run again");
        self.shared.wake.survey();
        Ok(())
    }

    /// Once it returns, no worker begins to claim from this queue. What has been claimed goes on, and so does what a claim
    /// takes that was under way.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a name that no queue can have; [`Error::Database`].
    pub async fn pause(&self, queue: &str) -> Result<()> {
        check_queue(queue)?;
        self.shared.store.pause(queue).await?;
        tracing::info!(target: "orchestratum::pause", queue, "paused");
        self.shared.wake.survey();
        Ok(())
    }

    /// Lets workers claim from this queue again.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a name that no queue can have; [`Error::Database`].
    pub async fn resume(&self, queue: &str) -> Result<()> {
        check_queue(queue)?;
        self.shared.store.resume(queue).await?;
        tracing::info!(target: "orchestratum::resume", queue, "resumed");
        self.shared.wake.survey();
        Ok(())
    }

    /// How much there is of what; counting stops at 10,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn stats(&self) -> Result<Stats> {
        self.shared.store.stats().await
    }

    /// Removes commands in one of these states that ended longer than `age` ago, with their history; returns how many.
    /// Workers do this by themselves, see the builder's `keep_completed` and `keep_failed`.
    ///
    /// # Errors
    /// [`Error::Database`]; what was removed before stays removed.
    pub async fn purge(&self, states: &[State], age: Duration) -> Result<usize> {
        let states: Vec<State> = states.iter().copied().filter(|state| state.has_ended()).collect();
        let (mut count, mut after) = (0, None);
        if states.is_empty() {
            return Ok(0);
        }
        loop {
            let purged = self.shared.store.purge(&states, age, after, purge::BATCH).await?;
            count += purged.count;
            after = purged.next.map(|(id, _)| id);
            if after.is_none() {
                tracing::info!(target: "orchestratum::purge", count, "purged");
                return Ok(count);
            }
        }
    }

    /// The keys that this program serves, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        self.shared.registry.keys().collect()
    }

    /// The services given to the builder.
    #[must_use]
    pub fn services(&self) -> &Arc<Services> {
        &self.shared.services
    }

    /// Begins a transaction to append or complete within, beside the application's own writes. On SQLite it is an
    /// `Immediate` one: a transaction that reads before it writes could otherwise fail in the middle.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn begin(&self) -> Result<DatabaseTransaction> {
        let options = self.shared.store.backend.application_transaction();
        Ok(heeded(self.shared.connection.begin_with_options(options).await)?)
    }

    /// The connection pool of the application's side, for queries through the [`entity`](crate::entity) module and for
    /// transactions to append within.
    #[must_use]
    pub fn connection(&self) -> &DatabaseConnection {
        &self.shared.connection
    }
}

/// The error of a call that needs a service; for crates built on this one.
#[doc(hidden)]
pub fn missing_service<T: ?Sized>(wanted_by: impl Into<String>) -> Error {
    Error::MissingService { service: std::any::type_name::<T>(), wanted_by: wanted_by.into() }
}

fn check_queue(name: &str) -> Result<()> {
    match name_problem(name) {
        Some(problem) => crate::config::invalid("queue", format!("{problem}; names have 1 to {MAX_KEY_BYTES} bytes")),
        None => Ok(()),
    }
}
