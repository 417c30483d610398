//! Starts and stops the loops of one worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::attempt::Stop;
use crate::engine::backoff::Backoff;
use crate::engine::finisher::{Finisher, Settler};
use crate::engine::heartbeat::Heartbeat;
use crate::engine::held::Holdings;
use crate::engine::housekeeper::{Housekeeper, walk_anyhow};
use crate::engine::lanes::Lanes;
use crate::engine::poller::Poller;
use crate::engine::slots::Slots;
use crate::engine::starter::Starter;
use crate::engine::surveys::Surveys;
use crate::engine::wake::PollerWake;
use crate::engine::{Shared, listener, purpose, quietly};
use crate::error::{Error, Result};
use crate::outcome::Ending;
use crate::store::Store;

/// A running worker.
///
/// Dropping it stops the worker without waiting: nothing more is claimed, handlers are told to stop at once, and what
/// is unfinished is given back in the background, as far as the process lives long enough; the rest waits for its lease
/// to expire. Use [`shutdown`](Self::shutdown) to let commands finish, or [`detach`](Self::detach) to let the worker
/// run as long as the process.
#[derive(Debug)]
#[must_use = "dropping the worker stops it: keep it, then call `shutdown`"]
pub struct Worker {
    phase: watch::Sender<Phase>,
    ended: watch::Receiver<Option<usize>>,
    grace: Duration,
    detached: bool,
}

/// What the worker should do.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Run,
    /// Stop claiming, and give running commands this long.
    Drain(Duration),
}

/// How long a handler that was told to stop may take to clean up before it is aborted.
const CLEAN_UP: Duration = Duration::from_millis(500);
/// How long the last endings may take to be written.
const LAST_WRITES: Duration = Duration::from_secs(10);

impl Worker {
    /// Starts the loops; handlers run on the runtime of the caller.
    pub(crate) fn start(shared: Arc<Shared>) -> Self {
        let (phase, phase_seen) = watch::channel(Phase::Run);
        let (ended_sender, ended) = watch::channel(None);
        let grace = shared.config.shutdown_grace;
        let runtime = Handle::current();
        // Before this returns: an append that follows may be told of to nobody else, and commit after the first survey.
        let ear = Ear { wake: shared.wake.attach(), shared };
        spawn_thread("orchestratum-engine", move || async move {
            let left = engine(Arc::clone(&ear.shared), Arc::clone(&ear.wake), runtime, phase_seen).await;
            drop(ear);
            // Without a word the channel closes, also if this thread never was.
            if let Some(left) = left {
                ended_sender.send_replace(Some(left));
            }
        });
        Self { phase, ended, grace, detached: false }
    }

    /// Stops claiming, lets running commands finish for up to the builder's `shutdown_grace`, tells the rest to stop,
    /// and gives back what is unfinished without using up an attempt's retry. When it returns, this worker writes
    /// nothing more.
    ///
    /// # Errors
    /// [`Error::Unsettled`] when the database could not be told about some commands; their leases expire.
    /// [`Error::NotRunning`] when the worker never ran, or had ended by itself.
    pub async fn shutdown(mut self) -> Result<()> {
        self.phase.send_replace(Phase::Drain(self.grace));
        self.detached = true;
        // The engine thread ends by itself only after it has said how many are left.
        let left = self.ended.wait_for(Option::is_some).await.map_or(None, |left| *left);
        match left {
            Some(0) => Ok(()),
            Some(count) => Err(Error::Unsettled { count }),
            None => Err(Error::NotRunning),
        }
    }

    /// Waits until this worker runs no more. As long as nobody tells it to stop that is when it does not run at all: no
    /// thread could be made for it, or it has panicked, and [`shutdown`](Self::shutdown) says
    /// [`Error::NotRunning`]. For a program that serves something beside it, and should end with it.
    pub async fn ended(&self) {
        // Without a word the channel closes.
        let _ = self.ended.clone().wait_for(Option::is_some).await;
    }

    /// Waits for SIGTERM or SIGINT (elsewhere than on Unix, for Ctrl-C), then shuts down. A second signal ends the grace
    /// period. A worker that does not run is waited for no longer.
    ///
    /// # Errors
    /// Like [`shutdown`](Self::shutdown).
    pub async fn shutdown_on_signal(self) -> Result<()> {
        tokio::select! {
            () = shutdown_signal() => {
                tracing::info!(target: "orchestratum::shutdown", "shutting down");
            }
            () = self.ended() => {}
        }
        let phase = self.phase.clone();
        let shutdown = self.shutdown();
        tokio::pin!(shutdown);
        tokio::select! {
            result = &mut shutdown => return result,
            () = shutdown_signal() => phase.send_replace(Phase::Drain(Duration::ZERO)),
        };
        shutdown.await
    }

    /// Lets the worker run as long as the process. It can no longer be shut down.
    pub fn detach(mut self) {
        self.detached = true;
        // The engine takes a closed channel for a detached worker.
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.detached {
            tracing::warn!(target: "orchestratum::drop", "the worker was dropped and stops: keep it, and call `shutdown`");
            self.phase.send_replace(Phase::Drain(Duration::ZERO));
        }
    }
}

/// Waits for SIGTERM or SIGINT (elsewhere than on Unix, for Ctrl-C): for servers that stop beside the worker.
pub async fn shutdown_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    // A platform without signals waits for ever.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Where the worker hears of appends; forgotten when dropped, also by a thread that could not be made.
struct Ear {
    shared: Arc<Shared>,
    wake: Arc<PollerWake>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.shared.wake.detach(&self.wake);
    }
}

/// A thread with a runtime of its own: no handler can block it. Where it cannot be made `main` is dropped.
fn spawn_thread<F, Fut>(name: &str, main: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(main()),
            Err(error) => not_made(&error),
        }
    });
    if let Err(error) = spawned {
        not_made(&error);
    }
}

fn not_made(error: &std::io::Error) {
    quietly(|| {
        tracing::error!(
            target: "orchestratum::start::failed", %error, "no thread for the worker: this process runs nothing"
        );
    });
}

/// The whole life of a worker, on the engine thread. Returns how many commands could not be settled; `None`: it has no
/// heartbeat, and so has never run anything.
async fn engine(
    shared: Arc<Shared>,
    wake: Arc<PollerWake>,
    runtime: Handle,
    mut phase: watch::Receiver<Phase>,
) -> Option<usize> {
    let keys: Vec<&str> = shared.registry.keys().collect();
    quietly(|| tracing::info!(target: "orchestratum::start", ?keys, "serving"));
    let holdings = Arc::new(Holdings::new());
    let heart_stops = CancellationToken::new();
    let (heart, heart_stopped) = tokio::sync::oneshot::channel();
    let stopping = CancellationToken::new();
    let or_stop = stopping.clone().drop_guard();
    let heartbeat = Heartbeat {
        shared: Arc::clone(&shared),
        holdings: Arc::clone(&holdings),
        stopping: heart_stops.clone(),
        store: None,
    };
    spawn_thread("orchestratum-heartbeat", move || async move {
        heartbeat.run().await;
        // Nobody listens when the engine has given up waiting.
        let _ = heart.send(());
        // Without a heartbeat nothing is claimed: an engine whose other thread cannot be made has nothing to do.
        drop(or_stop);
    });
    let mut left = 0;
    if let Some(store) = connect(&shared, &mut phase, &stopping).await {
        left = run(&shared, wake, &store, &holdings, runtime, &mut phase, stopping).await;
    }
    heart_stops.cancel();
    // The heartbeat gives up on a database that does not answer.
    let heart = tokio::time::timeout(Duration::from_secs(5), heart_stopped).await;
    quietly(|| tracing::info!(target: "orchestratum::stop", left, "stopped"));
    let never_beat = matches!(heart, Ok(Err(_)));
    (!never_beat).then_some(left)
}

async fn connect(shared: &Shared, phase: &mut watch::Receiver<Phase>, stopping: &CancellationToken) -> Option<Store> {
    let mut backoff = Backoff::new("engine");
    loop {
        let error = tokio::select! {
            opened = shared.store.open(purpose(&shared.config)) => match opened {
                Ok(store) => return Some(store),
                Err(error) => error,
            },
            _ = draining(phase) => return None,
            () = stopping.cancelled() => return None,
        };
        let wait = backoff.failed(&error);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = draining(phase) => return None,
            () = stopping.cancelled() => return None,
        }
    }
}

async fn run(
    shared: &Arc<Shared>,
    wake: Arc<PollerWake>,
    store: &Store,
    holdings: &Arc<Holdings>,
    runtime: Handle,
    phase: &mut watch::Receiver<Phase>,
    stopping: CancellationToken,
) -> usize {
    let (reports, reported) = mpsc::unbounded_channel();
    let settler = Settler {
        shared: Arc::clone(shared),
        store: store.clone(),
        holdings: Arc::clone(holdings),
        wake: Arc::clone(&wake),
        backoff: Arc::new(Mutex::new(Backoff::new("finisher"))),
    };
    let finisher = Finisher { reports: reported, settler };
    let finisher = tokio::spawn(finisher.run());
    let starter = Arc::new(Starter {
        shared: Arc::clone(shared),
        holdings: Arc::clone(holdings),
        runtime,
        reports,
        stopping: stopping.clone(),
        slots: Slots::new(Arc::clone(shared), Arc::clone(&wake), stopping.clone()),
    });
    shared.starters.attach(&starter);
    let poller = Poller {
        shared: Arc::clone(shared),
        store: store.clone(),
        holdings: Arc::clone(holdings),
        starter: Arc::clone(&starter),
        stopping: stopping.clone(),
        wake,
        lanes: Lanes::default(),
        surveys: Surveys::new(),
        unanswered: 0,
    };
    let poller = tokio::spawn(poller.run());
    let housekeeper = Housekeeper {
        shared: Arc::clone(shared),
        store: store.clone(),
        holdings: Arc::clone(holdings),
        stopping: stopping.clone(),
        emptied: HashMap::new(),
        next_walk: Instant::now() + walk_anyhow(1).mul_f64(fastrand::f64()),
        purging: None,
    };
    tokio::spawn(housekeeper.run());
    if store.hears() {
        tokio::spawn(listener::run(Arc::clone(shared), store.clone(), stopping.clone()));
    }

    let grace = tokio::select! {
        grace = draining(phase) => grace,
        // There is no heartbeat, or the poller found that nobody is left to run handlers.
        () = stopping.cancelled() => Duration::ZERO,
    };
    stopping.cancel();
    shared.starters.detach(&starter);
    // A claim that is under way is let finish, so that what it takes is held and given back.
    if tokio::time::timeout(LAST_WRITES, poller).await.is_err() {
        holdings.doubt();
    }
    drain(holdings, grace, phase).await;
    finisher.abort();
    holdings.len()
}

/// Waits for the order to stop. A detached worker never gets one.
async fn draining(phase: &mut watch::Receiver<Phase>) -> Duration {
    loop {
        if let Phase::Drain(grace) = *phase.borrow_and_update() {
            return grace;
        }
        if phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Waits for the running, then tells them to stop, then stops them, then waits for the last endings to be written.
async fn drain(holdings: &Arc<Holdings>, grace: Duration, phase: &mut watch::Receiver<Phase>) {
    let drained = tokio::select! {
        drained = is_drained(holdings, grace) => drained,
        () = is_cut_short(phase) => false,
    };
    if drained {
        return;
    }
    for attempt in holdings.all() {
        attempt.stop(Stop::Shutdown);
    }
    if is_drained(holdings, CLEAN_UP).await {
        return;
    }
    for attempt in holdings.all() {
        attempt.abort(Ending::GivenBack);
    }
    is_drained(holdings, LAST_WRITES).await;
}

/// Waits for the order to end the grace period at once.
async fn is_cut_short(phase: &mut watch::Receiver<Phase>) {
    while phase.changed().await.is_ok() {
        if matches!(*phase.borrow_and_update(), Phase::Drain(Duration::ZERO)) {
            return;
        }
    }
    std::future::pending().await
}

async fn is_drained(holdings: &Holdings, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    loop {
        if holdings.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tick.tick().await;
    }
}
