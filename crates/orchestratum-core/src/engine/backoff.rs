//! How a loop waits out a database that is away: longer each time, at random, told once.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::quietly;

/// The waits of one loop.
#[derive(Debug)]
pub(crate) struct Backoff {
    what: &'static str,
    failing_since: Option<Instant>,
    next: Duration,
}

const FIRST: Duration = Duration::from_millis(50);
/// Short enough that a database which is back is noticed before a user is.
const LONGEST: Duration = Duration::from_secs(5);

impl Backoff {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, failing_since: None, next: FIRST }
    }

    /// Says so the first time, and gives the wait before the next try.
    pub(crate) fn failed(&mut self, error: &(impl Display + ?Sized)) -> Duration {
        if self.failing_since.is_none() {
            self.failing_since = Some(Instant::now());
            quietly(|| {
                tracing::warn!(target: "orchestratum::database::lost", loop_ = self.what, %error, "the database fails; trying again");
            });
        } else {
            quietly(|| tracing::debug!(loop_ = self.what, %error, "the database still fails"));
        }
        let wait = self.next;
        self.next = (self.next * 2).min(LONGEST);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Says so when it had failed before.
    pub(crate) fn succeeded(&mut self) {
        if let Some(since) = self.failing_since.take() {
            self.next = FIRST;
            quietly(|| {
                tracing::info!(target: "orchestratum::database::back", loop_ = self.what, after = ?since.elapsed(), "the database answers again");
            });
        }
    }
}
