//! apalis on PostgreSQL as a measured program.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use apalis::prelude::*;
use apalis_postgres::{Config, PgPool, PostgresStorage, Pubsub, queries};
use orchestratum_bench_program::{Options, Payload, Queue, work};
use sqlx::postgres::PgPoolOptions;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<Apalis>()
}

#[derive(Clone)]
struct Apalis {
    pool: PgPool,
    config: Config,
    tuned: bool,
}

const QUEUE: &str = "bench";
/// How many jobs are claimed at once and run at once: the best of eleven settings when a backlog is drained.
const CONCURRENCY: usize = 1_000;
/// Each does one thing at a time, so that two are twice as fast as one; four are no faster.
const WORKERS: usize = 2;

impl Queue for Apalis {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn open(options: &Options) -> Result<Self> {
        let mut config = Config::default().queue(QUEUE);
        if options.tuned() {
            config = config.batch_size(CONCURRENCY).lock_tasks(false);
        }
        // The driver asks each connection whether it lives before each use, unless told otherwise.
        let pool = PgPoolOptions::new().test_before_acquire(!options.tuned()).connect(&options.url).await?;
        Ok(Self { pool, config, tuned: options.tuned() })
    }

    async fn set_up(&self) -> Result<()> {
        PostgresStorage::setup(&self.pool).await?;
        sqlx::query("CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)").execute(&self.pool).await?;
        Ok(())
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        self.storage().push(payload).await?;
        Ok(())
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        self.storage().push_bulk(payloads).await?;
        Ok(())
    }

    async fn append_within(&self, payload: Payload) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO bench_orders (id) VALUES ($1)")
            .bind(i64::try_from(payload.i)?)
            .execute(&mut *transaction)
            .await?;
        let task = TaskBuilder::new(serde_json::to_vec(&payload)?).build();
        queries::push_tasks(&mut *transaction, QUEUE, vec![task]).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        if !self.tuned {
            tokio::spawn(WorkerBuilder::new("bench").backend(self.storage()).build(handle).run());
            return Ok(());
        }
        for number in 0..WORKERS {
            // Left to itself a worker without work sleeps for seconds; notifications are a choice of the user's.
            let inserts = Pubsub::new(self.pool.clone(), QUEUE.to_owned());
            let strategy = Strategy::new().stream(inserts).interval(Duration::from_millis(100));
            let storage = self.storage().poll_with_strategy(strategy);
            let worker = WorkerBuilder::new(format!("bench-{number}")).backend(storage);
            tokio::spawn(worker.concurrency(CONCURRENCY).build(handle).run());
        }
        Ok(())
    }

    async fn left(&self) -> Result<u64> {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'").fetch_one(&self.pool).await?;
        Ok(u64::try_from(left)?)
    }
}

impl Apalis {
    fn storage(&self) -> PostgresStorage<Payload> {
        PostgresStorage::new(&self.pool).with_config(self.config.clone())
    }
}

async fn handle(payload: Payload) -> Result<(), BoxDynError> {
    work(payload).await;
    Ok(())
}
