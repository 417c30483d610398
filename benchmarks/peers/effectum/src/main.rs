//! effectum as a measured program.
//!
//! Its queue belongs to one process: jobs that another process appends are not noticed, and opening the file puts the
//! jobs that another process runs back. So processes take turns here.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use effectum::{Job, JobRunner, RunningJob, Worker};
use orchestratum_bench_program::{Options, Payload, Queue, work};
use rusqlite::Connection;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<Effectum>()
}

#[derive(Clone)]
struct Effectum {
    /// Never dropped: it would need the runtime, which is gone by then.
    queue: &'static effectum::Queue,
    /// A connection of our own, to count what is left.
    side: Arc<Mutex<Connection>>,
    tuned: bool,
}

const KEY: &str = "noop";

impl Queue for Effectum {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Creates the tables too. The library asks for WAL by a name that SQLite ignores, so that it runs on the rollback
    /// journal unless the file is in WAL mode already.
    async fn open(options: &Options) -> Result<Self> {
        let path = options.url.trim_start_matches("sqlite:").trim_start_matches("//");
        let path = Path::new(path.split('?').next().unwrap_or(path));
        let side = Connection::open(path)?;
        if options.tuned() {
            side.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        }
        side.busy_handler(Some(wait_for_a_gap))?;
        let queue = Box::leak(Box::new(effectum::Queue::new(path).await?));
        Ok(Self { queue, side: Arc::new(Mutex::new(side)), tuned: options.tuned() })
    }

    async fn set_up(&self) -> Result<()> {
        Ok(())
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        self.queue.add_job(job(&payload)?).await?;
        Ok(())
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        self.queue.add_jobs(payloads.iter().map(job).collect::<Result<_>>()?).await?;
        Ok(())
    }

    async fn start(&self) -> Result<()> {
        let mut builder = Worker::builder(self.queue, ()).jobs([JobRunner::builder(KEY, handle).build()]);
        if self.tuned {
            builder = builder.min_concurrency(128).max_concurrency(256);
        }
        // Dropped, it would stop.
        std::mem::forget(builder.build().await?);
        Ok(())
    }

    async fn left(&self) -> Result<u64> {
        let side = Arc::clone(&self.side);
        let count = move || {
            let side = side.lock().unwrap_or_else(PoisonError::into_inner);
            side.query_row("SELECT count(*) FROM active_jobs", [], |row| row.get(0))
        };
        Ok(tokio::task::spawn_blocking(count).await??)
    }
}

/// On the rollback journal a writer leaves readers out for most of the time. SQLite's own way to wait looks up to ten
/// times a second, and misses the gaps for seconds.
fn wait_for_a_gap(_: i32) -> bool {
    std::thread::sleep(Duration::from_micros(200));
    true
}

fn job(payload: &Payload) -> Result<Job> {
    Ok(Job::builder(KEY).json_payload(payload)?.build())
}

async fn handle(job: RunningJob, _: ()) -> Result<(), effectum::Error> {
    work(job.json_payload()?).await;
    Ok(())
}
