//! What every measured program does in the same way: read its arguments, talk with the runner, count what ran.
//!
//! A peer implements [`Queue`] with the calls of its own library and hands it to [`run`]. Everything that is measured
//! is measured here or by the runner (`cargo xtask bench`), never by a peer's own code.
//!
//! A program and its runner talk in lines. The program says `{"ready":…}` once it is connected and waits for `go`, so
//! that starting a process is not measured; then it does what its first argument says (`append`, `work`, `pickup`,
//! `produce`), answers `left` with the number of commands that are not durably done, and leaves on `stop`.

#![allow(clippy::print_stdout, reason = "programs that talk on their standard output")]

mod ledger;
mod payload;
mod talk;
mod tasks;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use clap::Parser as _;

pub use ledger::{finished, is_watched, ran};
pub use payload::Payload;

/// A queue under measurement. Its handler calls [`work`] and does nothing else.
pub trait Queue: Clone + Send + Sync + 'static {
    /// The version that is measured.
    const VERSION: &'static str;

    /// Connects.
    fn open(options: &Options) -> impl Future<Output = Result<Self>> + Send;

    /// Creates the tables.
    fn set_up(&self) -> impl Future<Output = Result<()>> + Send;

    /// Appends one command as the library's users do; durable when it returns.
    fn append(&self, payload: Payload) -> impl Future<Output = Result<()>> + Send;

    /// Appends many commands with the library's fastest documented call.
    fn append_all(&self, payloads: Vec<Payload>) -> impl Future<Output = Result<()>> + Send;

    /// Appends one command in a transaction of the caller, which also writes a row of its own; commits.
    fn append_within(&self, payload: Payload) -> impl Future<Output = Result<()>> + Send {
        drop(payload);
        async { anyhow::bail!("not offered by this library") }
    }

    /// Removes what has completed, where the library keeps it, and says how much that was.
    fn purge(&self) -> impl Future<Output = Result<u64>> + Send {
        async { Ok(0) }
    }

    /// Rows that only stand in the way: `scheduled` for later, `unknown` to this worker, or `ended`.
    fn obstruct(&self, kind: &str, count: u64) -> impl Future<Output = Result<()>> + Send {
        let message = format!("{count} {kind} commands cannot be made with this library");
        async { anyhow::bail!(message) }
    }

    /// Starts a worker that runs until the process ends.
    fn start(&self) -> impl Future<Output = Result<()>> + Send;

    /// Ends the worker as its library asks for, where the next process would otherwise take it for dead.
    fn stop(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// How many commands are not durably done, those that count as obstruction left out.
    fn left(&self) -> impl Future<Output = Result<u64>> + Send;
}

/// The handler of every program: it decodes and counts.
pub async fn work(payload: Payload) {
    if let Some(pause) = ledger::pause() {
        tokio::time::sleep(pause).await;
    }
    ran(payload.i);
}

/// Runs a loop of a hand-made worker; its first error ends the program, for nothing it measures would be true.
pub fn serve(worker: impl Future<Output = Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        let ended = worker.await;
        // A runtime that shuts down cancels what the loop waits for.
        if let Err(error) = ended
            && !tasks::LEAVES.load(Ordering::Relaxed)
        {
            fail(&error);
            std::process::exit(1);
        }
    });
}

fn fail(error: &anyhow::Error) {
    talk::say(&serde_json::json!({ "error": format!("{error:#}") }));
}

/// What the runner asks of a program.
#[derive(Debug, Clone, clap::Parser)]
pub struct Options {
    /// What to do.
    #[arg(value_enum)]
    pub task: Task,
    /// The database.
    #[arg(long)]
    pub url: String,
    /// The library's defaults, or its best documented settings.
    #[arg(long, value_enum, default_value = "default")]
    pub variant: Variant,
    /// Commands are numbered from 0 to this.
    #[arg(long, default_value_t = 0)]
    pub n: u64,
    /// The first command to append.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// How to append.
    #[arg(long, value_enum, default_value = "all")]
    pub mode: Mode,
    /// Commands appended a second.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Between two commands of `pickup` and of a `produce` without rate.
    #[arg(long, default_value_t = 20)]
    pub gap_ms: u64,
    /// How long the handler awaits.
    #[arg(long, default_value_t = 0)]
    pub handler_ms: u64,
    /// The kind of obstruction.
    #[arg(long, default_value = "scheduled")]
    pub kind: String,
    /// Where to leave how often each command ran, a byte each.
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Where to leave when each was appended or started, 8 bytes each: nanoseconds since 1970.
    #[arg(long)]
    pub times: Option<PathBuf>,
    /// Where to leave when the end of one in a hundred was durable.
    #[arg(long)]
    pub finished: Option<PathBuf>,
}

impl Options {
    /// Whether the best settings are asked for.
    #[must_use]
    pub fn tuned(&self) -> bool {
        self.variant == Variant::Tuned
    }
}

/// What a program can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// Create the tables.
    SetUp,
    /// Append `n` commands and leave.
    Append,
    /// Make `n` rows of `kind` that stand in the way.
    Obstruct,
    /// Remove what has ended.
    Purge,
    /// Run commands until told to stop.
    Work,
    /// Append one command at a time to an idle worker of the same process.
    Pickup,
    /// Append at a rate.
    Produce,
}

/// The settings under which a library is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Variant {
    /// What a user gets who sets nothing.
    Default,
    /// The best that its documentation offers.
    Tuned,
}

/// How commands are appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// One task, each awaited.
    One,
    /// 64 tasks, each with the next command.
    Tasks,
    /// The library's call for many.
    All,
    /// Each in a transaction of the caller.
    Within,
}

/// The `main` of a program.
pub fn run<Q: Queue>() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        let result = runtime.block_on(tasks::run::<Q>(options));
        // A library may keep threads of its own; its commands are done, and nobody waits for them.
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    }
}
