//! Orchestratum as a measured program.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use orchestratum_bench_program::{Options, Payload, Queue, Task, finished, is_watched, work};
use orchestratum_core::{Command, Context, Orchestrator, State, Worker};
use sea_orm::ConnectionTrait as _;
use tokio::sync::Mutex;

fn main() -> ExitCode {
    orchestratum_bench_program::run::<Ours>()
}

#[derive(Clone)]
struct Ours {
    orchestrator: Orchestrator,
    worker: Arc<Mutex<Option<Worker>>>,
}

const KEY: &str = "noop";
/// Declared in the programs that append it, registered in none.
const UNKNOWN: &str = "of-another-program";

impl Queue for Ours {
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");

    async fn open(options: &Options) -> Result<Self> {
        let mut builder = Orchestrator::builder().database(&options.url).remote(UNKNOWN);
        if options.task == Task::SetUp {
            builder = builder.migrate();
        }
        if options.tuned() {
            builder = builder.concurrency(5_000).claim_batch(1_000);
        }
        let orchestrator = builder.executor(KEY, handle).build().await?;
        Ok(Self { orchestrator, worker: Arc::default() })
    }

    async fn set_up(&self) -> Result<()> {
        self.execute("CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)").await
    }

    async fn append(&self, payload: Payload) -> Result<()> {
        self.orchestrator.append((KEY, payload)).await?;
        Ok(())
    }

    async fn append_all(&self, payloads: Vec<Payload>) -> Result<()> {
        self.orchestrator.append_all(payloads.into_iter().map(|payload| (KEY, payload))).await?;
        Ok(())
    }

    async fn append_within(&self, payload: Payload) -> Result<()> {
        let transaction = self.orchestrator.begin().await?;
        transaction.execute_unprepared(&format!("INSERT INTO bench_orders (id) VALUES ({})", payload.i)).await?;
        self.orchestrator.append((KEY, payload)).within(&transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn purge(&self) -> Result<u64> {
        Ok(self.orchestrator.purge(&[State::Completed], Duration::ZERO).await?.try_into()?)
    }

    async fn obstruct(&self, kind: &str, count: u64) -> Result<()> {
        match kind {
            "unknown" => self.append_other(UNKNOWN, 0, None, count).await,
            "scheduled" => {
                for priority in -5..5 {
                    self.append_other(KEY, priority, Some(24 * 3_600), count / 10).await?;
                }
                Ok(())
            }
            "ended" => {
                self.append_other(UNKNOWN, 0, None, count).await?;
                let copy = "INSERT INTO orchestratum_ended (id, state, attempt, finished_at, duration_ms) \
                    SELECT id, 'completed', 1, run_at, 0 FROM orchestratum_live";
                self.execute(copy).await?;
                self.execute("DELETE FROM orchestratum_live").await
            }
            other => anyhow::bail!("no obstruction is called `{other}`"),
        }
    }

    async fn start(&self) -> Result<()> {
        *self.worker.lock().await = Some(self.orchestrator.start());
        Ok(())
    }

    async fn stop(&self) -> Result<()> {
        if let Some(worker) = self.worker.lock().await.take() {
            worker.shutdown().await?;
        }
        Ok(())
    }

    async fn left(&self) -> Result<u64> {
        let sql = "SELECT count(*) FROM orchestratum_live WHERE queue = 'default' AND command_key = 'noop'";
        let connection = self.orchestrator.connection();
        let statement = sea_orm::Statement::from_string(connection.get_database_backend(), sql);
        let row = connection.query_one_raw(statement).await?;
        let left: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(u64::try_from(left.unwrap_or_default())?)
    }
}

impl Ours {
    async fn append_other(&self, key: &str, priority: i16, delay_s: Option<u64>, count: u64) -> Result<()> {
        let mut from = 0;
        while from < count {
            let to = count.min(from + 10_000);
            let commands = (from..to).map(|i| {
                let command = Command::new(key, &Payload::new(i))?.priority(priority);
                Ok(delay_s.map_or(command.clone(), |seconds| command.delay(Duration::from_secs(seconds))))
            });
            self.orchestrator.append_all(commands.collect::<Result<Vec<_>>>()?).await?;
            from = to;
        }
        Ok(())
    }

    async fn execute(&self, sql: &str) -> Result<()> {
        self.orchestrator.connection().execute_unprepared(sql).await?;
        Ok(())
    }
}

async fn handle(payload: Payload, context: Context) -> Result<()> {
    if is_watched(payload.i)
        && let Some(id) = context.command_id()
    {
        let (number, orchestrator) = (payload.i, context.orchestrator()?);
        tokio::spawn(async move {
            if orchestrator.wait::<()>(id).await.is_ok_and(|outcome| outcome.completed().is_some()) {
                finished(number);
            }
        });
    }
    work(payload).await;
    Ok(())
}
