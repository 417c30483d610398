//! What goes wrong: each kind of fault is a loop of its own that draws from its own seed until the time is up.

pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod failover;
pub(crate) mod galera;
pub(crate) mod network;
pub(crate) mod sqlite;
pub(crate) mod workers;

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::ledger::{Entry, Ledger};

/// When to stop, where to write, what to draw from.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) until: Instant,
    pub(crate) ledger: Ledger,
    pub(crate) random: Rng,
    /// How much rarer everything is than it is by itself.
    pub(crate) pace: u32,
}

impl Storm {
    /// Waits for about this long; `false` when the time is up.
    pub(crate) async fn lull(&mut self, about: Duration) -> bool {
        let next = Instant::now() + about.mul_f64(0.5 + self.random.f64());
        tokio::time::sleep_until(next.min(self.until)).await;
        next < self.until
    }

    /// Between two faults of a kind, at this storm's pace.
    fn between(&self, interval: Duration) -> Duration {
        interval * self.pace
    }

    fn note(&self, fault: &str) {
        self.ledger.note(Entry::Fault { name: fault.to_owned() });
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }
}
