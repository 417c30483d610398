//! A worker in a process of its own, for the cases that kill, pause or misdate one.
//!
//! `worker_process DATABASE_URL LEDGER LEASE_MS`: serves `note` (appends a line to the ledger), `hold` (runs until it is
//! told to stop, then tries to complete late), `doze` (takes a moment) and `kill` (takes the process along), and stops
//! when its standard input is closed.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a test's other half")]

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use orchestratum_core::{Context, Orchestrator, RetryPolicy};
use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

#[derive(Clone)]
struct Ledger(Arc<std::path::PathBuf>);

impl Ledger {
    /// One write of one line to a file opened for appending is not torn by other processes.
    fn write(&self, line: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&*self.0).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (url, ledger, lease) = (arguments.next().unwrap(), arguments.next().unwrap(), arguments.next().unwrap());
    let ledger = Ledger(Arc::new(ledger.into()));
    let pool = Database::connect(&url).await.unwrap();
    let (notes, holds) = (ledger.clone(), ledger.clone());
    let pooled = std::env::var_os("ORCHESTRATUM_TEST_PGBOUNCER_URL").is_some();
    let builder = if pooled { Orchestrator::builder().poll_only() } else { Orchestrator::builder() };
    let orchestrator = builder
        .database(&url)
        .lease_duration(Duration::from_millis(lease.parse().unwrap()))
        .polling_interval(Duration::from_millis(100))
        .default_retry_policy(RetryPolicy::Fixed(Duration::from_millis(1)))
        .executor("note", move |text: String, ctx: Context| {
            let notes = notes.clone();
            async move {
                notes.write(&format!("{} {text} {}", std::process::id(), ctx.attempt()));
                Ok(())
            }
        })
        .executor("kill", |(): (), _: Context| async move {
            std::process::abort();
            #[allow(unreachable_code, reason = "gives the block a type")]
            Ok(())
        })
        .executor("doze", |(): (), _: Context| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        })
        .executor("hold", move |(): (), ctx: Context| {
            let (holds, pool) = (holds.clone(), pool.clone());
            async move { hold(&holds, &pool, &ctx).await }
        })
        .build()
        .await
        .unwrap();
    let worker = orchestrator.start();
    println!("ready");
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    worker.shutdown().await.unwrap();
}

/// The first attempt holds on until its lease is lost, then says what a late worker can still do.
async fn hold(ledger: &Ledger, pool: &DatabaseConnection, ctx: &Context) -> anyhow::Result<()> {
    ledger.write(&format!("{} started {}", std::process::id(), ctx.attempt()));
    if ctx.attempt() > 1 {
        return Ok(());
    }
    ctx.canceled().await;
    ledger.write(&format!("{} canceled {}", std::process::id(), ctx.attempt()));
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let transaction = pool.begin_with_options(options).await?;
    transaction.execute_unprepared("INSERT INTO effects (attempt) VALUES (1)").await?;
    let late = ctx.complete_in(&transaction, ()).await;
    ledger.write(&format!("{} complete_in {}", std::process::id(), if late.is_ok() { "worked" } else { "failed" }));
    late?;
    transaction.commit().await?;
    Ok(())
}
