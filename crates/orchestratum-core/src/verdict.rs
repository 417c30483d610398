//! What a handler can say besides *ok* and *error*.

use std::time::Duration;

/// An error that tells the engine what to do with the command: `return Err(Verdict::snooze(hour).into())`.
///
/// Any other error means: try again as the retry policy says, while retries are left. A verdict is recognized wherever
/// it stands in the chain of an [`anyhow::Error`], so `.context(..)` may be added to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Verdict {
    /// Try again after this wait instead of the policy's. Uses a retry; without one left the command fails.
    #[error("{reason} (retry after {after:?})")]
    RetryAfter {
        /// The wait, at most a year.
        after: Duration,
        /// The line for the attempt history.
        reason: String,
    },
    /// Trying again is useless: the command fails now, whatever retries are left.
    #[error("{reason}")]
    Fail {
        /// The line for the attempt history.
        reason: String,
    },
    /// Nothing is wrong, but it is too early: run again after this wait. Uses no retry and leaves no line.
    #[error("snoozed for {after:?}")]
    Snooze {
        /// The wait, at most a year.
        after: Duration,
    },
}

impl Verdict {
    /// Try again after this wait. Uses a retry.
    #[must_use]
    pub fn retry_after(after: Duration, reason: impl Into<String>) -> Self {
        Self::RetryAfter { after, reason: reason.into() }
    }

    /// Fail for good.
    #[must_use]
    pub fn fail(reason: impl Into<String>) -> Self {
        Self::Fail { reason: reason.into() }
    }

    /// Run again later. Uses no retry.
    #[must_use]
    pub const fn snooze(after: Duration) -> Self {
        Self::Snooze { after }
    }
}
