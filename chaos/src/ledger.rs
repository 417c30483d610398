//! What happened, written down outside of the queue: one file a process, appended to line by line.
//!
//! A line is with the operating system before the process goes on, so that `kill -9` loses none, and is on the disk a
//! tenth of a second later.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::pulse::Beat;

/// Among the faults: one that was let sleep to its end, for longer than the lease.
pub(crate) const PAUSE: &str = "pause of a worker past its lease";

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// The process has begun; the upper half of the numbers that it gives to commands.
    Began { serial: u32 },
    /// An append has returned, and its transaction is committed, unless it was refused for its unique key.
    Appended { number: u64, id: Uuid, shape: Shape, refused: Option<Refused> },
    /// An append or its commit returned an error, or nobody waited for it any more: it may have happened or not.
    Unsure { number: u64, shape: Shape, error: String },
    /// The transaction of an append was rolled back.
    RolledBack { number: u64, id: Uuid },
    /// A cancel is about to be asked for.
    CancelAsked { id: Uuid },
    /// A cancel has returned; `at_once` when the command was not running. The attempt is what was read behind it, if
    /// there was an answer: no later one may begin.
    Canceled { id: Uuid, at_once: bool, attempt: Option<u32> },
    /// A handler has begun; a deaf one cannot hear that it is told to stop, or its end is noted late.
    Started { id: Uuid, attempt: u32, is_deaf: bool },
    /// A handler was told that its lease is lost, its time is up or it is canceled.
    Told { id: Uuid, attempt: u32 },
    /// A handler has ended, or its future was dropped.
    Ended { id: Uuid, attempt: u32, end: End },
    /// The rig is about to end this process without a word, or has found that it has ended, by `abort` or otherwise.
    Died { process: String, aborted: bool },
    /// The commit of a handler's own transaction, with its effect and its completion, was acknowledged.
    Effected { id: Uuid, attempt: u32 },
    /// The process was told to stop and has ended in order: it has written down the fate of all that it appended.
    Left { process: String },
    /// The rig is about to stop this process; it goes on after `Resumed`.
    Paused { process: String },
    /// The rig has let this process go on.
    Resumed { process: String },
    /// The rig is about to let this process have no more memory for a while: it may end by that.
    Starved { process: String },
    /// The rig has let this process have memory again.
    Fed { process: String },
    /// What the process saw of the stream since the last beat.
    Beat(Beat),
    /// Another fault, for the count.
    Fault { name: String },
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// It returned `Ok`.
    Succeeded,
    /// It was not told to stop and returned an error that is none of the verdicts, or it panicked.
    Failed,
    /// It was told to stop and returned an error, gave a verdict, or was dropped.
    Stopped,
}

/// How a command was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    Single,
    Within,
    /// In a transaction that is never committed.
    RolledBack,
    Bulk,
    Unique,
    Chained,
    Delayed,
}

/// What an append was told that came upon another command with its unique key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) unique_key: String,
    /// When it was asked for.
    pub(crate) asked: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Nanoseconds of the machine's monotonic clock, which all processes share and no fault moves.
    at: u64,
    #[serde(flatten)]
    entry: Entry,
}

/// An entry with its time and the name of the process that wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) at: u64,
    pub(crate) process: Arc<str>,
    pub(crate) entry: Entry,
}

impl Record {
    /// The command that this record says was to be canceled.
    pub(crate) const fn cancel_asked(&self) -> Option<Uuid> {
        match self.entry {
            Entry::CancelAsked { id } => Some(id),
            _ => None,
        }
    }
}

/// A process's own file.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    file: Arc<File>,
}

impl Ledger {
    pub(crate) fn create(folder: &Path, process: &str) -> Result<Self> {
        let path = folder.join(format!("{process}.jsonl"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = Arc::new(file.with_context(|| format!("cannot open {}", path.display()))?);
        let weak = Arc::downgrade(&file);
        thread::spawn(move || {
            while let Some(file) = weak.upgrade() {
                let _ = file.sync_data(); // the write itself was answered; this is for the loss of power
                drop(file);
                thread::sleep(Duration::from_millis(100));
            }
        });
        Ok(Self { file })
    }

    /// Writes it down. A ledger that cannot be written proves nothing, so the process ends.
    pub(crate) fn note(&self, entry: Entry) {
        let written = serde_json::to_string(&Line { at: now(), entry })
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok((&*self.file).write_all(format!("{line}\n").as_bytes())?));
        if written.is_err() {
            std::process::exit(70);
        }
    }
}

/// Nanoseconds of the monotonic clock.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Everything that all processes have written, in the order of time.
pub(crate) fn read(folder: &Path) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let process: Arc<str> = path.file_stem().unwrap_or_default().to_string_lossy().into();
        let text = fs::read_to_string(&path)?;
        // A process that is killed while it writes leaves half a line.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let Line { at, entry } =
                serde_json::from_str(line).with_context(|| format!("in {}: {line}", path.display()))?;
            records.push(Record { at, process: Arc::clone(&process), entry });
        }
    }
    records.sort_by_key(|record| record.at);
    Ok(records)
}

/// How often each fault came.
pub(crate) fn faults(records: &[Record], lease: Duration) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut asleep: HashMap<&str, u64> = HashMap::new();
    for record in records {
        let name = match &record.entry {
            Entry::Paused { process } => {
                asleep.insert(process, record.at);
                continue;
            }
            Entry::Resumed { process } => {
                let slept = asleep.remove(process.as_str()).map_or(0, |since| record.at - since);
                let is_long = Duration::from_nanos(slept) >= lease;
                if is_long && process.starts_with("worker") { PAUSE } else { "pause of a producer, or a short one" }
            }
            Entry::Died { process, .. } if asleep.remove(process.as_str()).is_some() => "death of a paused process",
            Entry::Died { .. } | Entry::Left { .. } => "end of a process",
            Entry::Fault { name } => name,
            _ => continue,
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_that_has_slept_through_its_lease_counts_as_paused() {
        let record = |second: u64, entry: Entry| Record { at: second * 1_000_000_000, process: "rig".into(), entry };
        let paused = |name: &str| Entry::Paused { process: name.to_owned() };
        let resumed = |name: &str| Entry::Resumed { process: name.to_owned() };
        let records = [
            record(1, paused("worker-0-7")),
            record(1, paused("worker-1-8")),
            record(1, paused("worker-2-9")),
            record(1, paused("producer-0-10")),
            record(3, resumed("worker-1-8")),
            record(4, Entry::Died { process: "worker-2-9".to_owned(), aborted: false }),
            record(7, resumed("worker-0-7")),
            record(7, resumed("producer-0-10")),
        ];
        let counts = faults(&records, Duration::from_secs(5));
        assert_eq!(counts.get(PAUSE), Some(&1));
        assert_eq!(counts.values().sum::<usize>(), 4);
    }
}
