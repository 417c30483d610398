//! Group commit of appends: what many tasks append at once shares a transaction.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::{DbErr, RuntimeErr};
use tokio::sync::{mpsc, oneshot};

use crate::command::{NewCommand, RunAt};
use crate::engine::ANSWER_TIMEOUT;
use crate::engine::wake::Wake;
use crate::error::{Error, Result};
use crate::instant::Timestamp;
use crate::store::Store;
use crate::store::append::Stored;
use crate::store::claim::Lane;

/// One append on its way to the database.
#[derive(Debug)]
struct Pending {
    command: NewCommand,
    reply: oneshot::Sender<Result<Stored>>,
}

/// The way into the database for single appends. Cheap to clone; ends with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Appender {
    queue: mpsc::Sender<Pending>,
}

/// The most appends in one transaction. While one commits the next gather: a lone append waits for nothing, and a
/// thousand tasks share one sync of the disk.
const MAX_BATCH: usize = 1_000;

impl Appender {
    /// Starts the task that writes, on the current runtime.
    pub(crate) fn start(store: Store, wake: Arc<Wake>) -> Self {
        let (queue, mut pending) = mpsc::channel::<Pending>(MAX_BATCH);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            while pending.recv_many(&mut batch, MAX_BATCH).await > 0 {
                write(&store, &wake, std::mem::take(&mut batch)).await;
            }
        });
        Self { queue }
    }

    /// Appends one command; durable when it returns. Dropping the future leaves the append to happen or not.
    pub(crate) async fn append(&self, command: NewCommand) -> Result<Stored> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Pending { command, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }
}

async fn write(store: &Store, wake: &Wake, batch: Vec<Pending>) {
    let (commands, replies): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|pending| (pending.command, pending.reply)).unzip();
    match append(store, &commands).await {
        Ok(stored) => {
            announce(wake, &commands);
            for (reply, stored) in std::iter::zip(replies, stored) {
                // Whoever appended may have stopped waiting.
                let _ = reply.send(Ok(stored));
            }
        }
        // One bad command must not fail the others: refused data was certainly not stored.
        Err(error) if error.is_refusal() && commands.len() > 1 => {
            for (command, reply) in std::iter::zip(commands, replies) {
                let command = std::slice::from_ref(&command);
                let stored = append(store, command).await;
                if stored.is_ok() {
                    announce(wake, command);
                }
                let _ = reply.send(stored.map(|stored| stored[0]));
            }
        }
        // The commit may have happened: only the caller can know whether to append again.
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(copy(&error)));
            }
        }
    }
}

async fn append(store: &Store, commands: &[NewCommand]) -> Result<Vec<Stored>> {
    tokio::time::timeout(ANSWER_TIMEOUT, store.append(commands)).await.unwrap_or_else(|_| {
        let message = "no answer of the database within half a minute; the append may have happened".to_owned();
        Err(DbErr::Conn(RuntimeErr::Internal(message)).into())
    })
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
