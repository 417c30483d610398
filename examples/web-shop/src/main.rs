//! A shop behind an HTTP interface. An order and its commands are written in one transaction, and what a command does to
//! the stock is written together with its completion.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod commands;
mod http;
mod tables;

use orchestratum_mediator::prelude::*;
use orchestratum_mediator::shutdown_signal;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = || format!("sqlite://{}/app.db?mode=rwc", folder.path().display());
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());

    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| file());
    let orchestrator = Orchestrator::builder().database(url).migrate().mediator().build().await?;
    // The shop shares the pool.
    let database = orchestrator.connection().clone();
    tables::create(&database).await?;
    let worker = orchestrator.start();

    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let serve = axum::serve(listener, http::routes(database, orchestrator)).with_graceful_shutdown(shutdown_signal());
    tokio::select! {
        served = serve.into_future() => served?,
        // Nobody would run what the shop appends.
        () = worker.ended() => {}
    }

    // In this order: a request that is still answered may append.
    worker.shutdown().await?;
    println!("all that ran has ended; what waits is in the database");
    Ok(())
}
