//! Guarantee 12: no panic ends a loop. A binary of its own, because a subscriber is the whole process's; on SQLite alone,
//! for the loops are the same everywhere.
#![allow(clippy::unwrap_used, reason = "a case that cannot go on says where")]

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use orchestratum_core::{Context, Orchestrator, Outcome, RetryPolicy};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Panics at the first event of each name that a thread of the engine emits.
struct Fragile {
    seen: Mutex<HashSet<String>>,
}

static NAMES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Subscriber for Fragile {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let of_engine = std::thread::current().name().is_some_and(|name| name.starts_with("orchestratum-"));
        let name = event.metadata().target();
        if of_engine && name.starts_with("orchestratum::") && self.seen.lock().unwrap().insert(name.to_owned()) {
            NAMES.lock().unwrap().push(name.to_owned());
            panic!("the subscriber panics at {name}");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_panics_ends_no_loop_and_strands_nothing() {
    tracing::subscriber::set_global_default(Fragile { seen: Mutex::default() }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let orchestrator = Orchestrator::builder()
        .database(format!("sqlite://{}?mode=rwc", folder.path().join("app.db").display()))
        .migrate()
        .lease_duration(Duration::from_secs(2))
        .polling_interval(Duration::from_millis(100))
        .default_retry_policy(RetryPolicy::Fixed(Duration::ZERO))
        .executor("fine", |number: u32, _: Context| async move { Ok(number) })
        .executor("flaky", |(): (), ctx: Context| async move {
            anyhow::ensure!(ctx.attempt() > 2, "not yet");
            Ok(())
        })
        .executor("bad", |(): (), _: Context| async move { Err::<(), _>(anyhow::anyhow!("never")) })
        .build()
        .await
        .unwrap();
    let worker = orchestrator.start();
    let fine = orchestrator.append_all((0..200_u32).map(|number| ("fine", number))).await.unwrap();
    let flaky = orchestrator.append(("flaky", ())).retry_count(9).await.unwrap().id();
    let bad = orchestrator.append(("bad", ())).retry_count(0).await.unwrap().id();
    let all = async {
        for (number, appended) in std::iter::zip(0.., fine) {
            assert_eq!(orchestrator.wait::<u32>(appended.id()).await.unwrap(), Outcome::Completed(number));
        }
        assert_eq!(orchestrator.wait::<()>(flaky).await.unwrap(), Outcome::Completed(()));
        assert_eq!(orchestrator.wait::<()>(bad).await.unwrap(), Outcome::Failed("never".to_owned()));
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("everything ends");
    worker.shutdown().await.unwrap();
    let names = NAMES.lock().unwrap().clone();
    for name in ["start", "instance", "claim", "complete", "retry", "fail", "extend"] {
        let name = format!("orchestratum::{name}");
        assert!(names.contains(&name), "{name} was not among {names:?}");
    }
}
