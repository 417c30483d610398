//! The append under construction.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sea_orm::DatabaseTransaction;
use time::OffsetDateTime;

use crate::appender::{announce, lane};
use crate::command::{Command, CommandId, IntoCommand, NewCommand};
use crate::error::Result;
use crate::orchestrator::Orchestrator;
use crate::resolve::resolve;
use crate::retry::RetryPolicy;
use crate::store::append::{Stored, append_in};
use crate::store::claim::Lane;

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    stored: Stored,
}

impl Appended {
    /// The command that will run: the new one, or the live one that already held the unique key.
    #[must_use]
    pub const fn id(self) -> CommandId {
        self.stored.id
    }

    /// `false` when a live command already held the unique key; nothing was appended then.
    #[must_use]
    pub const fn is_new(self) -> bool {
        self.stored.is_new
    }
}

/// One append; await it, after setting options or not.
///
/// Durable when the future returns, unless [`within`](Self::within) a transaction: then when that commits. Dropping the
/// future before it returns leaves the append to happen or not.
#[derive(Debug)]
#[must_use = "nothing is appended until it is awaited"]
pub struct Append<'a> {
    orchestrator: &'a Orchestrator,
    command: Result<Command>,
    transaction: Option<&'a DatabaseTransaction>,
}

impl<'a> Append<'a> {
    pub(crate) fn new(orchestrator: &'a Orchestrator, command: impl IntoCommand) -> Self {
        Self { orchestrator, command: command.into_command(), transaction: None }
    }

    fn map(mut self, change: impl FnOnce(Command) -> Command) -> Self {
        self.command = self.command.map(change);
        self
    }

    /// See [`Command::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        self.map(|command| command.timeout(timeout))
    }

    /// See [`Command::retry_count`].
    pub fn retry_count(self, retries: u32) -> Self {
        self.map(|command| command.retry_count(retries))
    }

    /// See [`Command::retry_policy`].
    pub fn retry_policy(self, policy: RetryPolicy) -> Self {
        self.map(|command| command.retry_policy(policy))
    }

    /// See [`Command::delay`].
    pub fn delay(self, delay: Duration) -> Self {
        self.map(|command| command.delay(delay))
    }

    /// See [`Command::at`].
    pub fn at(self, instant: OffsetDateTime) -> Self {
        self.map(|command| command.at(instant))
    }

    /// See [`Command::queue`].
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.map(|command| command.queue(queue))
    }

    /// See [`Command::priority`].
    pub fn priority(self, priority: i16) -> Self {
        self.map(|command| command.priority(priority))
    }

    /// See [`Command::unique`].
    pub fn unique(self, key: impl Into<String>) -> Self {
        self.map(|command| command.unique(key))
    }

    fn follow_up(mut self, follow_up: impl IntoCommand, add: impl FnOnce(Command, Command) -> Command) -> Self {
        self.command = self.command.and_then(|command| Ok(add(command, follow_up.into_command()?)));
        self
    }

    /// See [`Command::on_success`].
    pub fn on_success(self, follow_up: impl IntoCommand) -> Self {
        self.follow_up(follow_up, Command::on_success)
    }

    /// See [`Command::on_failure`].
    pub fn on_failure(self, follow_up: impl IntoCommand) -> Self {
        self.follow_up(follow_up, Command::on_failure)
    }

    /// See [`Command::on_cancel`].
    pub fn on_cancel(self, follow_up: impl IntoCommand) -> Self {
        self.follow_up(follow_up, Command::on_cancel)
    }

    /// See [`Command::nothing_on_cancel`].
    pub fn nothing_on_cancel(self) -> Self {
        self.map(Command::nothing_on_cancel)
    }

    /// Appends in this transaction: the command exists once it commits, together with whatever else it writes, or
    /// never. No worker sees it before. Nothing is retried and no error is swallowed inside of a transaction.
    ///
    /// It takes a transaction and not a pool, because a pool would commit by itself. On SQLite begin it `Immediate`.
    pub fn within(mut self, transaction: &'a DatabaseTransaction) -> Self {
        self.transaction = Some(transaction);
        self
    }
}

impl<'a> IntoFuture for Append<'a> {
    type Output = Result<Appended>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let shared = &self.orchestrator.shared;
            let command = resolve(self.command?, &shared.config, &shared.registry)?;
            let stored = match self.transaction {
                None => self.orchestrator.shared.appender.append(command).await?,
                Some(transaction) => within(self.orchestrator, transaction, vec![command]).await?[0],
            };
            tracing::debug!(target: "orchestratum::append", id = %stored.id, is_new = stored.is_new, "appended");
            Ok(Appended { stored })
        })
    }
}

/// Many appends, all or none; await it.
#[derive(Debug)]
#[must_use = "nothing is appended until it is awaited"]
pub struct AppendAll<'a> {
    orchestrator: &'a Orchestrator,
    commands: Result<Vec<Command>>,
    transaction: Option<&'a DatabaseTransaction>,
}

impl<'a> AppendAll<'a> {
    pub(crate) fn new<C: IntoCommand>(orchestrator: &'a Orchestrator, commands: impl IntoIterator<Item = C>) -> Self {
        let commands = commands.into_iter().map(IntoCommand::into_command).collect();
        Self { orchestrator, commands, transaction: None }
    }

    /// See [`Append::within`].
    pub fn within(mut self, transaction: &'a DatabaseTransaction) -> Self {
        self.transaction = Some(transaction);
        self
    }
}

impl<'a> IntoFuture for AppendAll<'a> {
    type Output = Result<Vec<Appended>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let shared = &self.orchestrator.shared;
            let commands = self.commands?.into_iter();
            let commands = commands.map(|command| resolve(command, &shared.config, &shared.registry));
            let commands: Vec<NewCommand> = commands.collect::<Result<_>>()?;
            let stored = match self.transaction {
                None => {
                    let stored = shared.store.append(&commands).await?;
                    announce(&shared.wake, &commands);
                    shared.notifier.announce(&commands);
                    stored
                }
                Some(transaction) => within(self.orchestrator, transaction, commands).await?,
            };
            tracing::debug!(target: "orchestratum::append", count = stored.len(), "appended");
            Ok(stored.into_iter().map(|stored| Appended { stored }).collect())
        })
    }
}

async fn within(
    orchestrator: &Orchestrator,
    transaction: &DatabaseTransaction,
    commands: Vec<NewCommand>,
) -> Result<Vec<Stored>> {
    let shared = &orchestrator.shared;
    let store = shared.store_for(transaction)?;
    let stored = append_in(transaction, store.backend, &commands, !store.poll_only).await?;
    if !store.announces() {
        // Nothing will say when the transaction commits. One new command of each lane shows that it has; the holder of a
        // unique key was there before.
        let new = std::iter::zip(&commands, &stored).filter(|(_, stored)| stored.is_new);
        let first: HashMap<Lane, CommandId> = new.rev().map(|(command, stored)| (lane(command), stored.id)).collect();
        first.iter().for_each(|(lane, id)| shared.wake.arm(lane, *id));
    }
    Ok(stored)
}
