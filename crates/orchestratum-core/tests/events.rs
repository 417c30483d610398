//! What a `tracing` subscriber hears of that nothing else tells. A binary of its own, because a subscriber is the whole
//! process's.
#![allow(clippy::unwrap_used, reason = "a case that cannot go on says where")]

mod alone;

use std::fmt::{Debug, Write as _};
use std::sync::Mutex;

use orchestratum_core::Outcome;
use sea_orm::ConnectionTrait as _;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down the events of endings.
struct Scribe;

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Scribe {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ["orchestratum::fail", "orchestratum::cancel", "orchestratum::retry_policy::unreadable"]
            .contains(&metadata.target())
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} {}", event.metadata().level(), event.metadata().target()));
        event.record(&mut line);
        HEARD.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Nobody's handler has failed: the process is gone, and another one finds out.
#[tokio::test]
async fn a_command_that_ends_with_its_dead_instance_is_told_of() {
    tracing::subscriber::set_global_default(Scribe).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let orchestrator = alone::orchestrator(&folder).await;
    let deadly = orchestrator.append(("k", ())).await.unwrap().id();
    let unwanted = orchestrator.append(("k", ())).await.unwrap().id();
    let dead = format!("X'{}'", deadly.as_uuid().simple());
    for sql in [
        format!("INSERT INTO orchestratum_instances (id, name, started_at, expires_at) VALUES ({dead}, 'dead', 0, 0)"),
        format!("UPDATE orchestratum_live SET state = 'running', attempt = 6, losses = 5, instance = {dead}"),
        format!("UPDATE orchestratum_live SET losses = 0, cancel_requested = 1 WHERE id <> {dead}"),
    ] {
        orchestrator.connection().execute_unprepared(&sql).await.unwrap();
    }
    let damaged = orchestrator.append(("fail", ())).retry_count(0).await.unwrap().id();
    // A policy is read where it is asked, and not for what ends without one.
    orchestrator.append(("k", "no unit")).await.unwrap();
    let policy = "UPDATE orchestratum_commands SET retry_policy = '{damaged'";
    orchestrator.connection().execute_unprepared(policy).await.unwrap();
    let worker = orchestrator.start();
    assert!(matches!(orchestrator.wait::<()>(damaged).await.unwrap(), Outcome::Failed(_)));
    let ended = orchestrator.wait::<()>(deadly).await.unwrap();
    assert!(matches!(&ended, Outcome::Failed(error) if error.contains("lost its lease 6 times")), "{ended:?}");
    assert_eq!(orchestrator.wait::<()>(unwanted).await.unwrap(), Outcome::Canceled);
    worker.shutdown().await.unwrap();
    let heard = HEARD.lock().unwrap();
    let unreadable = format!(
        "ERROR orchestratum::retry_policy::unreadable message=its retry policy cannot be read; the default one is taken id={damaged}"
    );
    assert_eq!(heard.iter().filter(|line| line.starts_with(&unreadable)).count(), 1, "{heard:?}");
    assert_eq!(heard.iter().filter(|line| line.contains("retry_policy::unreadable")).count(), 1, "{heard:?}");
    for (event, id) in [("ERROR orchestratum::fail", deadly), ("INFO orchestratum::cancel", unwanted)] {
        let fields = format!("id={id} key=\"k\" attempt=6");
        assert_eq!(
            heard.iter().filter(|line| line.starts_with(event) && line.contains(&fields)).count(),
            1,
            "{heard:?}"
        );
    }
}
