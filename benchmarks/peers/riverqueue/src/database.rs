//! What differs between River's two databases.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Result;
use riverqueue::database::{begin_postgres, begin_sqlite_write};
use riverqueue::migrate::{PostgresMigrator, SqliteMigrator};
use riverqueue::sqlx::postgres::PgPoolOptions;
use riverqueue::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use riverqueue::sqlx::{self, PgPool, SqlitePool};
use riverqueue::{Client, ClientBuilder};

use crate::Noop;

#[derive(Clone)]
pub(crate) enum Database {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

const ORDERS: &str = "CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)";
const ORDER: &str = "INSERT INTO bench_orders (id) VALUES ($1)";
/// All states that are not final. Finished jobs stay in the table, so the states that are left are named: the index
/// begins with the state.
const LEFT: &str = "SELECT count(*) FROM river_job \
    WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND queue = 'default'";

impl Database {
    /// SQLite gets what River's example sets, and commits that survive a power cut.
    ///
    /// The driver asks each connection whether it lives before each use, unless told otherwise.
    pub(crate) async fn connect(url: &str, tuned: bool) -> Result<Self> {
        if !url.starts_with("sqlite") {
            let pool = PgPoolOptions::new().test_before_acquire(!tuned);
            return Ok(Self::Postgres(pool.connect(url).await?));
        }
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        Ok(Self::Sqlite(SqlitePoolOptions::new().test_before_acquire(!tuned).connect_with(options).await?))
    }

    pub(crate) fn client(&self) -> ClientBuilder {
        match self {
            Self::Postgres(pool) => Client::builder(pool.clone()),
            Self::Sqlite(pool) => Client::builder(pool.clone()),
        }
    }

    /// The fastest of 1,000 to 10,000 when a backlog is drained.
    pub(crate) fn best_workers(&self) -> usize {
        match self {
            Self::Postgres(_) => 5_000,
            Self::Sqlite(_) => 2_000,
        }
    }

    /// SQLite cannot notify, so there the interval is also how long a job waits for an idle worker.
    pub(crate) fn best_poll_interval(&self) -> Duration {
        match self {
            Self::Postgres(_) => Duration::from_millis(20),
            Self::Sqlite(_) => Duration::from_millis(1),
        }
    }

    pub(crate) async fn set_up(&self) -> Result<()> {
        match self {
            Self::Postgres(pool) => {
                PostgresMigrator::new(pool.clone()).migrate_up().await?;
                sqlx::query(ORDERS).execute(pool).await?;
            }
            Self::Sqlite(pool) => {
                SqliteMigrator::new(pool.clone()).migrate_up().await?;
                sqlx::query(ORDERS).execute(pool).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn append_within(&self, client: &Client, order: u64, job: Noop) -> Result<()> {
        let order = i64::try_from(order)?;
        match self {
            Self::Postgres(pool) => {
                let mut transaction = begin_postgres(pool).await?;
                sqlx::query(ORDER).bind(order).execute(&mut *transaction).await?;
                client.insert(job).tx(&mut transaction).await?;
                transaction.commit().await?;
            }
            Self::Sqlite(pool) => {
                let mut transaction = begin_sqlite_write(pool).await?;
                sqlx::query(ORDER).bind(order).execute(&mut *transaction).await?;
                client.insert(job).tx(&mut transaction).await?;
                transaction.commit().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn left(&self) -> Result<u64> {
        let left: i64 = match self {
            Self::Postgres(pool) => sqlx::query_scalar(LEFT).fetch_one(pool).await?,
            Self::Sqlite(pool) => sqlx::query_scalar(LEFT).fetch_one(pool).await?,
        };
        Ok(u64::try_from(left)?)
    }
}
