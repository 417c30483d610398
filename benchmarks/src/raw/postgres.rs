//! PostgreSQL by hand: arrays, `SKIP LOCKED`, one statement a step, deletes overlapped with the next claim.

use std::time::Duration;

use anyhow::Result;
use orchestratum_bench_program::serve;
use sea_orm::sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use sea_orm::sqlx::{AssertSqlSafe, query, query_as, query_scalar};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uuid::Uuid;

use super::{BATCH, COLUMNS, Ran, Rows, run};

const NOW: &str = "(extract(epoch from statement_timestamp()) * 1000000)::bigint";
/// How many claim beside each other: more than the cores gain nothing.
const CLAIMERS: usize = 2;

#[derive(Clone)]
pub(super) struct Raw {
    pool: PgPool,
    /// Whether another task waits for what is appended.
    notifies: bool,
}

impl Raw {
    pub(super) async fn open(url: &str, notifies: bool) -> Result<Self> {
        let options = PgPoolOptions::new().max_connections(8).test_before_acquire(false);
        Ok(Self { pool: options.connect(url).await?, notifies })
    }

    pub(super) async fn set_up(&self) -> Result<()> {
        // Half-empty pages and no index on what a claim changes: the claim is a heap-only update, as ours is.
        let table = "CREATE TABLE raw (id uuid PRIMARY KEY, queue text NOT NULL, command_key text NOT NULL,
            priority smallint NOT NULL, payload text NOT NULL, timeout_ms bigint NOT NULL, retry_count integer NOT NULL,
            retry_policy text, follow_ups text, unique_key text, created_at bigint NOT NULL, state text NOT NULL,
            run_at bigint NOT NULL, attempt integer NOT NULL, failures integer NOT NULL, losses integer NOT NULL,
            instance uuid, cancel_requested boolean NOT NULL) WITH (fillfactor = 45)";
        for sql in [
            table,
            "CREATE INDEX raw_due ON raw (queue, command_key, priority, run_at)",
            "CREATE TABLE bench_orders (id bigint PRIMARY KEY)",
        ] {
            query(sql).execute(&self.pool).await?;
        }
        Ok(())
    }

    pub(super) async fn insert(&self, rows: &Rows) -> Result<()> {
        let (ids, payloads): (Vec<Uuid>, Vec<&str>) = rows.iter().map(|(id, payload)| (*id, payload.as_str())).unzip();
        let mut sql = format!(
            "INSERT INTO raw ({COLUMNS}) SELECT 'pending', 'default', 'noop', 0, {NOW}, 0, 0, 0, false, \
             300000, 3, {NOW}, r.id, r.payload FROM unnest($1::uuid[], $2::text[]) AS r(id, payload)"
        );
        if self.notifies {
            sql = format!("WITH new AS ({sql}) SELECT pg_notify('raw', '')::text");
        }
        query(AssertSqlSafe(sql)).bind(ids).bind(payloads).execute(&self.pool).await?;
        Ok(())
    }

    pub(super) async fn insert_within(&self, number: i64, rows: &Rows) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        query("INSERT INTO bench_orders (id) VALUES ($1)").bind(number).execute(&mut *transaction).await?;
        let sql = format!(
            "INSERT INTO raw ({COLUMNS}) VALUES ('pending', 'default', 'noop', 0, {NOW}, 0, 0, 0, false, 300000, 3, \
             {NOW}, $1, $2)"
        );
        let (id, payload) = &rows[0];
        query(AssertSqlSafe(sql)).bind(id).bind(payload).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(super) async fn start(self) -> Result<()> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen("raw").await?;
        let (wake, woken) = watch::channel(());
        tokio::spawn(async move { while listener.recv().await.is_ok() && wake.send(()).is_ok() {} });
        for _ in 0..CLAIMERS {
            serve(self.clone().work(woken.clone()));
        }
        Ok(())
    }

    async fn work(self, mut woken: watch::Receiver<()>) -> Result<()> {
        let mut deletes = JoinSet::new();
        loop {
            woken.borrow_and_update();
            let claimed = self.claim().await?;
            if claimed.is_empty() {
                timeout(Duration::from_secs(1), woken.changed()).await.unwrap_or(Ok(()))?;
                continue;
            }
            let ran = run(claimed).await?;
            while let Some(deleted) = deletes.join_next().await {
                deleted??;
            }
            let raw = self.clone();
            deletes.spawn(async move { raw.delete(ran).await });
        }
    }

    async fn claim(&self) -> Result<Rows> {
        let sql = format!(
            "WITH due AS MATERIALIZED (SELECT id FROM raw WHERE queue = 'default' AND command_key = 'noop' \
             AND priority = 0 AND run_at <= {NOW} AND state = 'pending' ORDER BY run_at LIMIT {BATCH} \
             FOR UPDATE SKIP LOCKED) \
             UPDATE raw SET state = 'running', attempt = attempt + 1, instance = $1 \
             WHERE id = ANY(ARRAY(SELECT id FROM due)) RETURNING id, payload"
        );
        Ok(query_as(AssertSqlSafe(sql)).bind(Uuid::nil()).fetch_all(&self.pool).await?)
    }

    async fn delete(&self, ran: Ran) -> Result<()> {
        query("DELETE FROM raw WHERE id = ANY($1)").bind(&ran.ids).execute(&self.pool).await?;
        ran.finished();
        Ok(())
    }

    pub(super) async fn left(&self) -> Result<i64> {
        Ok(query_scalar("SELECT count(*) FROM raw").fetch_one(&self.pool).await?)
    }
}
