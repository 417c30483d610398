//! Which commands ran in this process, how often and when.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

static LEDGER: OnceLock<Ledger> = OnceLock::new();

struct Ledger {
    pause: Option<Duration>,
    total: AtomicU64,
    counts: Box<[AtomicU8]>,
    times: Box<[AtomicU64]>,
    finished: Box<[AtomicU64]>,
}

/// Makes room for the commands 0 to `n`; without `times` only counts are kept.
pub(crate) fn open(n: u64, times: bool, finished: bool, pause: Duration) {
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    let room = |wanted: bool| (0..if wanted { n } else { 0 }).map(|_| AtomicU64::new(0)).collect();
    let counts = (0..n).map(|_| AtomicU8::new(0)).collect();
    let ledger = Ledger {
        pause: (!pause.is_zero()).then_some(pause),
        total: AtomicU64::new(0),
        counts,
        times: room(times),
        finished: room(finished),
    };
    let _ = LEDGER.set(ledger);
}

/// How long a handler awaits.
pub(crate) fn pause() -> Option<Duration> {
    LEDGER.get().and_then(|ledger| ledger.pause)
}

/// Command `i` runs.
pub fn ran(i: u64) {
    let Some(ledger) = LEDGER.get() else { return };
    let index = usize::try_from(i).unwrap_or(usize::MAX);
    if let Some(time) = ledger.times.get(index) {
        time.store(now(), Ordering::Relaxed);
    }
    if let Some(count) = ledger.counts.get(index) {
        count.fetch_add(1, Ordering::Relaxed);
    }
    ledger.total.fetch_add(1, Ordering::Release);
}

/// The end of command `i` is durable. Only one in a hundred is watched for it, since watching costs.
pub fn finished(i: u64) {
    let time = LEDGER.get().and_then(|ledger| ledger.finished.get(usize::try_from(i).unwrap_or(usize::MAX)));
    if let Some(time) = time {
        time.store(now(), Ordering::Relaxed);
    }
}

/// Whether the end of command `i` shall be watched for.
#[must_use]
pub fn is_watched(i: u64) -> bool {
    i.is_multiple_of(100) && LEDGER.get().is_some_and(|ledger| !ledger.finished.is_empty())
}

/// Command `i` was to be appended at this time.
pub(crate) fn appended(i: u64, due: u64) {
    let time = LEDGER.get().and_then(|ledger| ledger.times.get(usize::try_from(i).unwrap_or(usize::MAX)));
    if let Some(time) = time {
        time.store(due, Ordering::Relaxed);
    }
}

/// When command `i` was started; 0: not yet.
pub(crate) fn time_of(i: u64) -> u64 {
    let time = LEDGER.get().and_then(|ledger| ledger.times.get(usize::try_from(i).unwrap_or(usize::MAX)));
    time.map_or(0, |time| time.load(Ordering::Relaxed))
}

pub(crate) fn total() -> u64 {
    LEDGER.get().map_or(0, |ledger| ledger.total.load(Ordering::Acquire))
}

pub(crate) fn save(counts: Option<&Path>, times: Option<&Path>, finished: Option<&Path>) -> Result<()> {
    let Some(ledger) = LEDGER.get() else { return Ok(()) };
    let write = |path: Option<&Path>, bytes: Vec<u8>| match path {
        Some(path) => fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    };
    let bytes =
        |times: &[AtomicU64]| times.iter().flat_map(|time| time.load(Ordering::Relaxed).to_le_bytes()).collect();
    write(counts, ledger.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect())?;
    write(times, bytes(&ledger.times))?;
    write(finished, bytes(&ledger.finished))
}

/// Nanoseconds since 1970: one clock for all processes of the machine.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
