//! What is appended: every way to append, in a mixture drawn from the seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use orchestratum_core::{Appended, Canceled, Command, CommandId, Orchestrator};
use sea_orm::ConnectionTrait as _;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::job::{BAD, BAD_RETRIES, DEADLY, FOLLOW_UP, GOOD, Job};
use crate::ledger::{self, Entry, Ledger, Shape};
use crate::process::Arguments;
use crate::pulse::{Pulse, STREAMED, Streamed};

/// Tasks that append at the same time.
const TASKS: u32 = 4;
/// Commands of one `append_all`.
const BULK: u64 = 100;
/// Commands of one `append_all` of the stream.
const STREAM: u32 = 50;
/// Unique keys: few, so that they meet.
const UNIQUE_KEYS: u64 = 10;

/// Appends plain commands at a steady rate until it is dropped; after an outage it does not make up for it.
pub(crate) async fn stream(orchestrator: Orchestrator, pulse: Arc<Pulse>, rate: u32) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * STREAM / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let streamed = Streamed { at: ledger::now() };
        if orchestrator.append_all((0..STREAM).map(|_| (STREAMED, streamed))).await.is_ok() {
            pulse.appended(u64::from(STREAM));
        }
    }
}

#[derive(Clone)]
pub(crate) struct Load {
    orchestrator: Orchestrator,
    ledger: Ledger,
    next: Arc<AtomicU64>,
    random: Arc<Mutex<Rng>>,
    /// Between two commands of one task.
    pause: Duration,
}

impl Load {
    pub(crate) fn new(orchestrator: Orchestrator, ledger: Ledger, arguments: &Arguments) -> Self {
        Self {
            orchestrator,
            ledger,
            next: Arc::new(AtomicU64::new(u64::from(arguments.serial) << 32)),
            random: Arc::new(Mutex::new(Rng::with_seed(arguments.seed))),
            pause: Duration::from_secs(1) * TASKS / arguments.rate.max(1),
        }
    }

    /// Appends until it is dropped.
    pub(crate) async fn run(&self) {
        // Aborted with the set.
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let load = self.clone();
            tasks.spawn(async move {
                loop {
                    let appended = load.append_something().await;
                    tokio::time::sleep(load.pause * appended).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Returns how many commands it was.
    async fn append_something(&self) -> u32 {
        match self.draw(20) {
            0 => self.bulk().await,
            1..=3 => self.within(true).await,
            4 => self.within(false).await,
            5 | 6 => self.one(Shape::Unique).await,
            7 | 8 => self.one(Shape::Chained).await,
            9 => self.one(Shape::Delayed).await,
            10 => self.canceled().await,
            _ => self.one(Shape::Single).await,
        }
    }

    async fn one(&self, shape: Shape) -> u32 {
        let job = self.next();
        let command = self.command(job).map(|command| self.shaped(command, job, shape));
        match command {
            Ok(command) => self.note(shape, job, self.orchestrator.append(command).await),
            Err(error) => self.unsure(job, &error),
        }
        1
    }

    fn shaped(&self, command: Command, job: Job, shape: Shape) -> Command {
        match shape {
            Shape::Unique => command.unique(format!("key-{}", self.draw(UNIQUE_KEYS))),
            Shape::Chained => {
                let follow_up = || Command::new(FOLLOW_UP, &job).unwrap_or_else(|_| unreachable!("a number is JSON"));
                command.on_success(follow_up()).on_failure(follow_up())
            }
            Shape::Delayed => command.delay(Duration::from_millis(self.draw(5_000))),
            Shape::Single | Shape::Within | Shape::Bulk => command.priority(i16::try_from(self.draw(3)).unwrap_or(0)),
        }
    }

    async fn bulk(&self) -> u32 {
        let jobs: Vec<Job> = (0..BULK).map(|_| self.next()).collect();
        let commands = jobs.iter().map(|job| Command::new("quick", job));
        let appended = match commands.collect::<orchestratum_core::Result<Vec<_>>>() {
            Ok(commands) => self.orchestrator.append_all(commands).await,
            Err(error) => Err(error),
        };
        match appended {
            Ok(appended) => {
                std::iter::zip(jobs, appended).for_each(|(job, appended)| self.note(Shape::Bulk, job, Ok(appended)));
            }
            Err(error) => jobs.into_iter().for_each(|job| self.unsure(job, &error)),
        }
        u32::try_from(BULK).unwrap_or(u32::MAX)
    }

    /// With a row of the application's in the same transaction, which is rolled back or committed.
    async fn within(&self, commit: bool) -> u32 {
        let job = self.next();
        match self.try_within(job, commit).await {
            Ok(appended) if commit => self.note(Shape::Within, job, Ok(appended)),
            Ok(appended) => self.ledger.note(Entry::RolledBack { id: appended.id().as_uuid() }),
            Err(error) => self.unsure(job, &error),
        }
        1
    }

    async fn try_within(&self, job: Job, commit: bool) -> Result<Appended> {
        let command = self.command(job)?;
        let transaction = self.orchestrator.begin().await?;
        let sql = format!("INSERT INTO chaos_orders (number) VALUES ({})", job.number);
        transaction.execute_unprepared(&sql).await?;
        let appended = self.orchestrator.append(command).within(&transaction).await?;
        if commit {
            transaction.commit().await?
        } else {
            transaction.rollback().await?
        }
        Ok(appended)
    }

    async fn canceled(&self) -> u32 {
        let job = self.next();
        let Ok(command) = self.command(job).map(|command| self.shaped(command, job, Shape::Chained)) else { return 1 };
        let appended = self.orchestrator.append(command).await;
        let id = appended.as_ref().ok().map(|appended| appended.id());
        self.note(Shape::Chained, job, appended);
        if let Some(id) = id {
            tokio::time::sleep(Duration::from_millis(self.draw(300))).await;
            self.cancel(id).await;
        }
        1
    }

    async fn cancel(&self, id: CommandId) {
        // One that has ended cannot be canceled, and one whose answer is lost is as if it had not been asked for.
        if let Ok(canceled) = self.orchestrator.cancel(id).await {
            self.ledger.note(Entry::Canceled { id: id.as_uuid(), at_once: canceled == Canceled::Now });
        }
    }

    /// One that behaves in some way; the long ones seldom, those that kill their process hardly ever.
    fn command(&self, job: Job) -> orchestratum_core::Result<Command> {
        let key = match self.draw(2_000) {
            0 => DEADLY,
            1..=20 => BAD[usize::try_from(self.draw(2)).unwrap_or(0)],
            21..=300 => GOOD[usize::try_from(self.draw(GOOD.len() as u64)).unwrap_or(0)],
            301..=700 => "effect",
            _ => "quick",
        };
        let command = Command::new(key, &job)?;
        Ok(match key {
            "failing" => command.retry_count(BAD_RETRIES),
            "stuck" => command.retry_count(BAD_RETRIES).timeout(Duration::from_millis(300)),
            _ => command,
        })
    }

    fn note(&self, shape: Shape, job: Job, appended: orchestratum_core::Result<Appended>) {
        match appended {
            Ok(appended) => {
                let (id, is_new) = (appended.id().as_uuid(), appended.is_new());
                self.ledger.note(Entry::Appended { number: job.number, id, is_new, shape });
            }
            Err(error) => self.unsure(job, &error),
        }
    }

    fn unsure(&self, job: Job, error: &impl ToString) {
        self.ledger.note(Entry::Unsure { number: job.number, error: error.to_string() });
    }

    fn next(&self) -> Job {
        Job { number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).u64(0..below)
    }
}
