//! riverqueue as a measured program, on PostgreSQL and SQLite.

mod database;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use orchestratum_bench_program::{Options, Payload, Queue, work};
use riverqueue::{BoxError, Client, Job, JobArgs, QueueConfig, WorkContext, WorkOutcome, Workers};
use serde::{Deserialize, Serialize};

use crate::database::Database;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<River>()
}

#[derive(Clone)]
struct River {
    client: Client,
    database: Database,
}

#[derive(Serialize, Deserialize)]
struct Noop(Payload);

impl JobArgs for Noop {
    const KIND: &'static str = "noop";
}

/// How many jobs its README works at once; the library has no default.
const WORKERS_OF_README: usize = 10;

impl Queue for River {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn open(options: &Options) -> Result<Self> {
        let database = Database::connect(&options.url, options.tuned()).await?;
        let mut workers = Workers::new();
        workers.add_fn(handle)?;
        let mut builder = database.client().workers(workers);
        let mut queue = QueueConfig::new(WORKERS_OF_README);
        if options.tuned() {
            builder = builder.fetch_cooldown(Duration::from_millis(1));
            queue = QueueConfig::new(database.best_workers()).with_fetch_poll_interval(database.best_poll_interval());
        }
        Ok(Self { client: builder.queue("default", queue).build()?, database })
    }

    async fn set_up(&self) -> Result<()> {
        self.database.set_up().await
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        self.client.insert(Noop(payload)).await?;
        Ok(())
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        self.client.insert_many(payloads.into_iter().map(Noop)).await?;
        Ok(())
    }

    async fn append_within(&self, payload: Payload) -> Result<()> {
        self.database.append_within(&self.client, payload.i, Noop(payload)).await
    }

    async fn start(&self) -> Result<()> {
        self.client.start()?.detach();
        Ok(())
    }

    async fn left(&self) -> Result<u64> {
        self.database.left().await
    }
}

async fn handle(_: WorkContext, job: Job<Noop>) -> Result<WorkOutcome, BoxError> {
    work(job.args.0).await;
    Ok(WorkOutcome::Complete)
}
