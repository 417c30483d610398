//! How long to wait before the next attempt.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest wait between two attempts that any policy may ask for; longer ones are cut to it.
pub const MAX_RETRY_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The wait before a retry, as a function of how many retries were used before it.
///
/// It is data, so that it can be stored with a command and applied by whichever instance ends the attempt.
/// A function of your own can be registered for a key, see [`Executor::retry_delay`](crate::Executor::retry_delay).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryPolicy {
    /// The same wait each time.
    Fixed(Duration),
    /// `first`, doubled by each further retry up to `max`, then moved by up to `jitter` of itself in either direction.
    ///
    /// The jitter keeps commands that failed together (a mail server went down) from coming back together.
    Exponential {
        /// The wait before the first retry.
        first: Duration,
        /// The longest wait, before jitter.
        max: Duration,
        /// From 0 (none) to 1 (anywhere between nothing and twice the wait).
        jitter: f64,
    },
}

impl Default for RetryPolicy {
    /// 10 s, 20 s, 40 s, … up to 1 h, each moved by up to 10 %: the three retries of a command that sets nothing bridge
    /// the minute that a service needs to restart.
    fn default() -> Self {
        Self::Exponential { first: Duration::from_secs(10), max: Duration::from_secs(3600), jitter: 0.1 }
    }
}

impl RetryPolicy {
    /// The wait before retry number `used + 1`, with `random` from 0 to 1 choosing the point within the jitter.
    ///
    /// Total: any policy, however nonsensical its fields, gives a wait between zero and [`MAX_RETRY_DELAY`].
    #[must_use]
    pub fn delay(&self, used: u32, random: f64) -> Duration {
        match self {
            Self::Fixed(delay) => (*delay).min(MAX_RETRY_DELAY),
            Self::Exponential { first, max, jitter } => {
                let doubled = 2_u32
                    .checked_pow(used)
                    .and_then(|factor| first.checked_mul(factor))
                    .map_or(*max, |delay| delay.min(*max))
                    .min(MAX_RETRY_DELAY);
                let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
                let spread = jitter * 2.0_f64.mul_add(random.clamp(0.0, 1.0), -1.0);
                doubled.mul_f64(1.0 + spread).min(MAX_RETRY_DELAY)
            }
        }
    }

    /// Says what is wrong with the policy, if anything.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        match self {
            Self::Fixed(delay) if *delay > MAX_RETRY_DELAY => Some("waits longer than a year"),
            Self::Exponential { max, .. } if *max > MAX_RETRY_DELAY => Some("waits longer than a year"),
            Self::Exponential { first, max, .. } if first > max => Some("first wait is longer than the longest"),
            Self::Exponential { jitter, .. } if !(0.0..=1.0).contains(jitter) => Some("jitter must be from 0 to 1"),
            Self::Fixed(_) | Self::Exponential { .. } => None,
        }
    }
}

/// A wait computed by the application: it is given how many retries were used before this one, from 0.
#[derive(Clone)]
pub(crate) struct RetryDelay(pub(crate) Arc<dyn Fn(u32) -> Duration + Send + Sync>);

impl fmt::Debug for RetryDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryDelay(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_doubles_from_ten_seconds_to_an_hour() {
        let policy = RetryPolicy::default();
        let seconds: Vec<_> = [0, 1, 2, 8, 9, 4_000_000_000].map(|used| policy.delay(used, 0.5).as_secs()).to_vec();
        assert_eq!(seconds, [10, 20, 40, 2560, 3600, 3600]);
    }

    #[test]
    fn jitter_moves_the_wait_both_ways() {
        let policy =
            RetryPolicy::Exponential { first: Duration::from_secs(10), max: Duration::from_secs(10), jitter: 0.5 };
        assert_eq!(policy.delay(0, 0.0), Duration::from_secs(5));
        assert_eq!(policy.delay(0, 1.0), Duration::from_secs(15));
    }

    proptest! {
        #[test]
        fn no_policy_overflows_or_waits_longer_than_a_year(
            first in any::<Duration>(), max in any::<Duration>(), jitter in any::<f64>(),
            used in any::<u32>(), random in any::<f64>(), fixed in any::<bool>(),
        ) {
            let policy = if fixed { RetryPolicy::Fixed(first) } else { RetryPolicy::Exponential { first, max, jitter } };
            prop_assert!(policy.delay(used, random) <= MAX_RETRY_DELAY);
        }

        #[test]
        fn waits_never_shrink_without_jitter(first in 0u64..1_000_000, max in 0u64..1_000_000_000, used in 0u32..64) {
            let policy = RetryPolicy::Exponential {
                first: Duration::from_millis(first), max: Duration::from_millis(max.max(first)), jitter: 0.0,
            };
            prop_assert!(policy.delay(used, 0.5) <= policy.delay(used + 1, 0.5));
        }

        #[test]
        fn a_stored_policy_reads_back(first in 0u64..10_000, max in 0u64..10_000) {
            let policy = RetryPolicy::Exponential {
                first: Duration::from_millis(first), max: Duration::from_millis(max), jitter: 0.25,
            };
            let text = serde_json::to_string(&policy).unwrap();
            prop_assert_eq!(serde_json::from_str::<RetryPolicy>(&text).unwrap(), policy);
        }
    }
}
