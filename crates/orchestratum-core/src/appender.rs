//! Group commit of appends: what many tasks append at once shares a transaction.
//!
//! A command that a worker of this process has a free slot for is stored under its lease, and starts as soon as it is:
//! one commit from the append to the handler instead of two, and nothing for other processes to hear.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use sea_orm::{DbErr, RuntimeErr};
use tokio::sync::{mpsc, oneshot};

use crate::command::{NewCommand, RunAt};
use crate::engine::ANSWER_TIMEOUT;
use crate::engine::starter::{Offer, Starters};
use crate::engine::wake::Wake;
use crate::error::{Error, Result};
use crate::instant::Timestamp;
use crate::notifier::Notifier;
use crate::store::append::Stored;
use crate::store::claim::Lane;
use crate::store::{Store, together};

/// One append on its way to the database.
#[derive(Debug)]
struct Pending {
    command: NewCommand,
    reply: oneshot::Sender<Result<Stored>>,
}

/// The way into the database for single appends. Cheap to clone; ends with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Appender {
    plain: mpsc::Sender<Pending>,
    /// Beside the others where rows are locked: an insert of a unique key waits for whoever holds that key in a
    /// transaction that is open, and those with other unique keys wait with it.
    unique: mpsc::Sender<Pending>,
}

/// The most appends in one transaction. While one commits the next gather: a lone append waits for nothing, and a
/// thousand tasks share one sync of the disk.
const MAX_BATCH: usize = 1_000;

impl Appender {
    /// Starts the tasks that write, on the current runtime.
    pub(crate) fn start(store: Store, wake: Arc<Wake>, starters: Arc<Starters>, notifier: Notifier) -> Self {
        let writer = Writer { store, wake, starters, notifier };
        let waits_alone = writer.store.backend.locks_rows();
        let plain = writer.clone().start();
        let unique = if waits_alone { writer.start() } else { plain.clone() };
        Self { plain, unique }
    }

    /// Appends one command; durable when it returns. Dropping the future leaves the append to happen or not.
    pub(crate) async fn append(&self, command: NewCommand) -> Result<Stored> {
        let (reply, answer) = oneshot::channel();
        let queue = if command.unique_key.is_some() { &self.unique } else { &self.plain };
        queue.send(Pending { command, reply }).await.map_err(|_| Error::Stopped)?;
        // A panic has come between, of the application's subscriber for instance; or the runtime is gone.
        answer.await.unwrap_or_else(|_| if queue.is_closed() { Err(Error::Stopped) } else { Err(no_answer()) })
    }
}

/// Writes one batch after the other.
#[derive(Debug, Clone)]
struct Writer {
    store: Store,
    wake: Arc<Wake>,
    starters: Arc<Starters>,
    notifier: Notifier,
}

impl Writer {
    fn start(self) -> mpsc::Sender<Pending> {
        let (queue, mut pending) = mpsc::channel::<Pending>(MAX_BATCH);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            while pending.recv_many(&mut batch, MAX_BATCH).await > 0 {
                while !batch.is_empty() {
                    let rest = batch.split_off(together(&batch, MAX_BATCH, |pending| pending.command.weight()));
                    let write = AssertUnwindSafe(self.write(std::mem::replace(&mut batch, rest)));
                    // No panic ends the loop: those who wait for this batch hear that nobody will answer.
                    let _ = write.catch_unwind().await;
                }
            }
        });
        queue
    }

    async fn write(&self, batch: Vec<Pending>) {
        let (commands, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.command, pending.reply)).unzip();
        let offer = self.starters.offer(&commands);
        match self.append(&commands, offer.as_ref()).await {
            Ok((stored, leased)) => {
                let waiting = settle(offer, leased, commands);
                announce(&self.wake, &waiting);
                self.notifier.announce(&waiting);
                for (reply, stored) in std::iter::zip(replies, stored) {
                    // Whoever appended may have stopped waiting.
                    let _ = reply.send(Ok(stored));
                }
            }
            // One bad command must not fail the others: refused data was certainly not stored.
            Err(error) if error.is_refusal() => {
                offer.into_iter().for_each(Offer::withdraw);
                if commands.len() == 1 {
                    return replies.into_iter().for_each(|reply| drop(reply.send(Err(copy(&error)))));
                }
                for (command, reply) in std::iter::zip(commands, replies) {
                    let _ = reply.send(self.append_plainly(&command).await);
                }
            }
            // The commit may have happened: only the caller can know whether to append again.
            Err(error) => {
                if error.never_happened() {
                    offer.into_iter().for_each(Offer::withdraw);
                }
                for reply in replies {
                    let _ = reply.send(Err(copy(&error)));
                }
            }
        }
    }

    async fn append_plainly(&self, command: &NewCommand) -> Result<Stored> {
        let command = std::slice::from_ref(command);
        let (stored, _) = self.append(command, None).await?;
        announce(&self.wake, command);
        self.notifier.announce(command);
        Ok(stored[0])
    }

    async fn append(&self, commands: &[NewCommand], offer: Option<&Offer>) -> Result<(Vec<Stored>, bool)> {
        let append = async {
            match offer {
                Some(offer) => self.store.append_leased(commands, &offer.leases).await,
                None => Ok((self.store.append(commands).await?, false)),
            }
        };
        tokio::time::timeout(ANSWER_TIMEOUT, append).await.unwrap_or_else(|_| Err(no_answer()))
    }
}

fn no_answer() -> Error {
    let message = "no answer within half a minute, or to anybody; the append may have happened".to_owned();
    DbErr::Conn(RuntimeErr::Internal(message)).into()
}

/// Starts what got a lease, if anything did. Returns the commands that wait for a claim.
fn settle(offer: Option<Offer>, leased: bool, commands: Vec<NewCommand>) -> Vec<NewCommand> {
    match offer {
        Some(offer) if leased => offer.start(commands),
        Some(offer) => {
            offer.refused();
            commands
        }
        None => commands,
    }
}

/// The store's errors are the database's, which can be copied.
fn copy(error: &Error) -> Error {
    match error {
        Error::Database(error) => Error::Database(error.clone()),
        Error::Locked(error) => Error::Locked(error.clone()),
        other => Error::Database(DbErr::Custom(other.to_string())),
    }
}

/// Tells the workers of this process what to look at, and when.
pub(crate) fn announce(wake: &Wake, commands: &[NewCommand]) {
    for command in commands {
        wake.lane(&lane(command), delay(command));
    }
}

pub(crate) fn lane(command: &NewCommand) -> Lane {
    Lane { queue: command.queue.clone(), key: command.key.clone(), priority: command.priority }
}

fn delay(command: &NewCommand) -> Duration {
    let micros = match command.run_at {
        RunAt::AfterMicros(micros) => micros,
        RunAt::AtMicros(micros) => micros.saturating_sub(Timestamp::now().as_micros()),
    };
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
