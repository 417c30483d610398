//! MariaDB by hand: lock, update by primary key, commit; delete by primary key, overlapped with the next claim.

use std::time::Duration;

use anyhow::Result;
use orchestratum_bench_program::serve;
use sea_orm::sqlx::mysql::{MySql, MySqlPool, MySqlPoolOptions};
use sea_orm::sqlx::{self, AssertSqlSafe, Executor, query, query_as, query_scalar};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{BATCH, COLUMNS, Ran, Rows, marks, run, values};

const NOW: &str = "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))";
/// How many claim beside each other.
const CLAIMERS: usize = 2;

#[derive(Clone)]
pub(super) struct Raw {
    pool: MySqlPool,
}

impl Raw {
    pub(super) async fn open(url: &str) -> Result<Self> {
        let options =
            MySqlPoolOptions::new().max_connections(8).test_before_acquire(false).after_connect(|connection, _| {
                Box::pin(async move {
                    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
                    Ok(())
                })
            });
        Ok(Self { pool: options.connect(url).await? })
    }

    pub(super) async fn set_up(&self) -> Result<()> {
        let name = "varchar(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin";
        let table = format!(
            "CREATE TABLE raw (id binary(16) PRIMARY KEY, queue {name} NOT NULL, command_key {name} NOT NULL,
            priority smallint NOT NULL, payload longtext NOT NULL, timeout_ms bigint NOT NULL,
            retry_count integer NOT NULL, retry_policy text, follow_ups text, unique_key {name},
            created_at bigint NOT NULL, state {name} NOT NULL, run_at bigint NOT NULL, attempt integer NOT NULL,
            failures integer NOT NULL, losses integer NOT NULL, instance binary(16), cancel_requested boolean NOT NULL,
            KEY raw_due (queue, command_key, priority, run_at)) ENGINE = InnoDB"
        );
        query(AssertSqlSafe(table)).execute(&self.pool).await?;
        query("CREATE TABLE bench_orders (id bigint PRIMARY KEY)").execute(&self.pool).await?;
        Ok(())
    }

    pub(super) async fn insert(&self, rows: &Rows) -> Result<()> {
        if rows.len() <= BATCH {
            return again_after_deadlock(|| insert(&self.pool, rows)).await;
        }
        let mut transaction = self.pool.begin().await?;
        for rows in rows.chunks(BATCH) {
            insert(&mut *transaction, rows).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn insert_within(&self, number: i64, rows: &Rows) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        query("INSERT INTO bench_orders (id) VALUES (?)").bind(number).execute(&mut *transaction).await?;
        insert(&mut *transaction, rows).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn start(self) -> Result<()> {
        for _ in 0..CLAIMERS {
            serve(self.clone().work());
        }
        Ok(())
    }

    async fn work(self) -> Result<()> {
        let mut deletes = JoinSet::new();
        loop {
            let claimed = again_after_deadlock(|| self.claim()).await?;
            if claimed.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let ran = run(claimed).await?;
            while let Some(deleted) = deletes.join_next().await {
                deleted??;
            }
            let raw = self.clone();
            deletes.spawn(async move {
                again_after_deadlock(|| raw.delete(&ran)).await?;
                ran.finished();
                anyhow::Ok(())
            });
        }
    }

    async fn delete(&self, ran: &Ran) -> Result<()> {
        let sql = format!("DELETE FROM raw WHERE id IN ({})", marks(ran.ids.len()));
        let mut delete = query(AssertSqlSafe(sql));
        for id in &ran.ids {
            delete = delete.bind(id);
        }
        delete.execute(&self.pool).await?;
        Ok(())
    }

    async fn claim(&self) -> Result<Rows> {
        let mut transaction = self.pool.begin().await?;
        let sql = format!(
            "SELECT id, payload FROM raw FORCE INDEX (raw_due) WHERE queue = 'default' AND command_key = 'noop' \
             AND priority = 0 AND run_at <= {NOW} AND state = 'pending' ORDER BY run_at LIMIT {BATCH} \
             FOR UPDATE SKIP LOCKED"
        );
        let claimed: Rows = query_as(AssertSqlSafe(sql)).fetch_all(&mut *transaction).await?;
        if claimed.is_empty() {
            return Ok(claimed);
        }
        let sql = format!(
            "UPDATE raw SET state = 'running', attempt = attempt + 1, instance = ? WHERE id IN ({})",
            marks(claimed.len())
        );
        let mut update = query(AssertSqlSafe(sql)).bind(Uuid::nil());
        for (id, _) in &claimed {
            update = update.bind(*id);
        }
        update.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(claimed)
    }

    pub(super) async fn left(&self) -> Result<i64> {
        Ok(query_scalar("SELECT count(*) FROM raw").fetch_one(&self.pool).await?)
    }
}

/// InnoDB locks gaps of the index even here, and ends a deadlock by rolling one of the transactions back.
async fn again_after_deadlock<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    loop {
        let result = attempt().await;
        let error = result.as_ref().err().and_then(|error| error.downcast_ref::<sqlx::Error>());
        let code = error.and_then(|error| error.as_database_error()?.code());
        if code.as_deref() != Some("40001") {
            return result;
        }
    }
}

async fn insert(connection: impl Executor<'_, Database = MySql>, rows: &[(Uuid, String)]) -> Result<()> {
    let sql = format!("INSERT INTO raw ({COLUMNS}) VALUES {}", values(rows.len(), NOW));
    let mut insert = query(AssertSqlSafe(sql));
    for (id, payload) in rows {
        insert = insert.bind(*id).bind(payload.as_str());
    }
    insert.execute(connection).await?;
    Ok(())
}
