//! awa as a measured program.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use awa::{Client, InsertOpts, JobArgs, JobResult, QueueConfig, QueueStorage, QueueStorageConfig};
use orchestratum_bench_program::{Options, Payload, Queue, work};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Handle;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<Awa>()
}

#[derive(Clone)]
struct Awa {
    pool: PgPool,
    client: Arc<Client>,
    storage: Arc<QueueStorage>,
}

#[derive(Serialize, Deserialize, JobArgs)]
#[serde(transparent)]
struct Noop(Payload);

/// What was ever enqueued, less what is recorded as done. A finished job is counted in a batch of completions or is a
/// row of its own, and in a sum once its segment is pruned.
const LEFT: &str = "SELECT ( \
    (SELECT coalesce(sum(awa.sequence_next_value(seq_name) - 1), 0) FROM awa.queue_enqueue_heads) \
    - (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches) \
    - (SELECT count(*) FROM awa.done_entries) \
    - (SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups) \
    )::bigint";

impl Queue for Awa {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn open(options: &Options) -> Result<Self> {
        // The driver asks each connection whether it lives before each use, unless told otherwise.
        let pool = PgPoolOptions::new().test_before_acquire(!options.tuned()).connect(&options.url).await?;
        let mut queue = QueueConfig::default();
        if options.tuned() {
            queue.max_workers = 1_024;
            queue.claimers = 2;
            // Without a deadline a claim is one row for many jobs.
            queue.deadline_duration = Duration::ZERO;
        }
        let client = Client::builder(pool.clone()).queue("default", queue).register(handle).build()?;
        let storage = QueueStorage::new(QueueStorageConfig::default())?;
        Ok(Self { pool, client: Arc::new(client), storage: Arc::new(storage) })
    }

    async fn set_up(&self) -> Result<()> {
        // Its future cannot be sent to another thread, so it gets one of its own.
        let (pool, runtime) = (self.pool.clone(), Handle::current());
        tokio::task::spawn_blocking(move || runtime.block_on(awa::migrations::run(&pool))).await??;
        // The first worker to start on an empty database chooses its default engine; before, jobs go to an older one.
        self.client.start().await?;
        while awa::storage::status(&self.pool).await?.active_engine != "queue_storage" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.client.shutdown(Duration::from_secs(5)).await;
        sqlx::query("CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)").execute(&self.pool).await?;
        Ok(())
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        awa::insert_with(&self.pool, &Noop(payload), InsertOpts::default()).await?;
        Ok(())
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        let jobs = payloads.into_iter().map(|payload| awa::model::insert::params(&Noop(payload)));
        let jobs = jobs.collect::<Result<Vec<_>, _>>()?;
        self.storage.enqueue_params_copy(&self.pool, &jobs).await?;
        Ok(())
    }

    async fn append_within(&self, payload: Payload) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO bench_orders (id) VALUES ($1)")
            .bind(i64::try_from(payload.i)?)
            .execute(&mut *transaction)
            .await?;
        awa::insert_with(&mut *transaction, &Noop(payload), InsertOpts::default()).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        self.client.start().await?;
        Ok(())
    }

    async fn left(&self) -> Result<u64> {
        let left: i64 = sqlx::query_scalar(LEFT).fetch_one(&self.pool).await?;
        Ok(u64::try_from(left)?)
    }
}

fn handle(job: Noop, _: &awa::JobContext) -> impl Future<Output = Result<JobResult, awa::JobError>> + use<> {
    async {
        work(job.0).await;
        Ok(JobResult::Completed)
    }
}
