//! What goes wrong: each kind of fault is a loop of its own that draws from its own seed until the time is up.

pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod failover;
pub(crate) mod galera;
pub(crate) mod network;
pub(crate) mod sqlite;
pub(crate) mod workers;

use std::time::Duration;

use anyhow::Result;
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
    /// Of the processes.
    pub(crate) lease: Duration,
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

    /// Writes down what has happened, or that it was tried in vain.
    fn note_if<T>(&self, fault: &str, happened: &Result<T>) {
        match happened {
            Ok(_) => self.note(fault),
            Err(_) => self.note(&format!("{fault}, in vain")),
        }
    }

    /// For a few seconds, one time in three for longer than the lease.
    fn some_time(&mut self) -> Duration {
        let time = self.millis(500..4_000);
        if self.random.u8(..3) == 0 { self.lease + time } else { time }
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }
}

/// Deals each of some kinds of fault once before one comes again, so that none is left out for long.
#[derive(Debug)]
pub(crate) struct Deck<const COUNT: usize> {
    names: &'static [&'static str; COUNT],
    left: Vec<usize>,
}

impl<const COUNT: usize> Deck<COUNT> {
    const fn new(names: &'static [&'static str; COUNT]) -> Self {
        Self { names, left: Vec::new() }
    }

    fn draw(&mut self, random: &mut Rng) -> (usize, &'static str) {
        if self.left.is_empty() {
            self.left.extend(0..COUNT);
        }
        let kind = self.left.swap_remove(random.usize(..self.left.len()));
        (kind, self.names[kind])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_before_one_comes_again() {
        let (mut deck, mut random) = (Deck::new(&["a", "b", "c"]), Rng::with_seed(7));
        for _ in 0..10 {
            let mut dealt = [(); 3].map(|()| deck.draw(&mut random).1);
            dealt.sort_unstable();
            assert_eq!(dealt, ["a", "b", "c"]);
        }
    }
}
