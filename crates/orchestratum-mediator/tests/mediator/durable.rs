//! Requests as commands.

use std::time::Duration;

use orchestratum_core::{Error, Filter, Page};
use orchestratum_mediator::prelude::*;
use sea_orm::{SqliteTransactionMode, TransactionOptions, TransactionTrait};
use serde::{Deserialize, Serialize};

use crate::app::{App, Notebook, start, start_with};
use crate::send::{GetUser, User};

#[derive(Serialize, Deserialize, Request)]
#[request(name = "send_email", timeout = "10m", retries = 5, queue = "mail", priority = -3)]
struct SendEmailCommand {
    to: String,
}

#[handler]
async fn send_email(command: SendEmailCommand, ctx: Context, notebook: Service<Notebook>) -> anyhow::Result<()> {
    assert_eq!((ctx.key(), ctx.queue(), ctx.timeout()), ("send_email", "mail", Some(Duration::from_secs(600))));
    if command.to.is_empty() {
        return Err(Verdict::fail("nobody to send it to").into());
    }
    notebook.write(command.to);
    Ok(())
}

#[derive(Serialize, Deserialize, Request)]
#[request(name = "remote", timeout = "1h30m", retries = 0, queue = "far", priority = 7)]
struct Remote;

fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

#[tokio::test]
async fn an_appended_request_runs_and_its_response_is_the_output() {
    let app = start(|setup| setup).await;
    let App { orchestrator, notebook, .. } = &app;
    let id = orchestrator.append(GetUser { id: 3 }).await.unwrap().id();
    let outcome = orchestrator.wait::<User>(id).await.unwrap();
    assert_eq!(outcome, Outcome::Completed(User { id: 3, name: "Ada".to_owned() }));

    let id = orchestrator.append(SendEmailCommand { to: "ada".to_owned() }).await.unwrap().id();
    assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
    assert_eq!(notebook.lines(), ["ada"]);
}

#[tokio::test]
async fn the_options_of_a_request_are_those_of_its_commands() {
    let app = start_with(|builder| builder.remote_request::<Remote>().mediator()).await;
    let here = app.orchestrator.append(SendEmailCommand { to: "ada".to_owned() }).await.unwrap().id();
    let info = app.orchestrator.get(here).await.unwrap().unwrap();
    assert_eq!((&*info.key, &*info.queue, info.priority, info.retry_count), ("send_email", "mail", -3, 5));
    // The other program's defaults are unknown here: the request itself carries them.
    let there = app.orchestrator.append(Remote).retry_count(2).await.unwrap().id();
    let info = app.orchestrator.get(there).await.unwrap().unwrap();
    assert_eq!((&*info.queue, info.priority, info.retry_count), ("far", 7, 2));
    assert_eq!(info.timeout, Duration::from_secs(5_400));
}

#[tokio::test]
async fn a_verdict_of_a_handler_and_an_undecodable_payload_fail_for_good() {
    let app = start(|setup| setup).await;
    let App { orchestrator, .. } = &app;
    let id = orchestrator.append(SendEmailCommand { to: String::new() }).await.unwrap().id();
    assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Failed("nobody to send it to".to_owned()));
    let id = orchestrator.append(("send_email", 17)).await.unwrap().id();
    let Outcome::Failed(reason) = orchestrator.wait::<()>(id).await.unwrap() else { panic!("it must fail") };
    assert!(reason.contains("cannot be decoded"), "{reason}");
}

#[tokio::test]
async fn a_request_within_a_transaction_runs_if_that_commits() {
    let app = start(|setup| setup).await;
    let App { orchestrator, notebook, .. } = &app;
    let transaction = orchestrator.connection().begin_with_options(immediate()).await.unwrap();
    let lost = orchestrator.append(SendEmailCommand { to: "lost".to_owned() }).within(&transaction).await.unwrap().id();
    transaction.rollback().await.unwrap();

    let transaction = orchestrator.connection().begin_with_options(immediate()).await.unwrap();
    let kept = orchestrator.append(SendEmailCommand { to: "kept".to_owned() }).within(&transaction).await.unwrap().id();
    transaction.commit().await.unwrap();

    assert_eq!(orchestrator.wait::<()>(kept).await.unwrap(), Outcome::Completed(()));
    assert!(matches!(orchestrator.wait::<()>(lost).await, Err(Error::NotFound(id)) if id == lost));
    assert_eq!(notebook.lines(), ["kept"]);
}

#[tokio::test]
async fn many_requests_are_appended_at_once() {
    let app = start(|setup| setup).await;
    let App { orchestrator, .. } = &app;
    let appended = orchestrator.append_all((1..=20).map(|id| GetUser { id })).await.unwrap();
    for (number, appended) in (1..).zip(&appended) {
        let user = orchestrator.wait::<User>(appended.id()).await.unwrap().completed().unwrap();
        assert_eq!(user.id, number);
    }
    let listed = orchestrator.list(Filter::all().key(GetUser::name()), Page::default()).await.unwrap();
    assert_eq!(listed.len(), 20);
}

#[derive(Serialize, Deserialize, Request)]
#[request(response = orchestratum_core::CommandId)]
struct Fan {
    to: String,
}

#[handler]
async fn fan(request: Fan, orchestrator: Orchestrator) -> anyhow::Result<orchestratum_core::CommandId> {
    Ok(orchestrator.append(SendEmailCommand { to: request.to }).await?.id())
}

#[tokio::test]
async fn a_handler_can_append_commands_durably_and_in_process() {
    let app = start(|setup| setup).await;
    let durable = app.orchestrator.append(Fan { to: "ada".to_owned() }).await.unwrap().id();
    let durable = app.orchestrator.wait(durable).await.unwrap().completed().unwrap();
    let in_process = app.orchestrator.mediator().send(Fan { to: "bob".to_owned() }).await.unwrap();
    for id in [durable, in_process] {
        assert_eq!(app.orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
    }
}
