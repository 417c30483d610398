//! What the ledgers say of handlers and processes.

use std::collections::HashMap;

use uuid::Uuid;

use crate::ledger::{End, Entry, Record};

/// How soon after waking a paused process has told its handlers. Its heartbeat is late by then and tells them at once;
/// but on two busy cores the note of it waits for threads that handlers block for up to 1.5 s each.
const WAKING: u64 = 3_000_000_000;

pub(super) struct History<'a> {
    pub(super) records: &'a [Record],
    /// The runs of each command's handlers, in the order of their beginnings.
    pub(super) executions: HashMap<Uuid, Vec<Execution<'a>>>,
    /// Commands that somebody asked to cancel, and when for the first time.
    pub(super) cancel_asked: HashMap<Uuid, u64>,
    pauses: HashMap<&'a str, Vec<Pause>>,
    /// For how long the lease of a process that is paused goes on for certain, in nanoseconds.
    leased: u64,
}

/// One run of a handler.
pub(super) struct Execution<'a> {
    pub(super) process: &'a str,
    pub(super) attempt: u32,
    pub(super) started: u64,
    /// When it was told to stop or had ended, by its own account.
    pub(super) ended: Option<u64>,
    /// When its process had stopped to believe in its lease, or was gone.
    pub(super) over: u64,
    /// It cannot hear that it is told to stop, or its end is noted late: its attempt may be over before it is.
    pub(super) is_deaf: bool,
    /// It was not told to stop, and returned an error or panicked.
    pub(super) failed: bool,
    /// When it had returned `Ok`.
    pub(super) succeeded: Option<u64>,
}

/// When a process stood still.
struct Pause {
    from: u64,
    to: u64,
}

impl<'a> History<'a> {
    pub(super) fn of(records: &'a [Record], leased: u64) -> Self {
        // The first one comes last, and stays.
        let asked = records.iter().rev().filter_map(|record| Some((record.cancel_asked()?, record.at)));
        let cancel_asked = asked.collect();
        Self { records, executions: executions(records), cancel_asked, pauses: pauses(records), leased }
    }

    /// Whether server and network were left alone.
    pub(super) const fn is_undisturbed(&self) -> bool {
        self.leased > 0
    }

    pub(super) fn executions_of(&self, id: &Uuid) -> &[Execution<'a>] {
        self.executions.get(id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn has_started(&self, id: &Uuid, attempt: i32) -> bool {
        self.execution(id, attempt).is_some()
    }

    /// The one of this attempt.
    pub(super) fn execution(&self, id: &Uuid, attempt: i32) -> Option<&Execution<'a>> {
        self.executions_of(id).iter().find(|execution| i64::from(execution.attempt) == i64::from(attempt))
    }

    /// Whether at this moment the process had stood still for so long that its lease may have run out, or had just gone
    /// on; and whether all was over, then, that was to be.
    pub(super) fn is_excused(&self, process: &str, at: u64, over: u64) -> bool {
        let pauses = self.pauses.get(process).map_or(&[][..], Vec::as_slice);
        pauses.iter().any(|Pause { from, to }| {
            let awake = to.saturating_add(WAKING);
            from.saturating_add(self.leased) <= at && at <= awake && over <= awake
        })
    }
}

fn pauses(records: &[Record]) -> HashMap<&str, Vec<Pause>> {
    let mut pauses: HashMap<&str, Vec<Pause>> = HashMap::new();
    for record in records {
        match &record.entry {
            Entry::Paused { process } => {
                pauses.entry(process).or_default().push(Pause { from: record.at, to: u64::MAX });
            }
            Entry::Resumed { process } => {
                if let Some(last) = pauses.get_mut(process.as_str()).and_then(|pauses| pauses.last_mut()) {
                    last.to = record.at;
                }
            }
            _ => {}
        }
    }
    pauses
}

fn executions(records: &[Record]) -> HashMap<Uuid, Vec<Execution<'_>>> {
    let mut executions: HashMap<Uuid, Vec<Execution<'_>>> = HashMap::new();
    let mut over: HashMap<(Uuid, u32, &str), (u64, bool)> = HashMap::new();
    let mut succeeded: HashMap<(Uuid, u32, &str), u64> = HashMap::new();
    let mut gone: HashMap<&str, u64> = HashMap::new();
    for record in records {
        match &record.entry {
            Entry::Started { id, attempt, is_deaf } => {
                let (process, attempt, started, is_deaf) = (&*record.process, *attempt, record.at, *is_deaf);
                let (ended, over, failed, succeeded) = (None, u64::MAX, false, None);
                let execution = Execution { process, attempt, started, ended, over, is_deaf, failed, succeeded };
                executions.entry(*id).or_default().push(execution);
            }
            Entry::Told { id, attempt } => {
                over.entry((*id, *attempt, &record.process)).or_insert((record.at, false));
            }
            Entry::Ended { id, attempt, end } => {
                let execution = (*id, *attempt, &*record.process);
                over.entry(execution).or_insert((record.at, *end == End::Failed));
                if *end == End::Succeeded {
                    succeeded.insert(execution, record.at);
                }
            }
            Entry::Died { process, .. } | Entry::Left { process } => {
                gone.entry(process).or_insert(record.at);
            }
            _ => {}
        }
    }
    for (id, executions) in &mut executions {
        for execution in executions {
            let key = (*id, execution.attempt, execution.process);
            let ended = over.get(&key);
            execution.succeeded = succeeded.get(&key).copied();
            execution.ended = ended.map(|(at, _)| *at);
            execution.failed = ended.is_some_and(|(_, failed)| *failed);
            let gone = gone.get(execution.process).copied().unwrap_or(u64::MAX);
            execution.over = execution.ended.unwrap_or(u64::MAX).min(gone);
        }
    }
    executions
}
