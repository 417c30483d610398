//! Guarantee 13: what an idle worker asks. A binary of its own, because a subscriber is the whole process's.
#![allow(clippy::unwrap_used, reason = "a case that cannot go on says where")]

#[path = "behavior/harness.rs"]
#[allow(dead_code, reason = "one case needs little of it")]
mod harness;

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use orchestratum_core::{Command, Context, Orchestrator};
use sea_orm::{ConnectOptions, Database};
use tokio::sync::Mutex;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::harness::{on_every_backend, until};

/// Counts the statements that the driver sends.
struct Counter;

static STATEMENTS: AtomicUsize = AtomicUsize::new(0);
static COUNTER: Once = Once::new();
/// The backends take turns: a statement does not say whose it is.
static TURN: Mutex<()> = Mutex::const_new(());

impl Subscriber for Counter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        STATEMENTS.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

const POLLING: Duration = Duration::from_millis(100);

/// An interval is up to a tenth shorter. Heartbeat and look for the dead come each ten seconds, other looks each minute,
/// a handful of statements together.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
fn allowed(span: Duration) -> usize {
    let polls = span.div_duration_f64(POLLING.mul_f64(0.9)) + 1.0;
    (polls + 8.0 * (1.0 + span.as_secs_f64() / 10.0)) as usize
}

on_every_backend! {
    async fn an_idle_worker_asks_once_a_polling_interval(world) {
        let _turn = TURN.lock().await;
        COUNTER.call_once(|| tracing::subscriber::set_global_default(Counter).unwrap());
        // The engine's connections are like the one that it was lent, and so tell of their statements.
        let connection = Database::connect(ConnectOptions::new(&world.url)).await.unwrap();
        let mut builder = Orchestrator::builder().connection(connection).polling_interval(POLLING);
        for key in 0..20 {
            builder = builder.executor(format!("k{key}"), |(): (), _: Context| async move { Ok(()) });
        }
        let orchestrator = builder.build().await.unwrap();
        let lane = |number: usize| (format!("k{}", number % 20), format!("q{}", number % 5));
        let commands = (0..100).map(|number| {
            let (key, queue) = lane(number);
            Command::new(key, &()).unwrap().queue(queue)
        });
        let done = orchestrator.append_all(commands).await.unwrap();
        // What waits for later, and what this worker does not know, is nothing to ask for.
        let later = (0..100).map(|number| {
            let (key, queue) = lane(number);
            Command::new(key, &()).unwrap().queue(queue).delay(Duration::from_secs(3600))
        });
        orchestrator.append_all(later).await.unwrap();
        let other = Orchestrator::builder().database(&world.url).client_only().build().await.unwrap();
        other.append_all((0..100).map(|_| Command::new("unknown", &()).unwrap())).await.unwrap();
        let worker = orchestrator.start();
        for done in done {
            orchestrator.wait::<()>(done.id()).await.unwrap();
        }

        // What the work has left to ask for ends by itself: the first stretches may be busier.
        let (mut from, mut before) = (Instant::now(), STATEMENTS.load(Ordering::SeqCst));
        until("the worker asks no more than once an interval", async || {
            let (now, asked) = (Instant::now(), STATEMENTS.load(Ordering::SeqCst) - before);
            if asked < 40 {
                return false;
            }
            let is_quiet = asked <= allowed(now - from);
            (from, before) = (now, before + asked);
            is_quiet
        })
        .await;
        worker.shutdown().await.unwrap();
    }
}
