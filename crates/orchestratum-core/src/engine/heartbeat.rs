//! The heartbeat: extends the lease of this instance, and stops what can no longer be trusted.
//!
//! **Which side is authoritative.** The database: a lease is valid while its instance is not fenced. Local time may
//! only make this process stop sooner. It trusts its lease until the instant *before* the last successful extension was
//! sent, plus the lease, less a margin; the server counted from a later instant, so that nobody can have fenced the
//! instance while it is trusted. A process that was paused finds on waking that the instant has passed, and stops its
//! handlers before it asks anything.
//!
//! The loop has a thread, a runtime and a connection of its own. A call that hangs is given up when the next is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::attempt::Stop;
use crate::engine::backoff::Backoff;
use crate::engine::held::Holdings;
use crate::engine::{Shared, guarded, quietly};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::store::Store;
use crate::store::backend::Purpose;

/// The heartbeat loop.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) shared: Arc<Shared>,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) stopping: CancellationToken,
    pub(crate) store: Option<Store>,
}

impl Heartbeat {
    /// Runs until the worker has settled everything, then takes the instance out of the table.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new("heartbeat");
        let interval = self.shared.config.heartbeat_interval();
        let stopping = self.stopping.clone();
        let mut signals = self.shared.wake.heartbeat_signals();
        let mut next_beat = Instant::now();
        loop {
            let looked = self.look();
            let beat = looked >= next_beat;
            let result = tokio::select! {
                // Given up when the lease can no longer be trusted: then handlers come first.
                result = tokio::time::timeout_at(self.latest_answer(looked, interval), guarded(self.turn(beat))) => {
                    result.unwrap_or_else(|_| Err(no_answer(interval)))
                }
                () = stopping.cancelled() => break,
            };
            match result {
                Ok(()) => {
                    backoff.succeeded();
                    if beat {
                        next_beat = Instant::now() + interval;
                    }
                }
                Err(error) => {
                    // A connection that did not answer is in an unknown state.
                    self.store = None;
                    next_beat = Instant::now() + backoff.failed(&error).min(interval);
                }
            }
            // Again, and not after the pause: the trust may have ended while an answer was waited for.
            let looked = self.look();
            tokio::select! {
                () = tokio::time::sleep_until(self.next_look(looked, next_beat)) => {}
                _ = signals.changed() => {}
                () = stopping.cancelled() => break,
            }
        }
        // In this order: what is no longer expected without an answer is in doubt before.
        let is_empty = self.holdings.is_empty();
        let lease = self.holdings.lease();
        if let Some(store) = &self.store {
            let nothing_left = is_empty && lease.doubt.is_none();
            // Without an answer the lease expires by itself.
            let _ = tokio::time::timeout(Duration::from_secs(2), store.unregister(lease.instance, nothing_left)).await;
        }
    }

    async fn turn(&mut self, beat: bool) -> Result<()> {
        let store = match &self.store {
            Some(store) => store.clone(),
            None => self.connect().await?,
        };
        if beat {
            self.beat(&store).await?;
        }
        self.hear_cancels(&store).await
    }

    async fn connect(&mut self) -> Result<Store> {
        let store = self.shared.store.open(Purpose::Heartbeat).await?;
        self.store = Some(store.clone());
        Ok(store)
    }

    async fn beat(&self, store: &Store) -> Result<()> {
        let config = &self.shared.config;
        let before = self.holdings.lease();
        let mut sent_at = Instant::now();
        let mut instance = before.instance;
        if before.trusted_until.is_none() || !store.extend(instance, config.lease_duration).await? {
            if before.trusted_until.is_some() {
                self.give_up(instance);
            }
            // Always under a new id: the answer to an earlier registration may have been lost.
            instance = InstanceId::new();
            sent_at = Instant::now();
            store.register(instance, &instance_name(config.instance_name.as_deref()), config.lease_duration).await?;
            tracing::info!(target: "orchestratum::instance", %instance, "registered");
        }
        let trusted_until = Some(sent_at + config.lease_duration - config.lease_margin());
        self.holdings.change_lease(|lease| {
            lease.instance = instance;
            lease.trusted_until = trusted_until;
        });
        if before.trusted_until.is_none_or(|until| until <= sent_at) {
            self.shared.wake.survey();
        }
        tracing::trace!(target: "orchestratum::extend", %instance, "extended");
        Ok(())
    }

    /// Others have taken over what this instance held.
    fn give_up(&self, fenced: InstanceId) {
        // The lease first: a claim that is answered just now looks at it after it is held.
        self.holdings.change_lease(|lease| {
            lease.trusted_until = None;
            lease.doubt = None;
        });
        let stopped = self.holdings.stop_all(fenced, Stop::LeaseLost);
        tracing::error!(
            target: "orchestratum::lease::fenced", instance = %fenced, stopped,
            "this instance was fenced: it was paused or cut off for longer than its lease"
        );
    }

    /// Stops what is not trusted now. Returns this now: what was trusted then is to be looked at when the trust ends,
    /// also if that has passed a moment later.
    fn look(&self) -> Instant {
        let now = Instant::now();
        // Apart from the beat: a panic here must not keep the lease from being extended.
        quietly(|| self.stop_what_is_not_trusted(now));
        now
    }

    fn stop_what_is_not_trusted(&self, now: Instant) {
        let lease = self.holdings.lease();
        if lease.trusted_until.is_some_and(|until| until <= now) && !self.holdings.is_empty() {
            let stopped = self.holdings.stop_all(lease.instance, Stop::LeaseLost);
            if stopped > 0 {
                tracing::warn!(target: "orchestratum::lease::untrusted", stopped, "no extension for most of a lease; handlers were told to stop");
            }
        }
    }

    async fn hear_cancels(&self, store: &Store) -> Result<()> {
        let held = self.holdings.all();
        if held.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = held.iter().map(|attempt| attempt.lease.id).collect();
        for id in store.cancel_requests(&ids).await? {
            if let Some(attempt) = self.holdings.get(id) {
                attempt.stop(Stop::Cancel);
            }
        }
        Ok(())
    }

    /// A beat is given up when the next one is due, or the trust ends.
    fn latest_answer(&self, looked: Instant, interval: Duration) -> Instant {
        end_of_trust_or(looked, self.holdings.lease().trusted_until, looked + interval)
    }

    /// The next beat, or the end of the trust if that comes first.
    fn next_look(&self, looked: Instant, next_beat: Instant) -> Instant {
        end_of_trust_or(looked, self.holdings.lease().trusted_until, next_beat)
    }
}

/// The end of a trust that still stood at the last look, or something else that comes sooner.
fn end_of_trust_or(looked: Instant, trusted_until: Option<Instant>, other: Instant) -> Instant {
    trusted_until.filter(|until| *until > looked).map_or(other, |until| until.min(other))
}

fn no_answer(waited: Duration) -> crate::error::Error {
    sea_orm::DbErr::Custom(format!("no answer to a heartbeat within {waited:?}")).into()
}

/// Host and process by default: what an operator looks for.
fn instance_name(configured: Option<&str>) -> String {
    let name = configured.map_or_else(
        || {
            let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
            format!("{}:{}", host.as_deref().map_or("localhost", str::trim), std::process::id())
        },
        str::to_owned,
    );
    name.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pause that began before the trust ended and lasted beyond it would tell the handlers too late.
    #[test]
    fn the_end_of_the_trust_is_not_slept_through() {
        let looked = Instant::now();
        let (next_beat, moment) = (looked + Duration::from_secs(10), Duration::from_nanos(1));
        assert_eq!(end_of_trust_or(looked, Some(looked + moment), next_beat), looked + moment, "past when it is asked");
        assert_eq!(end_of_trust_or(looked, Some(looked), next_beat), next_beat, "told at the look");
        assert_eq!(end_of_trust_or(looked, Some(next_beat + moment), next_beat), next_beat);
        assert_eq!(end_of_trust_or(looked, None, next_beat), next_beat);
    }
}
