//! Tells other processes what was appended, on databases that carry such messages.
//!
//! PostgreSQL lets one transaction at a time commit a `NOTIFY`, and one that has written waits for its sync of the disk
//! meanwhile: a `NOTIFY` in every append makes appends queue up behind each other. So it goes out behind the commit, in a
//! statement that writes nothing, and while one is under way the next gather. A message is a hint: one that is lost is
//! made up for by the poll. A caller's transaction carries its own, for nobody else knows whether it commits.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::command::NewCommand;
use crate::engine::ANSWER_TIMEOUT;
use crate::store::Store;
use crate::store::append::announcements;

/// The way out for messages. Cheap to clone; ends with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct Notifier {
    /// `None` where nothing carries messages.
    queue: Option<mpsc::Sender<String>>,
}

/// After a message the next ones gather for so long. The first one behind a pause goes out at once; of a stream of single
/// appends each would otherwise wake every worker there is, and compete with the next append for a processor.
const REST: Duration = Duration::from_millis(5);
/// Messages that wait to be sent; beyond it they are left to the poll.
const MOST_WAITING: usize = 1_000;

impl Notifier {
    /// Starts the task that sends, on the current runtime.
    pub(crate) fn start(store: Store) -> Self {
        if !store.announces() {
            return Self { queue: None };
        }
        let (queue, mut waiting) = mpsc::channel(MOST_WAITING);
        tokio::spawn(async move {
            let mut messages = Vec::new();
            while waiting.recv_many(&mut messages, MOST_WAITING).await > 0 {
                messages.sort_unstable();
                messages.dedup();
                // Without an answer the poll finds what was appended.
                let _ = tokio::time::timeout(ANSWER_TIMEOUT, store.notify(std::mem::take(&mut messages))).await;
                tokio::time::sleep(REST).await;
            }
        });
        Self { queue: Some(queue) }
    }

    /// These commands have been committed, and wait to be claimed.
    pub(crate) fn announce(&self, commands: &[NewCommand]) {
        let Some(queue) = self.queue.as_ref().filter(|_| !commands.is_empty()) else { return };
        for message in announcements(commands) {
            let _ = queue.try_send(message);
        }
    }
}
