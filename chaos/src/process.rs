//! The processes under attack: each is this program again, as a worker that also appends, or as a producer that only
//! appends.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use orchestratum_core::{Error, Orchestrator, Worker, shutdown_signal};
use tokio::sync::oneshot;

use crate::job;
use crate::ledger::{Entry, Ledger};
use crate::load::{self, Load};
use crate::pulse::Pulse;

/// The exit code of a worker for which no thread could be made.
pub(crate) const UNSTARTED: i32 = 76;

/// From one beat to the next: what a process that dies has not written down.
pub(crate) const BEAT: Duration = Duration::from_millis(250);

/// A file among the ledgers that ends all appending.
pub(crate) const CALM: &str = "calm";

/// The exit code of a worker that was told to stop and could not give everything back.
pub(crate) const UNSETTLED: i32 = 75;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    pub(crate) url: String,
    /// The folder of the ledgers.
    #[arg(long)]
    pub(crate) ledgers: PathBuf,
    /// The name of the ledger, without the process id.
    #[arg(long)]
    pub(crate) name: String,
    /// Makes the numbers of its commands its own: no other process of a run has it.
    #[arg(long)]
    pub(crate) serial: u32,
    #[arg(long)]
    pub(crate) seed: u64,
    /// Commands to append in a second.
    #[arg(long)]
    pub(crate) rate: u32,
    #[arg(long)]
    pub(crate) lease_ms: u64,
    /// Commands of the stream to append in a second.
    #[arg(long, default_value_t = 0)]
    pub(crate) stream: u32,
    /// How long commands that have ended are kept; for ever if not named.
    #[arg(long)]
    pub(crate) keep_ms: Option<u64>,
    /// Runs no commands.
    #[arg(long)]
    pub(crate) only_append: bool,
    /// Leaves commands that kill their process to others.
    #[arg(long)]
    pub(crate) never_deadly: bool,
    /// Needs no session state, behind a pooler.
    #[arg(long)]
    pub(crate) poll_only: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_env_filter("info,sqlx=error").init();
    let mut stop = std::pin::pin!(shutdown_signal());
    // Listens from now on; the rig takes the ledger as the sign of it.
    tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        () = std::future::ready(()) => {}
    }
    let ledger = Ledger::create(&arguments.ledgers, &format!("{}-{}", arguments.name, std::process::id()))?;
    ledger.note(Entry::Began { serial: arguments.serial });
    let pulse = Arc::new(Pulse::default());
    let orchestrator = tokio::select! {
        orchestrator = connect(&arguments, &ledger, &pulse) => orchestrator,
        () = &mut stop => return Ok(()),
    };
    let load = Load::new(orchestrator.clone(), ledger.clone(), &arguments);
    let (stop_load, load_stops) = oneshot::channel();
    let loading = (arguments.rate > 0).then(|| tokio::spawn(async move { load.run(load_stops).await }));
    let streaming = (arguments.stream > 0).then(|| {
        tokio::spawn(beat(ledger, Arc::clone(&pulse)));
        tokio::spawn(load::stream(orchestrator.clone(), pulse, arguments.stream))
    });
    let worker = (!arguments.only_append).then(|| orchestrator.start());
    let is_over = tokio::select! {
        () = &mut stop => true,
        () = ended(worker.as_ref()) => true,
        () = calm(&arguments) => false,
    };
    drop(stop_load);
    if let Some(streaming) = streaming {
        streaming.abort();
    }
    if let Some(loading) = loading {
        loading.await?;
    }
    if !is_over {
        tokio::select! {
            () = stop => {}
            () = ended(worker.as_ref()) => {}
        }
    }
    match worker.map(Worker::shutdown) {
        Some(shutdown) => match shutdown.await {
            // The rig knows whether the database was away, and whether there was memory.
            Err(Error::Unsettled { .. }) => std::process::exit(UNSETTLED),
            Err(Error::NotRunning) => std::process::exit(UNSTARTED),
            ended => Ok(ended?),
        },
        None => Ok(()),
    }
}

/// Ends when a worker does not run, or no more.
async fn ended(worker: Option<&Worker>) {
    match worker {
        Some(worker) => worker.ended().await,
        None => std::future::pending().await,
    }
}

/// Ends when nothing is to be appended any more.
async fn calm(arguments: &Arguments) {
    let sign = arguments.ledgers.join(CALM);
    while !sign.exists() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The database may be away when a process starts; whoever supervises it would start it again.
async fn connect(arguments: &Arguments, ledger: &Ledger, pulse: &Arc<Pulse>) -> Orchestrator {
    loop {
        let keep = arguments.keep_ms.map(Duration::from_millis);
        let mut builder = job::builder(&arguments.url, Duration::from_millis(arguments.lease_ms), keep);
        builder = if arguments.only_append {
            builder.client_only()
        } else {
            job::register(builder, ledger, pulse, arguments.never_deadly)
        };
        if arguments.poll_only {
            builder = builder.poll_only();
        }
        match builder.build().await {
            Ok(orchestrator) => return orchestrator,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Writes down four times a second what the process saw of the stream.
async fn beat(ledger: Ledger, pulse: Arc<Pulse>) {
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        ledger.note(Entry::Beat(pulse.take()));
    }
}
