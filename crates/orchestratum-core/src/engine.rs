//! The engine of one process: claims, runs and settles commands.
//!
//! ```text
//!  heartbeat thread   one connection: extends the lease, hears of cancels, stops what is lost
//!  engine thread      poller ──claims──▶ attempts ──reports──▶ finisher ──settles──▶ database
//!                     housekeeper: fences and reclaims the dead, purges the old
//!                     listener: hears of appends elsewhere
//!  the application's  the handlers themselves
//!  runtime
//! ```
//!
//! Handlers run on the runtime that called `start`; everything else has threads of its own, so that a handler which
//! blocks its thread can stall neither the loops nor the heartbeat. This module knows no SQL.

use std::any::Any;
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, RuntimeErr};

use crate::appender::Appender;
use crate::config::{Config, invalid};
use crate::engine::starter::Starters;
use crate::engine::wake::Wake;
use crate::error::{Error, Result};
use crate::executor::Registry;
use crate::instance_id::InstanceId;
use crate::notifier::Notifier;
use crate::outcome::Ending;
use crate::services::Services;
use crate::state::State;
use crate::store::Store;
use crate::store::backend::Purpose;
use crate::store::instance::Held;
use crate::store::settle::Lease;

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod finisher;
pub(crate) mod heartbeat;
pub(crate) mod held;
pub(crate) mod housekeeper;
pub(crate) mod lanes;
pub(crate) mod listener;
pub(crate) mod poller;
pub(crate) mod slots;
pub(crate) mod starter;
pub(crate) mod surveys;
pub(crate) mod wake;
pub(crate) mod worker;

/// What an orchestrator and its workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) registry: Registry,
    pub(crate) services: Arc<Services>,
    /// The application's pool.
    pub(crate) connection: DatabaseConnection,
    /// The tables through the application's pool.
    pub(crate) store: Store,
    /// Signals from appends, cancels and endings in this process.
    pub(crate) wake: Arc<Wake>,
    /// Where single appends find a free slot.
    pub(crate) starters: Arc<Starters>,
    /// Tells other processes of appends.
    pub(crate) notifier: Notifier,
    /// Writes single appends.
    pub(crate) appender: Appender,
    /// Live instances on this database, as the housekeeper last saw them.
    pub(crate) instances: AtomicUsize,
}

impl Shared {
    /// The tables through a transaction of the application.
    pub(crate) fn store_for(&self, transaction: &DatabaseTransaction) -> Result<&Store> {
        if transaction.get_database_backend() == self.store.backend.to_sea_orm() {
            Ok(&self.store)
        } else {
            invalid(
                "within",
                format!(
                    "the transaction is one of {:?}, the commands are in {}",
                    transaction.get_database_backend(),
                    self.store.backend.name()
                ),
            )
        }
    }
}

/// How long the engine waits for an answer of the database. Longer than any statement of ours takes; a connection that
/// was cut without a word would otherwise hold a loop for hours.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const NO_ANSWER: &str = "no answer of the database within half a minute";

/// Whether the error is that of [`answer`]: the connection may be dead, or the statement waits for a lock.
fn is_no_answer(error: &Error) -> bool {
    matches!(error, Error::Database(DbErr::Conn(RuntimeErr::Internal(message))) if message == NO_ANSWER)
}

/// Waits for an answer of the database, and opens other connections when there is none.
///
/// # Errors
/// Those of the call, and a transient one when there was no answer.
pub(crate) async fn answer<T>(store: &Store, config: &Config, call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => {
            // Where it fails, the next call finds that out by itself.
            let _ = store.renew(purpose(config)).await;
            Err(DbErr::Conn(RuntimeErr::Internal(NO_ANSWER.to_owned())).into())
        }
    }
}

/// Live commands that one statement of a walk through all of them looks at.
const WINDOW: usize = 50_000;

/// Everything that the database leases to these instances, and to any that it does not know.
///
/// No index is kept for it, because it is asked only about instances that have died or have missed an answer. It walks
/// through the live table, once for all of them, in steps that are answered soon, however many commands wait in it.
pub(crate) async fn leased_to(
    store: &Store,
    config: &Config,
    instances: &[InstanceId],
) -> Result<HashMap<InstanceId, HashSet<Held>>> {
    let (mut leased, mut after) = (HashMap::<_, HashSet<Held>>::new(), None);
    loop {
        let (some, next) = answer(store, config, store.held(instances, after, WINDOW)).await?;
        for (instance, held) in some {
            leased.entry(instance).or_default().insert(held);
        }
        after = next;
        if after.is_none() {
            return Ok(leased);
        }
    }
}

/// How many commands one transaction takes back.
const TAKEN_BACK: usize = 100;

/// Takes back what the database leases to an instance that does not hold it: a batch at a time, and one by one where a
/// batch meets something that the database refuses. Tells of those that have ended by it. Returns how many were taken, and
/// what went wrong last.
pub(crate) async fn take_back(
    shared: &Shared,
    store: &Store,
    instance: InstanceId,
    held: &[Held],
    ending: &Ending,
) -> (usize, Result<()>) {
    let config = &shared.config;
    let (mut count, mut result) = (0, Ok(()));
    let mut batches: VecDeque<&[Held]> = held.chunks(TAKEN_BACK).collect();
    while let Some(batch) = batches.pop_front() {
        let terms = (config.max_lost_leases, config.lease_duration);
        match answer(store, config, store.take_back(instance, batch, ending, terms)).await {
            Ok(taken) => {
                count += taken.len();
                let ended = taken.iter().filter(|taken| taken.state.has_ended());
                shared.wake.ended(ended.clone().map(|taken| taken.lease.id));
                ended.for_each(|taken| quietly(|| tell_of_end(taken.lease, &taken.key, taken.state, ending)));
            }
            Err(error) if is_about_the_batch(&error) => {
                if batch.len() > 1 {
                    batches.extend(batch.chunks(1));
                }
                result = Err(error);
            }
            Err(error) => return (count, Err(error)),
        }
    }
    (count, result)
}

/// The event of an end, whoever has brought it about.
pub(crate) fn tell_of_end(lease: Lease, key: &str, state: State, ending: &Ending) {
    let (id, attempt) = (lease.id, lease.attempt);
    match state {
        State::Completed => tracing::debug!(target: "orchestratum::complete", %id, key, attempt, "completed"),
        State::Failed => {
            tracing::error!(target: "orchestratum::fail", %id, key, attempt, ?ending, "failed for good");
        }
        State::Canceled => tracing::info!(target: "orchestratum::cancel", %id, key, attempt, "canceled"),
        State::Pending | State::Blocked | State::Running => {}
    }
}

/// Whether a smaller batch may succeed where this one did not.
pub(crate) fn is_about_the_batch(error: &Error) -> bool {
    error.is_refusal() || error.is_conflict() || is_no_answer(error)
}

/// What the engine's connections are opened for. A transaction that waits for longer than the lease belongs to a process
/// that has lost it.
pub(crate) const fn purpose(config: &Config) -> Purpose {
    Purpose::Engine { connections: config.engine_connections, patience: config.lease_duration }
}

/// Makes a panic within one turn of a loop an error like any other: the loop backs off and goes on. What may panic is the
/// application's, a `tracing` subscriber for instance; what was under way is found as leased and not held, or by the
/// next turn.
pub(crate) async fn guarded<T>(turn: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(turn).catch_unwind().await.unwrap_or_else(|panic| {
        let message = format!("a turn of the engine {}", panic_text(&*panic));
        Err(DbErr::Conn(RuntimeErr::Internal(message)).into())
    })
}

/// Emits an event where a panic of the application's subscriber would end a loop.
pub(crate) fn quietly(event: impl FnOnce()) {
    // The panic hook has told of it.
    let _ = std::panic::catch_unwind(AssertUnwindSafe(event));
}

/// Locks what a panic elsewhere leaves whole, because each change to it is one call.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or_else(|| "panicked".to_owned(), |text| format!("panicked: {text}"))
}

/// The longest text of an error that is stored, in bytes; longer ones lose their end.
pub(crate) const MAX_ERROR_BYTES: usize = 16 * 1024;

/// A text that every database can store: no NUL, and not too long.
pub(crate) fn storable(text: &str) -> String {
    let mut text = text[..text.floor_char_boundary(MAX_ERROR_BYTES)].replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
    text
}

/// A part of a span of time chosen at random, so that instances do not act in step.
pub(crate) fn jittered(span: Duration) -> Duration {
    span.mul_f64(0.9 + 0.2 * fastrand::f64())
}
