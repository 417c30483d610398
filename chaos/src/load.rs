//! What is appended: every way to append, in a mixture drawn from the seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use orchestratum_core::{Appended, Canceled, Command, CommandId, Orchestrator};
use sea_orm::ConnectionTrait as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::job::{
    AFTER_FAILURE, AFTER_SUCCESS, BAD, BAD_RETRIES, DEADLY, EFFECT, FAILING, FATAL, GOOD, Job, STUCK, STUCK_TIMEOUT,
};
use crate::ledger::{self, Entry, Ledger, Refused, Shape};
use crate::process::Arguments;
use crate::pulse::{Pulse, STREAMED, Streamed};

/// Tasks that append at the same time.
pub(crate) const TASKS: u32 = 4;
/// Commands of one `append_all`.
pub(crate) const BULK: u32 = 50;
/// Commands of one `append_all` of the stream.
const STREAM: u32 = 50;
/// Unique keys: few, so that they meet.
const UNIQUE_KEYS: u64 = 20;

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

/// A command whose append is about to be asked for. Dropped without an answer, it may have been appended.
struct Asked {
    ledger: Ledger,
    job: Job,
    unique_key: Option<String>,
    at: u64,
    answered: bool,
}

impl Asked {
    fn answer(mut self, appended: Result<Appended, impl ToString>) {
        let Job { number, shape, .. } = self.job;
        let unique_key = self.unique_key.take().unwrap_or_default();
        self.note(match appended {
            Ok(appended) => {
                let id = appended.id().as_uuid();
                if shape == Shape::RolledBack {
                    Entry::RolledBack { number, id }
                } else {
                    let refused = (!appended.is_new()).then_some(Refused { unique_key, asked: self.at });
                    Entry::Appended { number, id, shape, refused }
                }
            }
            Err(error) => Entry::Unsure { number, shape, error: error.to_string() },
        });
    }

    fn note(&mut self, entry: Entry) {
        self.answered = true;
        self.ledger.note(entry);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            let Job { number, shape, .. } = self.job;
            self.note(Entry::Unsure { number, shape, error: "dropped".to_owned() });
        }
    }
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

    /// Appends until it is told to stop. What is under way then is dropped, and written down as unsure.
    pub(crate) async fn run(&self, stop: oneshot::Receiver<()>) {
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
        // Also when nobody is left who could tell.
        let _ = stop.await;
        tasks.shutdown().await;
    }

    /// Returns how many commands it was.
    async fn append_something(&self) -> u32 {
        match self.draw(20) {
            0 => return self.bulk().await,
            1..=3 => self.within(Shape::Within).await,
            4 => self.within(Shape::RolledBack).await,
            5 | 6 => self.one(Shape::Unique).await,
            7 | 8 => self.one(Shape::Chained).await,
            9 => self.one(Shape::Delayed).await,
            10 => self.canceled().await,
            _ => self.one(Shape::Single).await,
        }
        1
    }

    async fn one(&self, shape: Shape) {
        let delay = if shape == Shape::Delayed { self.millis(5_000) } else { Duration::ZERO };
        self.delayed(shape, delay).await;
    }

    /// Returns the command that is there now.
    async fn delayed(&self, shape: Shape, delay: Duration) -> Option<CommandId> {
        let asked = self.ask(shape, delay, shape == Shape::Unique);
        let appended = match self.command(&asked, delay) {
            Ok(command) => self.orchestrator.append(command).await,
            Err(error) => Err(error),
        };
        let id = appended.as_ref().ok().map(|appended| appended.id());
        asked.answer(appended);
        id
    }

    async fn bulk(&self) -> u32 {
        // The first one may be refused, and takes none of the others along.
        let mut all: Vec<Asked> = (0..BULK).map(|index| self.ask(Shape::Bulk, Duration::ZERO, index == 0)).collect();
        let batch = all.first().map(|asked| asked.job.number);
        all.iter_mut().for_each(|asked| asked.job.batch = batch);
        let commands = all.iter().map(|asked| {
            let command = Command::new("quick", &asked.job)?;
            Ok(match &asked.unique_key {
                Some(key) => command.unique(key),
                None => command,
            })
        });
        let appended = match commands.collect::<orchestratum_core::Result<Vec<_>>>() {
            Ok(commands) => self.orchestrator.append_all(commands).await,
            Err(error) => Err(error),
        };
        match appended {
            Ok(appended) => {
                std::iter::zip(all, appended).for_each(|(asked, appended)| asked.answer(Ok::<_, &str>(appended)));
            }
            Err(error) => all.into_iter().for_each(|asked| asked.answer(Err(&error))),
        }
        BULK
    }

    /// With a row of the application's in the same transaction, which is rolled back or committed.
    async fn within(&self, shape: Shape) {
        let asked = self.ask(shape, Duration::ZERO, shape == Shape::Within && self.draw(4) == 0);
        let appended = self.try_within(&asked).await;
        asked.answer(appended);
    }

    async fn try_within(&self, asked: &Asked) -> Result<Appended> {
        let (command, job) = (self.command(asked, Duration::ZERO)?, asked.job);
        let transaction = self.orchestrator.begin().await?;
        let sql = format!("INSERT INTO chaos_orders (number) VALUES ({})", job.number);
        transaction.execute_unprepared(&sql).await?;
        let appended = self.orchestrator.append(command).within(&transaction).await?;
        if job.shape == Shape::RolledBack || !appended.is_new() {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
        }
        Ok(appended)
    }

    /// Before it begins, while it runs, or when it has ended.
    async fn canceled(&self) {
        if let Some(id) = self.delayed(Shape::Chained, self.millis(300)).await {
            tokio::time::sleep(self.millis(300)).await;
            self.cancel(id).await;
        }
    }

    async fn cancel(&self, id: CommandId) {
        self.ledger.note(Entry::CancelAsked { id: id.as_uuid() });
        // One that has ended cannot be canceled; one whose answer is lost may have been.
        if let Ok(canceled) = self.orchestrator.cancel(id).await {
            let behind = self.orchestrator.get(id).await.ok().flatten();
            let (at_once, attempt) = (canceled == Canceled::Now, behind.map(|command| command.attempt));
            self.ledger.note(Entry::Canceled { id: id.as_uuid(), at_once, attempt });
        }
    }

    /// One that behaves in some way; the long ones seldom, those that kill their process hardly ever.
    fn command(&self, asked: &Asked, delay: Duration) -> orchestratum_core::Result<Command> {
        let job = asked.job;
        let key = match self.draw(2_000) {
            0 if self.draw(4) == 0 => FATAL,
            0 => DEADLY,
            1..=20 => BAD[usize::try_from(self.draw(2)).unwrap_or(0)],
            21..=300 => GOOD[usize::try_from(self.draw(GOOD.len() as u64)).unwrap_or(0)],
            301..=700 => EFFECT,
            _ => "quick",
        };
        let command = Command::new(key, &job)?;
        let command = match key {
            FAILING => command.retry_count(BAD_RETRIES),
            STUCK => command.retry_count(BAD_RETRIES).timeout(STUCK_TIMEOUT),
            _ => command,
        };
        let command = match &asked.unique_key {
            Some(key) => command.unique(key),
            None => command,
        };
        Ok(match job.shape {
            Shape::Unique => command,
            Shape::Chained => {
                // A cancel may come before the delay is over.
                let job = Job::new(job.number, job.shape, Duration::ZERO);
                let (success, failure) = (Command::new(AFTER_SUCCESS, &job)?, Command::new(AFTER_FAILURE, &job)?);
                command.delay(delay).on_success(success).on_failure(failure)
            }
            Shape::Delayed => command.delay(delay),
            Shape::Single | Shape::Within | Shape::RolledBack | Shape::Bulk => {
                command.priority(i16::try_from(self.draw(3)).unwrap_or(0))
            }
        })
    }

    fn ask(&self, shape: Shape, delay: Duration, is_unique: bool) -> Asked {
        let job = Job::new(self.next.fetch_add(1, Ordering::Relaxed), shape, delay);
        let unique_key = is_unique.then(|| format!("key-{}", self.draw(UNIQUE_KEYS)));
        Asked { ledger: self.ledger.clone(), job, unique_key, at: ledger::now(), answered: false }
    }

    fn millis(&self, below: u64) -> Duration {
        Duration::from_millis(self.draw(below))
    }

    fn draw(&self, below: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).u64(0..below)
    }
}
