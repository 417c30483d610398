//! Tells the story of six orders: each step appends the next one, whichever way it ends.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod orders;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use orchestratum_core::{Canceled, Filter, Page, State};
use orchestratum_mediator::prelude::*;
use serde::de::IgnoredAny;
use tokio::sync::Notify;

use crate::orders::{Order, PlaceOrder};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = || format!("sqlite://{}/app.db?mode=rwc", folder.path().display());
    let packing = Arc::new(Notify::new());
    let orchestrator = Orchestrator::builder()
        .database(std::env::var("DATABASE_URL").unwrap_or_else(|_| file()))
        .migrate()
        .shared(Arc::clone(&packing))
        .mediator()
        .build()
        .await?;
    let worker = orchestrator.start();

    println!("all is well");
    orchestrator.append(order(1, "tea", "a good card")).await?;
    until_settled(&orchestrator).await?;

    println!("the first charge fails, the second does not");
    orchestrator.append(order(2, "coffee", "slow bank")).await?;
    until_settled(&orchestrator).await?;

    println!("the charge fails for good");
    let id = orchestrator.append(order(3, "tea", "expired")).await?.id();
    until_settled(&orchestrator).await?;
    println!("  placing it: {:?}", orchestrator.outcome::<()>(id).await?);
    let charge = latest(&orchestrator, "charge_card").await?;
    println!("  charging it: {:?}", orchestrator.outcome::<IgnoredAny>(charge).await?);

    println!("shipping fails: the money goes back");
    orchestrator.append(order(4, "ice cream", "a good card")).await?;
    until_settled(&orchestrator).await?;

    println!("canceled before it starts");
    let id = orchestrator.append(order(5, "tea", "a good card")).delay(Duration::from_secs(3600)).await?.id();
    assert_eq!(orchestrator.cancel(id).await?, Canceled::Now);
    until_settled(&orchestrator).await?;

    println!("canceled while it runs: the handler is told, and the money goes back");
    orchestrator.append(order(6, "piano", "a good card")).await?;
    packing.notified().await;
    let shipping = latest(&orchestrator, "ship_order").await?;
    assert_eq!(orchestrator.cancel(shipping).await?, Canceled::Requested);
    until_settled(&orchestrator).await?;

    worker.shutdown().await?;
    Ok(())
}

fn order(number: u32, goods: &str, card: &str) -> PlaceOrder {
    PlaceOrder { order: Order { number, goods: goods.to_owned(), card: card.to_owned() } }
}

/// Waits for the ends of the chains. A follow-up appears in the transaction that ends the command before it, so there is
/// no moment in between without a live command.
async fn until_settled(orchestrator: &Orchestrator) -> anyhow::Result<()> {
    let live = Filter::all().queue("orders").state(State::Pending).state(State::Running);
    while let Some(command) = orchestrator.list(live.clone(), Page::default().limit(1)).await?.first() {
        orchestrator.wait::<IgnoredAny>(command.id).await?;
    }
    Ok(())
}

/// The command of this key that was appended last.
async fn latest(orchestrator: &Orchestrator, key: &str) -> anyhow::Result<CommandId> {
    let commands = orchestrator.list(Filter::all().key(key), Page::default().limit(1)).await?;
    commands.first().map(|command| command.id).with_context(|| format!("no {key}"))
}
