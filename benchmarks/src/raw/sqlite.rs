//! SQLite by hand: one writer, WAL, `synchronous=FULL`; claim and delete are a commit each.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::Result;
use orchestratum_bench_program::serve;
use sea_orm::sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sea_orm::sqlx::{AssertSqlSafe, Executor, query, query_as, query_scalar};
use uuid::Uuid;

use super::{BATCH, COLUMNS, Rows, marks, run, values};

const NOW: &str = "cast(unixepoch('subsec') * 1000 as integer) * 1000";

#[derive(Clone)]
pub(super) struct Raw {
    pool: SqlitePool,
}

impl Raw {
    pub(super) async fn open(url: &str) -> Result<Self> {
        let options = SqliteConnectOptions::from_str(url)?
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .row_buffer_size(2_000)
            .busy_timeout(Duration::from_secs(10));
        Ok(Self {
            pool: SqlitePoolOptions::new().max_connections(1).test_before_acquire(false).connect_with(options).await?,
        })
    }

    pub(super) async fn set_up(&self) -> Result<()> {
        for sql in [
            "CREATE TABLE raw (id blob NOT NULL PRIMARY KEY, queue text NOT NULL, command_key text NOT NULL,
            priority integer NOT NULL, payload text NOT NULL, timeout_ms integer NOT NULL, retry_count integer NOT NULL,
            retry_policy text, follow_ups text, unique_key text, created_at integer NOT NULL, state text NOT NULL,
            run_at integer NOT NULL, attempt integer NOT NULL, failures integer NOT NULL, losses integer NOT NULL,
            instance blob, cancel_requested integer NOT NULL)",
            "CREATE INDEX raw_due ON raw (queue, command_key, priority, run_at)",
            "CREATE TABLE bench_orders (id integer PRIMARY KEY)",
        ] {
            query(sql).execute(&self.pool).await?;
        }
        Ok(())
    }

    pub(super) async fn insert(&self, rows: &Rows) -> Result<()> {
        if rows.len() <= BATCH {
            return insert(&self.pool, rows).await;
        }
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for rows in rows.chunks(BATCH) {
            insert(&mut *transaction, rows).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn insert_within(&self, number: i64, rows: &Rows) -> Result<()> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        query("INSERT INTO bench_orders (id) VALUES (?)").bind(number).execute(&mut *transaction).await?;
        insert(&mut *transaction, rows).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn start(self) -> Result<()> {
        serve(self.work());
        Ok(())
    }

    async fn work(self) -> Result<()> {
        loop {
            let claimed = self.claim().await?;
            if claimed.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let ran = run(claimed).await?;
            let sql = format!("DELETE FROM raw WHERE id IN ({})", marks(ran.ids.len()));
            let mut delete = query(AssertSqlSafe(sql));
            for id in &ran.ids {
                delete = delete.bind(id);
            }
            delete.execute(&self.pool).await?;
            ran.finished();
        }
    }

    async fn claim(&self) -> Result<Rows> {
        let sql = format!(
            "UPDATE raw SET state = 'running', attempt = attempt + 1, instance = ? WHERE id IN (\
             SELECT id FROM raw WHERE queue = 'default' AND command_key = 'noop' AND priority = 0 AND run_at <= {NOW} \
             AND state = 'pending' ORDER BY run_at LIMIT {BATCH}) RETURNING id, payload"
        );
        Ok(query_as(AssertSqlSafe(sql)).bind(Uuid::nil()).fetch_all(&self.pool).await?)
    }

    pub(super) async fn left(&self) -> Result<i64> {
        Ok(query_scalar("SELECT count(*) FROM raw").fetch_one(&self.pool).await?)
    }
}

async fn insert(connection: impl Executor<'_, Database = Sqlite>, rows: &[(Uuid, String)]) -> Result<()> {
    let sql = format!("INSERT INTO raw ({COLUMNS}) VALUES {}", values(rows.len(), NOW));
    let mut insert = query(AssertSqlSafe(sql));
    for (id, payload) in rows {
        insert = insert.bind(*id).bind(payload.as_str());
    }
    insert.execute(connection).await?;
    Ok(())
}
