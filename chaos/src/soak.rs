//! A long run with few faults: whether anything grows that should not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sea_orm::{ConnectOptions, ConnectionTrait as _, Statement};
use tokio::sync::Mutex;

use crate::crowd::Counts;
use crate::database::DatabaseKind;
use crate::faults::{Storm, database};
use crate::fleet::Fleet;
use crate::ledger::{self, Entry, Record};
use crate::process::BEAT;
use crate::pulse::Beat;

/// How much rarer faults are than in a storm.
pub(crate) const PACE: u32 = 20;
/// How long ended commands are kept.
pub(crate) const KEEP: Duration = Duration::from_secs(60);
/// Commands a second, of all kinds, beside the stream.
pub(crate) const MIXTURE: u32 = 60;
/// Between two points of a curve.
const WINDOW: Duration = Duration::from_secs(5);
/// A run shorter than this has no steady state that could be looked at.
pub(crate) const LONG: u64 = 600;
const MIB: f64 = 1024.0 * 1024.0;

/// What the database and the workers held at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    at: u64,
    /// Resident memory of the worker that is left alone: the others do not live long enough to show a slow leak.
    worker_mib: f64,
    tables_mib: f64,
    /// Zero where they are within the tables' files.
    indexes_mib: f64,
    /// The log beside the file of an embedded database; zero where there is none.
    log_mib: f64,
    garbage: f64,
}

/// One point of each curve.
#[derive(Debug, Clone, Default)]
pub(crate) struct Window {
    pub(crate) minute: f64,
    pub(crate) ended_per_s: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) worker_mib: Option<f64>,
    pub(crate) tables_mib: Option<f64>,
    pub(crate) indexes_mib: Option<f64>,
    pub(crate) log_mib: Option<f64>,
    pub(crate) garbage: Option<f64>,
}

/// What waits to be thrown away, as each database counts it.
pub(crate) fn garbage(kind: DatabaseKind) -> &'static str {
    match kind {
        DatabaseKind::Postgres => "dead rows",
        DatabaseKind::Mariadb => "transactions whose old rows are not purged",
        DatabaseKind::Sqlite => "free pages",
    }
}

/// Looks at the database and at the workers until the time is up.
pub(crate) async fn watch(
    mut storm: Storm,
    kind: DatabaseKind,
    url: &str,
    file: &Path,
    fleet: &Mutex<Fleet>,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while storm.lull(WINDOW / 2).await {
        let first = fleet.lock().await.first();
        // A server that is away has no sizes.
        if let (Some(worker_mib), Ok([tables, indexes, garbage])) = (resident_mib(first), sizes(kind, url).await) {
            let (tables_mib, indexes_mib, log_mib) = (tables / MIB, indexes / MIB, log_mib(file));
            samples.push(Sample { at: ledger::now(), worker_mib, tables_mib, indexes_mib, log_mib, garbage });
        }
    }
    Ok(samples)
}

/// Bytes of tables, bytes of indexes, and what [`garbage`] names.
async fn sizes(kind: DatabaseKind, url: &str) -> Result<[f64; 3]> {
    let sql = match kind {
        DatabaseKind::Postgres => {
            "SELECT sum(pg_table_size(relid))::float8, sum(pg_indexes_size(relid))::float8, sum(n_dead_tup)::float8 \
             FROM pg_stat_user_tables WHERE relname LIKE 'orchestratum%'"
        }
        DatabaseKind::Mariadb => {
            "SELECT CAST(sum(file_size) AS DOUBLE), CAST(0 AS DOUBLE), \
             (SELECT CAST(count AS DOUBLE) FROM information_schema.innodb_metrics WHERE name = 'trx_rseg_history_len') \
             FROM information_schema.innodb_sys_tablespaces WHERE name LIKE 'chaos/orchestratum%'"
        }
        DatabaseKind::Sqlite => {
            "SELECT CAST(page_count * page_size AS REAL), 0.0, CAST(freelist_count AS REAL) \
             FROM pragma_page_count, pragma_page_size, pragma_freelist_count"
        }
    };
    let mut options = ConnectOptions::new(url);
    let patience = Duration::from_secs(3);
    options.max_connections(1).acquire_timeout(patience).connect_timeout(patience).sqlx_logging(false);
    let connection = sea_orm::Database::connect(options).await?;
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = tokio::time::timeout(patience, connection.query_one_raw(statement)).await??.context("no sizes")?;
    let sizes = [row.try_get_by_index(0)?, row.try_get_by_index(1)?, row.try_get_by_index(2)?];
    connection.close().await?;
    Ok(sizes)
}

fn log_mib(file: &Path) -> f64 {
    fs::metadata(file.with_extension("db-wal")).map_or(0.0, |log| lossy(log.len()) / MIB)
}

fn resident_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
}

fn beats(records: &[Record]) -> impl Iterator<Item = (u64, &Beat)> {
    records.iter().filter_map(|record| match &record.entry {
        Entry::Beat(beat) => Some((record.at, beat)),
        _ => None,
    })
}

/// The minutes from the first beat at which the server died.
pub(crate) fn deaths(records: &[Record]) -> Vec<f64> {
    let begun = beats(records).next().map_or(0, |(at, _)| at);
    let deaths = records.iter().filter(|record| match &record.entry {
        Entry::Fault { name } => name == database::KILL,
        _ => false,
    });
    deaths.map(|record| Duration::from_nanos(record.at.saturating_sub(begun)).as_secs_f64() / 60.0).collect()
}

/// The curves, from the first beat to the last.
pub(crate) fn windows(records: &[Record], samples: &[Sample]) -> Vec<Window> {
    let begun = beats(records).next().map_or(0, |(at, _)| at);
    let window = |at: u64| Duration::from_nanos(at.saturating_sub(begun)).as_secs() / WINDOW.as_secs();
    let mut sums: BTreeMap<u64, Beat> = BTreeMap::new();
    beats(records).for_each(|(at, beat)| sums.entry(window(at)).or_default().merge(beat));
    // The last one is cut off by the end.
    sums.pop_last();
    let held: BTreeMap<u64, &Sample> = samples.iter().map(|sample| (window(sample.at), sample)).collect();
    let of = |number: u64, sum: &Beat| {
        let sample = held.get(&number);
        Window {
            minute: lossy(number * WINDOW.as_secs()) / 60.0,
            ended_per_s: lossy(sum.times.count()) / WINDOW.as_secs_f64(),
            p50_ms: sum.times.quantile(0.5),
            p99_ms: sum.times.quantile(0.99),
            worker_mib: sample.map(|sample| sample.worker_mib),
            tables_mib: sample.map(|sample| sample.tables_mib),
            indexes_mib: sample.map(|sample| sample.indexes_mib),
            log_mib: sample.map(|sample| sample.log_mib),
            garbage: sample.map(|sample| sample.garbage),
        }
    };
    sums.iter().map(|(number, sum)| of(*number, sum)).collect()
}

/// A curve that must not grow, and how much more is noise.
struct Curve {
    name: &'static str,
    value: fn(&Window) -> Option<f64>,
    slack: f64,
    /// What is compared with what.
    over: Span,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Span {
    /// The medians of the second quarter of the run and of the last.
    Quarters,
    /// The largest values of both halves: an index file keeps the size that it once had, in which whatever comes later
    /// finds room. What grows without end is twice as large in the second half.
    Halves,
}

const CURVES: [Curve; 8] = [
    Curve {
        name: "ms from one end to the next",
        value: |window| Some(1e3 / window.ended_per_s.max(1.0)),
        slack: 0.0,
        over: Span::Quarters,
    },
    // A server throws them away in bursts.
    Curve {
        name: "rows or pages to be thrown away",
        value: |window| window.garbage,
        slack: 50_000.0,
        over: Span::Quarters,
    },
    Curve { name: "ms to the end, 99th percentile", value: |window| window.p99_ms, slack: 20.0, over: Span::Quarters },
    Curve { name: "ms to the end, median", value: |window| window.p50_ms, slack: 5.0, over: Span::Quarters },
    Curve { name: "MiB of the oldest worker", value: |window| window.worker_mib, slack: 4.0, over: Span::Quarters },
    Curve { name: "MiB of tables", value: |window| window.tables_mib, slack: 16.0, over: Span::Quarters },
    // Long readers keep it from being cut for a while.
    Curve { name: "MiB of the log", value: |window| window.log_mib, slack: 64.0, over: Span::Quarters },
    Curve { name: "MiB of indexes", value: |window| window.indexes_mib, slack: 16.0, over: Span::Halves },
];

/// What has grown by more than a quarter.
pub(crate) fn drifts(windows: &[Window], seconds: u64) -> Vec<String> {
    if seconds < LONG {
        return Vec::new();
    }
    let quarter = windows.len() / 4;
    let (second, last) = (&windows[quarter..2 * quarter], &windows[3 * quarter..]);
    let (first_half, other_half) = windows.split_at(2 * quarter);
    let grown = CURVES.iter().filter_map(|curve| {
        let (before, after) = match curve.over {
            Span::Quarters => (median(second, curve.value)?, median(last, curve.value)?),
            Span::Halves => (largest(first_half, curve.value)?, largest(other_half, curve.value)?),
        };
        (after > 1.25 * before + curve.slack).then(|| format!("{} grew from {before:.1} to {after:.1}", curve.name))
    });
    grown.collect()
}

/// What makes the curves worth nothing: moments of which nothing is known, and a stream that has dried up.
pub(crate) fn gaps(windows: &[Window], stream: u32) -> Vec<String> {
    let known = windows.iter().filter(|window| window.worker_mib.is_some()).count();
    let mut gaps = Vec::new();
    if known < windows.len() / 2 {
        gaps.push(format!("nothing was tried: sizes are known of {known} of {} moments", windows.len()));
    }
    let ended = median(windows, |window| Some(window.ended_per_s)).unwrap_or(0.0);
    if ended < f64::from(stream) / 2.0 {
        gaps.push(format!("nothing was tried: {ended:.0} commands of the stream ended a second, of {stream}"));
    }
    gaps
}

/// Commands of the stream that were acknowledged and whose handlers have not ended, as far as it was written down: what
/// a process has seen between its last beat and its death is not.
pub(crate) fn lost(records: &[Record], stream: u32) -> Option<String> {
    let (mut appended, mut ended) = (0, 0);
    for (_, beat) in beats(records) {
        appended += beat.appended;
        ended += beat.times.count();
    }
    let deaths =
        records.iter().filter(|record| matches!(record.entry, Entry::Died { .. } | Entry::Left { .. })).count();
    // All of the stream may run in one process, and after an outage several times as fast.
    let unwritten = 4.0 * f64::from(stream) * BEAT.as_secs_f64() * lossy(deaths as u64);
    (lossy(appended) > lossy(ended) + unwritten)
        .then(|| format!("commands of the stream that were lost: {appended} were acknowledged, {ended} have ended"))
}

/// The figures of a report, medians over the windows.
pub(crate) fn counts(windows: &[Window]) -> Counts {
    let whole = |value: fn(&Window) -> Option<f64>| median(windows, value).map_or(0, whole);
    Counts::from([
        ("commands of the stream ended a second", whole(|window| Some(window.ended_per_s))),
        ("ms of theirs to the end, median", whole(|window| window.p50_ms)),
        ("ms of theirs to the end, 99th percentile", whole(|window| window.p99_ms)),
        ("MiB of the oldest worker", whole(|window| window.worker_mib)),
        ("MiB of tables", whole(|window| window.tables_mib)),
        ("MiB of indexes", whole(|window| window.indexes_mib)),
        ("MiB of the log", whole(|window| window.log_mib)),
    ])
}

fn median(windows: &[Window], value: fn(&Window) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = windows.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn largest(windows: &[Window], value: fn(&Window) -> Option<f64>) -> Option<f64> {
    windows.iter().filter_map(value).max_by(f64::total_cmp)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a report")]
fn whole(value: f64) -> usize {
    value.round().max(0.0) as usize
}

#[allow(clippy::cast_precision_loss, reason = "points of a curve")]
fn lossy(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(worker_mib: impl Fn(u32) -> f64) -> Vec<Window> {
        (0..100).map(|number| Window { worker_mib: Some(worker_mib(number)), ..Window::default() }).collect()
    }

    #[test]
    fn growth_is_a_drift_and_noise_is_none() {
        let growing = holding(|number| 20.0 + f64::from(number) / 2.0);
        assert_eq!(drifts(&growing, LONG), ["MiB of the oldest worker grew from 38.5 to 63.5"]);
        assert!(drifts(&growing, LONG - 1).is_empty());
        let slower =
            (0..100).map(|number| Window { ended_per_s: 4_000.0 / f64::from(1 + number / 50), ..Window::default() });
        let slower: Vec<Window> = slower.collect();
        assert_eq!(drifts(&slower, LONG), ["ms from one end to the next grew from 0.2 to 0.5"]);
        let files = |mib: fn(u32) -> f64| -> Vec<Window> {
            (0..100).map(|number| Window { indexes_mib: Some(mib(number)), ..Window::default() }).collect()
        };
        assert_eq!(
            drifts(&files(|number| 10.0 * f64::from(number)), LONG),
            ["MiB of indexes grew from 490.0 to 990.0"]
        );
        assert!(drifts(&files(|number| 300.0 + 40.0 * f64::from(number / 30)), LONG).is_empty(), "ever rarer steps");
        let logs: Vec<Window> =
            (0..100).map(|number| Window { log_mib: Some(4.0 * f64::from(number)), ..Window::default() }).collect();
        assert_eq!(drifts(&logs, LONG), ["MiB of the log grew from 148.0 to 348.0"]);
        let noisy = holding(|number| 20.0 + f64::from(number % 7));
        assert!(drifts(&noisy, LONG).is_empty());
    }

    #[test]
    fn a_stream_that_dries_up_or_loses_something_is_told_of() {
        let known = holding(|_| 20.0);
        assert_eq!(gaps(&known, 100).len(), 1);
        let ended = |window: Window| Window { ended_per_s: 60.0, ..window };
        let known: Vec<Window> = known.into_iter().map(ended).collect();
        assert!(gaps(&known, 100).is_empty());
        let blind: Vec<Window> = known.into_iter().map(|window| Window { worker_mib: None, ..window }).collect();
        assert_eq!(gaps(&blind, 100).len(), 1);
        let beat = |appended: u64| {
            let beat = Beat { appended, ..Beat::default() };
            [Record { at: 0, process: "worker-0-7".into(), entry: Entry::Beat(beat) }]
        };
        assert!(lost(&beat(0), 100).is_none());
        assert!(lost(&beat(1), 100).is_some());
    }
}
