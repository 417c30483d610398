//! graphile_worker as a measured program.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use graphile_worker::{
    IntoTaskHandlerResult, JobSpec, LocalQueueConfig, TaskHandler, Worker, WorkerContext, WorkerOptions, WorkerUtils,
};
use orchestratum_bench_program::{Options, Payload, Queue, work};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<Graphile>()
}

#[derive(Clone)]
struct Graphile {
    pool: PgPool,
    worker: Arc<Worker>,
    utils: WorkerUtils,
}

#[derive(Clone, Serialize, Deserialize)]
struct Noop(Payload);

impl TaskHandler for Noop {
    const IDENTIFIER: &'static str = "noop";

    async fn run(self, _: WorkerContext) -> impl IntoTaskHandlerResult {
        work(self.0).await;
        Ok::<(), String>(())
    }
}

/// As many connections as the library opens by itself.
const CONNECTIONS: u32 = 20;

impl Queue for Graphile {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Also creates the tables: the library offers no worker without.
    async fn open(options: &Options) -> Result<Self> {
        // The driver asks each connection whether it lives before each use, unless told otherwise.
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(!options.tuned());
        let pool = pool.connect(&options.url).await?;
        let mut builder = WorkerOptions::default().pg_pool(pool.clone()).define_job::<Noop>();
        if options.tuned() {
            let batch_delay = Duration::from_millis(2);
            builder = builder
                .concurrency(24)
                .local_queue(LocalQueueConfig::default().with_size(1_000).with_queue_count(2))
                .complete_job_batch_delay(batch_delay)
                .fail_job_batch_delay(batch_delay);
        }
        let worker = Arc::new(builder.init().await?);
        let utils = worker.create_utils();
        Ok(Self { pool, worker, utils })
    }

    async fn set_up(&self) -> Result<()> {
        sqlx::query("CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)").execute(&self.pool).await?;
        Ok(())
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        self.utils.add_job(Noop(payload), JobSpec::default()).await?;
        Ok(())
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        let spec = JobSpec::default();
        let jobs: Vec<_> = payloads.into_iter().map(|payload| (Noop(payload), &spec)).collect();
        self.utils.add_jobs(&jobs).await?;
        Ok(())
    }

    async fn append_within(&self, payload: Payload) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO bench_orders (id) VALUES ($1)")
            .bind(i64::try_from(payload.i)?)
            .execute(&mut *transaction)
            .await?;
        let mut utils = self.utils.clone().with_executor(&mut transaction);
        utils.add_job(Noop(payload), JobSpec::default()).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        let worker = Arc::clone(&self.worker);
        tokio::spawn(async move { worker.run().await.expect("the worker runs until the process ends") });
        Ok(())
    }

    /// Finished jobs are deleted.
    async fn left(&self) -> Result<u64> {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM graphile_worker._private_jobs").fetch_one(&self.pool).await?;
        Ok(u64::try_from(left)?)
    }
}
