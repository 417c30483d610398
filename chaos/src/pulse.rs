//! A stream of plain commands, counted instead of written down one by one.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::ledger;

/// The key of the stream's commands.
pub(crate) const STREAMED: &str = "streamed";

/// The payload of a command of the stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Streamed {
    /// When it was appended, by the monotonic clock that all processes share.
    pub(crate) at: u64,
}

/// What the stream's appends and handlers in one process did since the last [`Beat`].
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Beat>);

/// A part of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Commands whose append has returned.
    pub(crate) appended: u64,
    /// From before the append to the end of the handler.
    pub(crate) times: Times,
}

impl Pulse {
    pub(crate) fn appended(&self, count: u64) {
        self.beat().appended += count;
    }

    pub(crate) fn ended(&self, streamed: Streamed) {
        self.beat().times.add(ledger::now().saturating_sub(streamed.at));
    }

    pub(crate) fn take(&self) -> Beat {
        mem::take(&mut *self.beat())
    }

    fn beat(&self) -> MutexGuard<'_, Beat> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.appended += other.appended;
        other.times.0.iter().for_each(|(step, count)| *self.times.0.entry(*step).or_default() += count);
    }
}

/// How many times were how long, in steps of a twelfth more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(u16, u64)>", into = "Vec<(u16, u64)>")]
pub(crate) struct Times(BTreeMap<u16, u64>);

impl From<Vec<(u16, u64)>> for Times {
    fn from(counts: Vec<(u16, u64)>) -> Self {
        Self(counts.into_iter().collect())
    }
}

impl From<Times> for Vec<(u16, u64)> {
    fn from(times: Times) -> Self {
        times.0.into_iter().collect()
    }
}

/// Steps to the double.
const STEPS: f64 = 8.0;

impl Times {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a step")]
    fn add(&mut self, nanos: u64) {
        let step = ((nanos as f64 / 1e3).max(1.0).log2() * STEPS) as u16;
        *self.0.entry(step).or_default() += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The milliseconds within which this share of them lies, `None` of none.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let mut rank = (self.count() as f64 * share).ceil() as u64;
        for (step, count) in &self.0 {
            rank = rank.saturating_sub(*count);
            if rank == 0 {
                return Some(((f64::from(*step) + 1.0) / STEPS).exp2() / 1e3);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_a_tenth() {
        let mut times = Times::default();
        (1..=1_000).for_each(|millis| times.add(millis * 1_000_000));
        for (share, millis) in [(0.5, 500.0), (0.99, 990.0)] {
            let told = times.quantile(share).unwrap_or_default();
            assert!((millis..millis * 1.1).contains(&told), "{share}: {told}");
        }
        assert_eq!(Times::default().quantile(0.5), None);
    }

    #[test]
    fn beats_add_up() {
        let (mut sum, pulse) = (Beat::default(), Pulse::default());
        for _ in 0..2 {
            pulse.appended(3);
            pulse.ended(Streamed { at: 0 });
            sum.merge(&pulse.take());
        }
        assert_eq!((sum.appended, sum.times.count(), pulse.take()), (6, 2, Beat::default()));
    }
}
