//! What a worker does that gets no thread. A binary of its own, because the limit is the whole process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a case that cannot go on says where")]

mod alone;

use std::sync::mpsc;
use std::thread;

use orchestratum_core::{Error, Outcome};
use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Less than a thread's stack needs, and enough for everything else.
const SLACK: u64 = 1 << 20;
/// More than threads that have ended leave stacks for new ones.
const LEFT_STACKS: usize = 32;

fn limit(most: Option<u64>) {
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(Resource::As, Rlimit { current: most.or(maximum), maximum }).unwrap();
}

fn addresses() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split_whitespace().next().unwrap().parse().unwrap();
    pages * u64::try_from(page_size()).unwrap()
}

/// A thread that waits until it is told to end.
struct Holder {
    end: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Holder {
    fn new() -> Self {
        let (end, ends) = mpsc::channel::<()>();
        Self { end, thread: thread::spawn(move || while ends.recv().is_ok() {}) }
    }

    /// What it leaves is there when this returns.
    fn leave_stack(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_gets_no_thread_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let orchestrator = alone::orchestrator(&folder).await;
    // None for the engine; one, and so none for its heartbeat.
    for threads in [0, 1] {
        let mut holders: Vec<Holder> = (0..LEFT_STACKS).map(|_| Holder::new()).collect();
        holders.drain(..threads).for_each(Holder::leave_stack);
        limit(Some(addresses() + SLACK));
        let worker = orchestrator.start();
        worker.ended().await;
        let ended = worker.shutdown_on_signal().await;
        limit(None);
        assert!(matches!(ended, Err(Error::NotRunning)), "with {threads} threads: {ended:?}");
        holders.into_iter().for_each(Holder::leave_stack);
    }
    let worker = orchestrator.start();
    let id = orchestrator.append(("k", ())).await.unwrap().id();
    assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
    worker.shutdown().await.unwrap();
}
