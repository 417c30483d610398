//! What many idle workers cost one PostgreSQL, and whether they leave each other something: watched, not attacked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use orchestratum_core::Orchestrator;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use tokio::time::sleep;

use crate::faults::Storm;
use crate::job::{GOOD, Job};
use crate::ledger::{Entry, Ledger, Record, Shape};

/// Figures of a report.
pub(crate) type Counts = BTreeMap<&'static str, usize>;

/// The application's pool, the engine's, a heartbeat and a listener: what a process may open at most.
pub(crate) const CONNECTIONS_OF_A_PROCESS: usize = 16;
/// Statements a second of one that has nothing to do: a poll, and the heartbeats and looks of a short lease, each of which
/// is a transaction of several.
const STATEMENTS_OF_AN_IDLE_WORKER: usize = 6;
const IDLE_STATEMENTS: &str = "statements a second of all idle workers";
const STATEMENTS_OF_AN_APPEND: &str = "statements for each single append";
/// Nanoseconds within which a crowd starts.
const START: u64 = 10_000_000_000;
const IDLE: Duration = Duration::from_secs(20);
const APPENDS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// The most connections there were, until the time is up.
pub(crate) async fn most_connections(mut storm: Storm, url: &str) -> Result<usize> {
    let connection = sea_orm::Database::connect(url).await?;
    let mut most = 0;
    while storm.lull(Duration::from_secs(1)).await {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()";
        most = most.max(number(&connection, sql).await?);
    }
    Ok(most)
}

/// Lets the idle workers be, then appends single commands one after the other.
pub(crate) async fn probe(url: &str, ledger: &Ledger) -> Result<Counts> {
    let connection = sea_orm::Database::connect(url).await?;
    let client = Orchestrator::builder().database(url).client_only().build().await?;
    // Not transactions: a session that listens counts one for each message, and tells of them when it likes.
    let statements = async || {
        let sql = "SELECT sum(calls)::bigint FROM pg_stat_statements JOIN pg_database d ON d.oid = dbid \
                   WHERE d.datname = current_database()";
        number(&connection, sql).await
    };
    let (begun, before) = (Instant::now(), statements().await?);
    sleep(IDLE).await;
    let (idle, idle_for) = (statements().await? - before, begun.elapsed().as_secs_f64());
    let (begun, before) = (Instant::now(), before + idle);
    let mut times = Vec::new();
    for number in 0..APPENDS {
        let appended = Instant::now();
        let number = u64::from(number);
        let job = Job::new(number, Shape::Single, Duration::ZERO);
        let id = client.append((GOOD[0], job)).await?.id();
        ledger.note(Entry::Appended { number, id: id.as_uuid(), shape: Shape::Single, refused: None });
        client.wait::<()>(id).await?;
        times.push(appended.elapsed());
        sleep(PAUSE).await;
    }
    let (busy, busy_for) = (statements().await? - before, begun.elapsed().as_secs_f64());
    times.sort_unstable();
    let of_idle = lossy(idle) / idle_for;
    let millis = |share: usize| times[times.len() * share / 100].as_millis();
    Ok(Counts::from([
        (IDLE_STATEMENTS, whole(of_idle)),
        (STATEMENTS_OF_AN_APPEND, whole((lossy(busy) - of_idle * busy_for) / f64::from(APPENDS))),
        ("ms from a single append to its end, median", usize::try_from(millis(50))?),
        ("ms from a single append to its end, 99th percentile", usize::try_from(millis(99))?),
    ]))
}

const THERE: &str = "workers from the start to the end";
const LEAST_BUSY: &str = "handlers run by the least busy worker";
const BUSIEST: &str = "handlers run by the busiest worker";
/// How many times as much the busiest may run: who was in time last asks first, and commands are of all lengths.
const UNEVEN: usize = 10;

/// What a crowd of so many workers must not do.
pub(crate) fn excesses(counts: &Counts, workers: usize) -> Vec<String> {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let many = [
        (IDLE_STATEMENTS, STATEMENTS_OF_AN_IDLE_WORKER * workers),
        // Each would ask at least once, if all of them woke.
        (STATEMENTS_OF_AN_APPEND, workers),
        (BUSIEST, UNEVEN * count(LEAST_BUSY)),
    ];
    let many = many.into_iter().filter(|(name, allowed)| count(name) > *allowed);
    let many = many.map(|(name, allowed)| format!("{} {name}, where {allowed} are many", count(name)));
    let untried = (count(THERE) < 2).then(|| format!("nothing was tried: {} {THERE}", count(THERE)));
    many.chain(untried).collect()
}

/// How many handlers the least and the most busy worker ran, of those that were there from the start to the end.
pub(crate) fn shares(records: &[Record]) -> Counts {
    let mut ran: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records.iter().filter(|record| record.process.starts_with("worker")) {
        *ran.entry(&record.process).or_default() += usize::from(matches!(record.entry, Entry::Started { .. }));
    }
    let started = records.first().map_or(0, |record| record.at) + START;
    let was_there = |process: &str| {
        let began = |record: &Record| matches!(record.entry, Entry::Began { .. }) && &*record.process == process;
        let died = |record: &Record| matches!(&record.entry, Entry::Died { process: died, .. } if died == process);
        records.iter().take_while(|record| record.at < started).any(began) && !records.iter().any(died)
    };
    let shares = ran.iter().filter(|(process, _)| was_there(process)).map(|(_, count)| *count);
    Counts::from([
        (THERE, shares.clone().count()),
        (LEAST_BUSY, shares.clone().min().unwrap_or(0)),
        (BUSIEST, shares.max().unwrap_or(0)),
    ])
}

async fn number(connection: &DatabaseConnection, sql: &str) -> Result<usize> {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await?.with_context(|| format!("no answer to {sql}"))?;
    Ok(usize::try_from(row.try_get_by_index::<i64>(0)?)?)
}

#[allow(clippy::cast_precision_loss, reason = "counts of a report")]
fn lossy(count: usize) -> f64 {
    count as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a report")]
fn whole(value: f64) -> usize {
    value.round().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_that_wakes_as_one_or_leaves_nothing_to_another_is_told_of() {
        let counts = |idle, each, least, most| {
            Counts::from([
                (THERE, 2),
                (IDLE_STATEMENTS, idle),
                (STATEMENTS_OF_AN_APPEND, each),
                (LEAST_BUSY, least),
                (BUSIEST, most),
            ])
        };
        assert!(excesses(&counts(300, 50, 100, 1_000), 50).is_empty());
        assert_eq!(excesses(&counts(301, 51, 0, 1), 50).len(), 3);
        assert_eq!(excesses(&Counts::new(), 50).len(), 1);
    }
}
