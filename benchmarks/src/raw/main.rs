//! The hand-written ceiling: one table with our columns, claim and delete in batches, nothing else.
//!
//! No leases to extend, no history, no retry, no fence: what is left is what the database itself costs.

mod mariadb;
mod postgres;
mod sqlite;

use std::process::ExitCode;

use anyhow::{Result, bail};
use orchestratum_bench_program::{Options, Payload, Queue, Task, finished, is_watched, work};
use uuid::Uuid;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<Raw>()
}

/// How many commands a claim takes.
const BATCH: usize = 1_000;

/// Our columns in one wide row, since without history nothing is gained by two tables.
const COLUMNS: &str = "state, queue, command_key, priority, run_at, attempt, failures, losses, cancel_requested, \
    timeout_ms, retry_count, created_at, id, payload";

#[derive(Clone)]
enum Raw {
    Postgres(postgres::Raw),
    MariaDb(mariadb::Raw),
    Sqlite(sqlite::Raw),
}

macro_rules! each {
    ($raw:expr, $inner:ident => $call:expr) => {
        match $raw {
            Raw::Postgres($inner) => $call,
            Raw::MariaDb($inner) => $call,
            Raw::Sqlite($inner) => $call,
        }
    };
}

impl Queue for Raw {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn open(options: &Options) -> Result<Self> {
        let url = options.url.as_str();
        let notifies = matches!(options.task, Task::Pickup | Task::Produce);
        Ok(match url.split(':').next() {
            Some("postgres" | "postgresql") => Self::Postgres(postgres::Raw::open(url, notifies).await?),
            Some("mysql" | "mariadb") => Self::MariaDb(mariadb::Raw::open(url).await?),
            Some("sqlite") => Self::Sqlite(sqlite::Raw::open(url).await?),
            _ => bail!("no database has such a URL: {url}"),
        })
    }

    async fn set_up(&self) -> Result<()> {
        each!(self, raw => raw.set_up().await)
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        self.append_all(vec![payload]).await
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        let rows = rows(payloads)?;
        each!(self, raw => raw.insert(&rows).await)
    }

    async fn append_within(&self, payload: Payload) -> Result<()> {
        let (number, rows) = (payload.i, rows(vec![payload])?);
        each!(self, raw => raw.insert_within(i64::try_from(number)?, &rows).await)
    }

    async fn start(&self) -> Result<()> {
        each!(self, raw => raw.clone().start().await)
    }

    async fn left(&self) -> Result<u64> {
        let left = each!(self, raw => raw.left().await)?;
        Ok(u64::try_from(left)?)
    }
}

/// Ids and payloads as text.
type Rows = Vec<(Uuid, String)>;

fn rows(payloads: Vec<Payload>) -> Result<Rows> {
    payloads.into_iter().map(|payload| Ok((Uuid::now_v7(), serde_json::to_string(&payload)?))).collect()
}

/// What has run and is to be deleted.
struct Ran {
    ids: Vec<Uuid>,
    /// The numbers of those whose end is watched for.
    watched: Vec<u64>,
}

impl Ran {
    /// The deletes are durable.
    fn finished(&self) {
        self.watched.iter().copied().for_each(finished);
    }
}

/// Runs what was claimed.
async fn run(claimed: Vec<(Uuid, String)>) -> Result<Ran> {
    let mut ran = Ran { ids: Vec::with_capacity(claimed.len()), watched: Vec::new() };
    for (id, payload) in claimed {
        let payload: Payload = serde_json::from_str(&payload)?;
        if is_watched(payload.i) {
            ran.watched.push(payload.i);
        }
        work(payload).await;
        ran.ids.push(id);
    }
    Ok(ran)
}

/// `(…, ?, ?), (…, ?, ?), …` with an id and a payload a row.
fn values(rows: usize, now: &str) -> String {
    let row = format!("('pending', 'default', 'noop', 0, {now}, 0, 0, 0, false, 300000, 3, {now}, ?, ?)");
    vec![row; rows].join(", ")
}

/// `?, ?, …`
fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}
