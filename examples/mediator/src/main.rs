//! What the mediator does: sends requests, publishes notifications, runs behaviors, reads streams, and runs the same
//! requests durably.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod behaviors;
mod email;
mod users;

use anyhow::Context as _;
use futures_util::TryStreamExt;
use orchestratum_core::{Filter, Page};
use orchestratum_mediator::prelude::*;

use crate::behaviors::{Guest, Logging, Validation};
use crate::email::{Invoice, SendEmailCommand, Welcome};
use crate::users::{CreateUser, GetUser, ListUsers, Users};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = || format!("sqlite://{}/app.db?mode=rwc", folder.path().display());
    let orchestrator = Orchestrator::builder()
        .database(std::env::var("DATABASE_URL").unwrap_or_else(|_| file()))
        .migrate()
        .service(Users::with("Grace"))
        // The handlers register themselves. The behavior named first is the outermost.
        .mediator_with(|mediator| {
            mediator.behavior(Logging).behavior_for::<CreateUser>(Validation).behavior_for::<GetUser>(Recover(Guest))
        })
        .build()
        .await?;
    let mediator = orchestrator.mediator();
    println!("serves {}", mediator.requests().join(", "));

    println!("send: the handler runs here and now, and what it publishes is heard by two");
    let id = mediator.send(CreateUser { name: "Ada".to_owned() }).await?;
    let user = mediator.send(GetUser { id }).await?;
    println!("  user {id} is {}", user.name);

    println!("behaviors: one refuses a request, another one answers for a handler that fails");
    assert!(mediator.send(CreateUser { name: " ".to_owned() }).await.is_err());
    println!("  user 99 is {}", mediator.send(GetUser { id: 99 }).await?.name);

    println!("streams: items come as they are read");
    let mut users = mediator.stream(ListUsers);
    while let Some(user) = users.try_next().await? {
        println!("  {}", user.name);
    }

    println!("append: what a handler appended above runs in the background, behaviors included");
    let worker = orchestrator.start();
    let page =
        orchestrator.list(Filter::all().key(SendEmailCommand::<Welcome>::name()), Page::default().limit(1)).await?;
    let welcome = page.first().context("no e-mail was appended")?.id;
    println!("  its output: {:?}", orchestrator.wait::<String>(welcome).await?);

    println!("generics: another template, another name, the same handler");
    let bill = orchestrator.append(SendEmailCommand { to: user.name, template: Invoice { cents: 1250 } }).await?.id();
    println!("  its output: {:?}", orchestrator.wait::<String>(bill).await?);

    worker.shutdown().await?;
    Ok(())
}
