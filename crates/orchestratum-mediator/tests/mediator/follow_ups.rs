//! Commands that a request appends when it ends.

use std::time::Duration;

use orchestratum_core::{CommandInfo, Filter, Order, Page};
use orchestratum_mediator::prelude::*;
use sea_orm::{Database, DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use serde::{Deserialize, Serialize};

use crate::app::{App, Notebook, start, start_with};

#[derive(Serialize, Deserialize, Request)]
#[request(response = u64, follow_ups, retries = 0)]
struct PlaceOrder {
    item: String,
    result: Result<u64, String>,
}

impl FollowUps for PlaceOrder {
    fn on_success(&self, order: &u64) -> Commands {
        Commands::new()
            .then(Ship { order: *order, item: self.item.clone() })
            .then_with(("receipt", order), |command| command.queue("paper"))
    }

    fn on_failure(&self) -> Commands {
        Commands::new().then(Apologize { item: self.item.clone() })
    }
}

#[handler]
async fn place_order(request: PlaceOrder) -> anyhow::Result<u64> {
    request.result.map_err(anyhow::Error::msg)
}

/// Says by itself what a cancellation does.
#[derive(Serialize, Deserialize, Request)]
#[request(follow_ups)]
struct Quiet;

impl FollowUps for Quiet {
    fn on_failure(&self) -> Commands {
        Commands::new().then(Apologize { item: "noise".to_owned() })
    }

    fn on_cancel(&self) -> Commands {
        Commands::new()
    }
}

#[handler]
async fn quiet(_: Quiet) -> anyhow::Result<()> {
    Ok(())
}

/// Completes in a transaction of its own.
#[derive(Serialize, Deserialize, Request)]
#[request(response = u64, follow_ups)]
struct Reserve {
    item: String,
}

impl FollowUps for Reserve {
    fn on_success(&self, order: &u64) -> Commands {
        Commands::new().then(Ship { order: *order, item: self.item.clone() })
    }
}

#[handler]
async fn reserve(request: Reserve, ctx: Context, notebook: Service<Notebook>) -> anyhow::Result<u64> {
    let pool = ctx.service::<DatabaseConnection>()?;
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let transaction = pool.begin_with_options(options).await?;
    ctx.complete_in(&transaction, 6).await?;
    transaction.commit().await?;
    notebook.write(format!("reserve {}", request.item));
    Ok(0)
}

#[derive(Serialize, Deserialize, Request)]
struct Ship {
    order: u64,
    item: String,
}

#[handler]
async fn ship(request: Ship, notebook: Service<Notebook>) -> anyhow::Result<()> {
    notebook.write(format!("ship {} {}", request.order, request.item));
    Ok(())
}

#[derive(Serialize, Deserialize, Request)]
struct Apologize {
    item: String,
}

#[handler]
async fn apologize(request: Apologize, notebook: Service<Notebook>) -> anyhow::Result<()> {
    notebook.write(format!("sorry for {}", request.item));
    Ok(())
}

async fn app() -> App {
    start_with(|builder| builder.mediator().executor("receipt", |_: u64, _: Context| async move { Ok(()) })).await
}

/// The one command of a key, once it has ended.
async fn ended(orchestrator: &Orchestrator, key: &str) -> CommandInfo {
    let listed = orchestrator.list(Filter::all().key(key), Page::default()).await.unwrap();
    let [command] = &listed[..] else { panic!("one command of `{key}`, not {listed:?}") };
    orchestrator.wait::<()>(command.id).await.unwrap();
    orchestrator.get(command.id).await.unwrap().unwrap()
}

fn order(result: Result<u64, String>) -> PlaceOrder {
    PlaceOrder { item: "lamp".to_owned(), result }
}

#[tokio::test]
async fn success_appends_what_is_computed_from_the_output() {
    let app = app().await;
    let App { orchestrator, notebook, .. } = &app;
    let id = orchestrator.append(order(Ok(42))).await.unwrap().id();
    assert_eq!(orchestrator.wait::<u64>(id).await.unwrap(), Outcome::Completed(42));
    ended(orchestrator, "ship").await;
    let receipt = ended(orchestrator, "receipt").await;
    assert_eq!((&*receipt.queue, &*receipt.payload), ("paper", "42"));
    assert_eq!(notebook.lines(), ["ship 42 lamp"]);
}

#[tokio::test]
async fn a_completion_in_a_transaction_appends_them_too() {
    let pool_folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", pool_folder.path().join("app.db").display());
    let pool = Database::connect(url).await.unwrap();
    let app = start_with(|builder| builder.connection(pool.clone()).service(pool).mediator()).await;
    let App { orchestrator, notebook, .. } = &app;
    let id = orchestrator.append(Reserve { item: "lamp".to_owned() }).await.unwrap().id();
    assert_eq!(orchestrator.wait::<u64>(id).await.unwrap(), Outcome::Completed(6));
    ended(orchestrator, "ship").await;
    let lines = notebook.lines();
    assert!(lines.contains(&"reserve lamp".to_owned()) && lines.contains(&"ship 6 lamp".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn failure_appends_what_was_computed_at_append() {
    let app = app().await;
    let App { orchestrator, notebook, .. } = &app;
    let id = orchestrator.append(order(Err("sold out".to_owned()))).await.unwrap().id();
    assert_eq!(orchestrator.wait::<u64>(id).await.unwrap(), Outcome::Failed("sold out".to_owned()));
    ended(orchestrator, "apologize").await;
    assert_eq!(notebook.lines(), ["sorry for lamp"]);
}

#[tokio::test]
async fn cancellation_appends_what_a_failure_does_unless_the_request_says_otherwise() {
    let app = start(|setup| setup).await;
    let App { orchestrator, notebook, .. } = &app;
    let day = Duration::from_secs(86_400);
    let id = orchestrator.append(Quiet).delay(day).await.unwrap().id();
    let _ = orchestrator.cancel(id).await.unwrap();
    assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Canceled);
    let id = orchestrator
        .append(order(Ok(1)))
        .delay(day)
        .on_failure(Apologize { item: "the wait".to_owned() })
        .await
        .unwrap()
        .id();
    let _ = orchestrator.cancel(id).await.unwrap();
    let page = Page::default().order(Order::OldestFirst);
    let apologies = orchestrator.list(Filter::all().key("apologize"), page).await.unwrap();
    assert_eq!(apologies.len(), 2, "the request's own, and the one added at this append");
    for apology in apologies {
        orchestrator.wait::<()>(apology.id).await.unwrap();
    }
    let mut lines = notebook.lines();
    lines.sort();
    assert_eq!(lines, ["sorry for lamp", "sorry for the wait"]);
}
