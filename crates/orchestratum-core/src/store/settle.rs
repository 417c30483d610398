//! Settle: an attempt has ended, and its command moves on.
//!
//! Complete, retry, snooze, reclaim, fail and cancel all come through here, each with its history line and its
//! follow-ups in the same transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::time::Duration;

use sea_orm::{DatabaseTransaction, DbErr};
use uuid::Uuid;

use crate::command::{CommandId, FollowUps, NewCommand};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::outcome::{AttemptKind, Budget, Ending, Outcome, apart, decide};
use crate::state::{Event, State, next};
use crate::store::append::append_in;
use crate::store::claim::number;
use crate::store::instance::{Held, micros};
use crate::store::sql::{Column, Columns, Expression, Kind, Sql, Table};
use crate::store::{Store, execute_in, rows_in, together};

/// The right to end one attempt of one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) id: CommandId,
    pub(crate) attempt: u32,
    pub(crate) instance: InstanceId,
}

/// How an attempt ended, with what the decision and the follow-ups need.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) lease: Lease,
    pub(crate) ending: Ending,
    pub(crate) retry_count: u32,
    pub(crate) max_losses: u32,
    /// The wait before a retry, in case there is one.
    pub(crate) retry_delay: Duration,
    /// The follow-ups stored with the command, as JSON text.
    pub(crate) follow_ups: Option<String>,
    /// Follow-ups computed from the output.
    pub(crate) on_success: Vec<NewCommand>,
    pub(crate) duration: Option<Duration>,
}

impl AsRef<Self> for Report {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The command is in this state now.
    Now(State),
    /// The lease was gone; nothing was changed.
    LeaseLost,
}

const ENDED: Table = Table {
    name: "orchestratum_ended",
    inputs: &[
        ("id", Kind::Id),
        ("state", Kind::Text),
        ("attempt", Kind::Int),
        ("instance", Kind::NullableId),
        ("duration_ms", Kind::NullableNumber),
        ("output", Kind::NullableText),
        ("error", Kind::NullableText),
    ],
    columns: &[
        ("id", Expression::Input(0)),
        ("state", Expression::Input(1)),
        ("attempt", Expression::Input(2)),
        ("instance", Expression::Input(3)),
        ("finished_at", Expression::Now),
        ("duration_ms", Expression::Input(4)),
        ("output", Expression::Input(5)),
        ("error", Expression::Input(6)),
    ],
};

const ATTEMPTS: Table = Table {
    name: "orchestratum_attempts",
    inputs: &[
        ("command_id", Kind::Id),
        ("attempt", Kind::Int),
        ("kind", Kind::Text),
        ("error", Kind::Text),
        ("instance", Kind::NullableId),
    ],
    columns: &[
        ("command_id", Expression::Input(0)),
        ("attempt", Expression::Input(1)),
        ("kind", Expression::Input(2)),
        ("error", Expression::Input(3)),
        ("instance", Expression::Input(4)),
        ("ended_at", Expression::Now),
    ],
};

/// A row of `orchestratum_ended` to be.
pub(super) struct Ended<'a> {
    pub(super) id: CommandId,
    pub(super) state: State,
    pub(super) attempt: u32,
    pub(super) instance: Option<InstanceId>,
    pub(super) duration: Option<Duration>,
    pub(super) output: Option<&'a str>,
    pub(super) error: Option<&'a str>,
}

/// What has become of a command that was taken back.
#[derive(Debug)]
pub(crate) struct TakenBack {
    /// That was lost.
    pub(crate) lease: Lease,
    pub(crate) key: String,
    pub(crate) state: State,
}

impl Store {
    /// Settles all reports in one transaction, each on its own merits. Durable when it returns; the answers are in the
    /// order of the reports. Nobody is told of the [`follow_ups`]: behind the commit that is the caller's.
    ///
    /// Repeating a call whose answer was lost is safe: what was settled answers [`Settled::LeaseLost`], for its lease is
    /// gone.
    pub(crate) async fn settle(&self, reports: &[impl AsRef<Report> + Sync]) -> Result<Vec<Settled>> {
        let reports: &[&Report] = &reports.iter().map(AsRef::as_ref).collect::<Vec<_>>();
        if self.backend.chains_writes()
            && let Some(lease) = plain_successes(reports)
        {
            return self.complete_at_once(lease, reports).await;
        }
        self.write(move |transaction| Box::pin(async move { self.settle_in(&transaction, reports, false).await })).await
    }

    async fn settle_in(
        &self,
        transaction: &DatabaseTransaction,
        reports: &[&Report],
        notifies: bool,
    ) -> Result<Vec<Settled>> {
        let mut settled = vec![Settled::LeaseLost; reports.len()];
        let (done, others): (Vec<usize>, Vec<usize>) =
            (0..reports.len()).partition(|index| matches!(reports[*index].ending, Ending::Completed(_)));
        self.complete_many(transaction, reports, &done, &mut settled).await?;
        for index in others {
            settled[index] = self.settle_one(transaction, reports[index]).await?;
        }
        let follow_ups = follow_ups(reports, &settled);
        if !follow_ups.is_empty() {
            append_in(transaction, self.backend, &follow_ups, notifies && !self.poll_only).await?;
        }
        Ok(settled)
    }

    /// Many successes in a handful of statements. No decision is needed: a success counts even when a cancel was asked
    /// for, so nothing has to be read before the rows are taken.
    async fn complete_many(
        &self,
        transaction: &DatabaseTransaction,
        reports: &[&Report],
        done: &[usize],
        settled: &mut [Settled],
    ) -> Result<()> {
        // One statement an instance and attempt number, nearly always one: with both as plain values the guard stays a
        // look-up by primary key. Joined as arrays it made the planner compare every row with every token.
        let mut groups: BTreeMap<(InstanceId, u32), Vec<usize>> = BTreeMap::new();
        for index in done {
            let lease = reports[*index].lease;
            groups.entry((lease.instance, lease.attempt)).or_default().push(*index);
        }
        for ((instance, attempt), indexes) in groups {
            let by_id: HashMap<Uuid, usize> =
                indexes.iter().map(|index| (reports[*index].lease.id.as_uuid(), *index)).collect();
            let mut ids: Vec<Uuid> = by_id.keys().copied().collect();
            ids.sort_unstable();
            let taken = self.take_leased(transaction, instance, attempt, &ids).await?;
            let mut rows = Vec::with_capacity(taken.len());
            for index in taken.iter().filter_map(|id| by_id.get(id)) {
                settled[*index] = Settled::Now(State::Completed);
                rows.push(reports[*index].completed());
            }
            insert_ended(transaction, self, &rows).await?;
        }
        Ok(())
    }

    /// The same in one statement, hence in one round trip, for what is nearly all there is to settle: successes of one
    /// instance and attempt number.
    async fn complete_at_once(&self, lease: Lease, reports: &[&Report]) -> Result<Vec<Settled>> {
        let rows: Vec<Ended<'_>> = reports.iter().map(|report| report.completed()).collect();
        let ids: Vec<Uuid> = reports.iter().map(|report| report.lease.id.as_uuid()).collect();
        let sql = self.sql("WITH gone AS (DELETE FROM ").rows_of("orchestratum_live", "id", &ids);
        let sql = self
            .guarded(sql, lease.instance, lease.attempt)
            .text(" RETURNING id) ")
            .insert(&ENDED, ended_columns(&rows))
            // The first column that differs between rows: the id, the first input of the table.
            .text(" JOIN gone ON gone.id = r.column1 RETURNING id");
        let mut gone = HashSet::with_capacity(ids.len());
        for row in self.write_rows(sql).await? {
            gone.insert(Columns::new(&row).take::<Uuid>()?);
        }
        let settled = |id| if gone.contains(id) { Settled::Now(State::Completed) } else { Settled::LeaseLost };
        Ok(ids.iter().map(settled).collect())
    }

    fn guarded(&self, sql: Sql, instance: InstanceId, attempt: u32) -> Sql {
        sql.text(" AND state = 'running' AND instance = ")
            .bind(instance.as_uuid())
            .text(" AND attempt = ")
            .bind(stored(attempt))
    }

    /// Removes the live rows whose lease is this one and names them: *the guard* for many.
    async fn take_leased(
        &self,
        transaction: &DatabaseTransaction,
        instance: InstanceId,
        attempt: u32,
        ids: &[Uuid],
    ) -> Result<Vec<Uuid>> {
        let sql = self.guarded(Sql::delete(self.backend, "orchestratum_live", "id", ids), instance, attempt);
        if execute_in(transaction, sql).await? == ids.len() as u64 {
            return Ok(ids.to_vec());
        }
        // Some leases were lost. A command is in one of the two tables, so what is in neither has just been removed.
        let beside = |table| format!(" AND NOT EXISTS (SELECT 1 FROM {table} AS t WHERE t.id = c.id)");
        let sql = self
            .sql("SELECT c.id FROM orchestratum_commands AS c WHERE c.id")
            .any(ids)
            .text(&beside("orchestratum_live"))
            .text(&beside("orchestratum_ended"));
        let rows = rows_in(transaction, sql).await?;
        Ok(rows.iter().map(|row| Columns::new(row).take::<Uuid>()).collect::<Result<_, DbErr>>()?)
    }

    /// Locks one leased row, decides, and applies the decision.
    async fn settle_one(&self, transaction: &DatabaseTransaction, report: &Report) -> Result<Settled> {
        let lease = report.lease;
        let lock = if self.backend.locks_rows() { " FOR UPDATE" } else { "" };
        let sql = self
            .sql("SELECT failures, losses, cancel_requested FROM orchestratum_live WHERE id = ")
            .bind(lease.id.as_uuid());
        let sql = self.guarded(sql, lease.instance, lease.attempt).text(lock);
        let rows = rows_in(transaction, sql).await?;
        let Some(row) = rows.first() else {
            return Ok(Settled::LeaseLost);
        };
        let mut columns = Columns::new(row);
        let budget = Budget {
            failures: number(columns.take()?),
            losses: number(columns.take()?),
            cancel_requested: columns.take()?,
            retry_count: report.retry_count,
            max_losses: report.max_losses,
        };
        let outcome = decide(report.ending.clone(), &budget, |used| match report.ending {
            Ending::LostLease => apart(report.retry_delay, used, fastrand::f64()),
            _ => report.retry_delay,
        });
        let state = next(State::Running, outcome.event).map_err(|error| DbErr::Custom(error.to_string()))?;
        self.apply(transaction, report, &outcome, state).await?;
        Ok(Settled::Now(state))
    }

    async fn apply(
        &self,
        transaction: &DatabaseTransaction,
        report: &Report,
        outcome: &Outcome,
        state: State,
    ) -> Result<()> {
        let lease = report.lease;
        if let Some((kind, error)) = &outcome.record {
            insert_attempt(transaction, self, lease, *kind, error).await?;
        }
        if state.has_ended() {
            let sql = self.sql("DELETE FROM orchestratum_live WHERE id = ").bind(lease.id.as_uuid());
            execute_in(transaction, sql).await?;
            let error = outcome.record.as_ref().map(|(_, error)| error.as_str());
            let ended = Ended {
                id: lease.id,
                state,
                attempt: lease.attempt,
                instance: Some(lease.instance),
                duration: report.duration,
                output: outcome.output.as_deref(),
                error,
            };
            return insert_ended(transaction, self, &[ended]).await;
        }
        let sql = self
            .sql("UPDATE orchestratum_live SET state = 'pending', instance = NULL, failures = ")
            .bind(stored(outcome.failures))
            .text(", losses = ")
            .bind(stored(outcome.losses));
        // Without a wait the command keeps its place in the lane.
        let sql = if outcome.delay.is_zero() && outcome.event != Event::Retry {
            sql
        } else {
            sql.text(", run_at = ").now().text(" + ").bind(micros(outcome.delay))
        };
        execute_in(transaction, sql.text(" WHERE id = ").bind(lease.id.as_uuid())).await?;
        Ok(())
    }

    /// What an instance held or does not know of becomes pending again, or failed when it has lost too many leases, or
    /// canceled when that was asked for. Returns what became of which: what has been settled meanwhile is left alone, and
    /// what somebody has locked, a `complete_in` for instance, is left for the next time.
    ///
    /// The terms are how many leases may be lost, and how long one lasts.
    pub(crate) async fn take_back(
        &self,
        instance: InstanceId,
        held: &[Held],
        ending: &Ending,
        terms: (u32, Duration),
    ) -> Result<Vec<TakenBack>> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        self.write(move |transaction| {
            Box::pin(async move {
                let transaction = &*transaction;
                let mut ids: Vec<Uuid> = held.iter().map(|held| held.id.as_uuid()).collect();
                ids.sort_unstable();
                let lock = if self.backend.locks_rows() { " FOR UPDATE SKIP LOCKED" } else { "" };
                let sql = self.sql("SELECT id, attempt FROM ").rows_of("orchestratum_live", "id", &ids);
                let sql = sql.text(" AND state = 'running' AND instance = ").bind(instance.as_uuid()).text(lock);
                let mut leases = HashMap::new();
                for row in rows_in(transaction, sql).await? {
                    let mut columns = Columns::new(&row);
                    leases.insert(columns.take::<Uuid>()?, number(columns.take()?));
                }
                self.settle_unattended(transaction, instance, &leases, ending, terms).await
            })
        })
        .await
    }

    /// Settles attempts of which nobody in this process knows more than their lease.
    async fn settle_unattended(
        &self,
        transaction: &DatabaseTransaction,
        instance: InstanceId,
        leases: &HashMap<Uuid, u32>,
        ending: &Ending,
        (max_losses, lease): (u32, Duration),
    ) -> Result<Vec<TakenBack>> {
        let mut ids: Vec<Uuid> = leases.keys().copied().collect();
        ids.sort_unstable();
        let (mut reports, mut keys) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        for ids in ids.chunks(1_000) {
            // Also what somebody has removed from the commands must end, or its instance would be walked for for ever.
            let sql = "SELECT l.id, c.retry_count, c.follow_ups, l.command_key FROM orchestratum_live AS l \
                       LEFT JOIN orchestratum_commands AS c ON c.id = l.id WHERE l.id";
            let sql = self.sql(sql).any(ids);
            for row in rows_in(transaction, sql).await? {
                let mut columns = Columns::new(&row);
                let id: Uuid = columns.take()?;
                reports.push(Report {
                    lease: Lease { id: id.into(), attempt: leases[&id], instance },
                    ending: ending.clone(),
                    retry_count: number(columns.take::<Option<i32>>()?.unwrap_or(0)),
                    max_losses,
                    retry_delay: lease,
                    // Whatever somebody has made of these texts, the command goes on.
                    follow_ups: columns.take().unwrap_or_else(|error| unreadable(id.into(), &error)),
                    on_success: Vec::new(),
                    duration: None,
                });
                keys.push(columns.take().unwrap_or_default());
            }
        }
        let settled = self.settle_in(transaction, &reports.iter().collect::<Vec<_>>(), true).await?;
        let taken = std::iter::zip(std::iter::zip(reports, keys), settled);
        let taken = taken.filter_map(|((report, key), settled)| match settled {
            Settled::Now(state) => Some(TakenBack { lease: report.lease, key, state }),
            Settled::LeaseLost => None,
        });
        Ok(taken.collect())
    }

    /// Completes within the handler's own transaction: the completion commits with whatever else it writes.
    ///
    /// Removes, and thereby locks, the live row: the row that a reclaim would have to write and that no heartbeat
    /// touches. Until the commit, others see the command running.
    pub(crate) async fn complete_in(&self, transaction: &DatabaseTransaction, report: &Report) -> Result<Settled> {
        let settled = self.settle_in(transaction, &[report], true).await?;
        Ok(settled[0])
    }
}

/// What is appended on account of these endings.
pub(crate) fn follow_ups(reports: &[&Report], settled: &[Settled]) -> Vec<NewCommand> {
    let mut follow_ups = Vec::new();
    for (report, settled) in std::iter::zip(reports, settled) {
        if let Settled::Now(state) = settled {
            follow_ups.extend(report.follow_ups_of(*state));
        }
    }
    follow_ups
}

/// The lease (with any id) of a batch that can be completed in one statement: nothing to decide, nothing to append.
fn plain_successes(reports: &[&Report]) -> Option<Lease> {
    let first = reports.first()?.lease;
    let plain = reports.iter().all(|report| {
        let same = (report.lease.instance, report.lease.attempt) == (first.instance, first.attempt);
        let is_success = matches!(report.ending, Ending::Completed(_));
        same && is_success && report.follow_ups.is_none() && report.on_success.is_empty()
    });
    (plain && together(reports, MAX_STATEMENT_ROWS, |report| report.weight()) == reports.len()).then_some(first)
}

impl Report {
    /// How many bytes of output and follow-ups it brings at most.
    pub(crate) fn weight(&self) -> usize {
        let output = match &self.ending {
            Ending::Completed(output) => output.as_deref().map_or(0, str::len),
            _ => 0,
        };
        output
            + self.follow_ups.as_deref().map_or(0, str::len)
            + self.on_success.iter().map(NewCommand::weight).sum::<usize>()
    }

    /// The row of a success.
    fn completed(&self) -> Ended<'_> {
        let output = match &self.ending {
            Ending::Completed(output) => output.as_deref(),
            _ => None,
        };
        Ended {
            id: self.lease.id,
            state: State::Completed,
            attempt: self.lease.attempt,
            instance: Some(self.lease.instance),
            duration: self.duration,
            output,
            error: None,
        }
    }

    fn follow_ups_of(&self, state: State) -> Vec<NewCommand> {
        let mut follow_ups = follow_ups_of(self.lease.id, self.follow_ups.as_deref(), state);
        if state == State::Completed {
            follow_ups.extend(self.on_success.iter().cloned());
        }
        follow_ups
    }
}

/// The stored follow-ups that belong to the state which a command has reached.
///
/// Ones that cannot be read, because somebody has written to the row by hand, must not keep their command from ending:
/// they stay where they are, and an event says so.
pub(super) fn follow_ups_of(id: CommandId, stored: Option<&str>, state: State) -> Vec<NewCommand> {
    let Some(stored) = stored.filter(|_| state.has_ended()) else { return Vec::new() };
    let follow_ups: FollowUps = match serde_json::from_str(stored) {
        Ok(follow_ups) => follow_ups,
        Err(error) => return unreadable(id, &error),
    };
    match state {
        State::Completed => follow_ups.success,
        State::Failed => follow_ups.failure,
        State::Canceled => follow_ups.cancel.unwrap_or(follow_ups.failure),
        State::Pending | State::Blocked | State::Running => Vec::new(),
    }
}

/// Tells of follow-ups that cannot be read; there are none, then.
pub(super) fn unreadable<T: Default>(id: CommandId, error: &dyn Display) -> T {
    tracing::error!(target: "orchestratum::follow_ups::unreadable", %id, %error, "its follow-ups cannot be read");
    T::default()
}

/// The most rows of one statement.
const MAX_STATEMENT_ROWS: usize = 2_000;

pub(super) async fn insert_ended(transaction: &DatabaseTransaction, store: &Store, rows: &[Ended<'_>]) -> Result<()> {
    let mut rest = rows;
    while !rest.is_empty() {
        let bytes = |row: &Ended<'_>| row.output.map_or(0, str::len) + row.error.map_or(0, str::len);
        let (chunk, others) = rest.split_at(together(rest, MAX_STATEMENT_ROWS, bytes));
        execute_in(transaction, store.sql("").insert(&ENDED, ended_columns(chunk))).await?;
        rest = others;
    }
    Ok(())
}

fn ended_columns(rows: &[Ended<'_>]) -> Vec<Column> {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let rows = rows.iter();
    vec![
        Column::each(rows.clone().map(|row| row.id.as_uuid())),
        Column::of(rows.clone().map(|row| row.state.as_str())),
        Column::of(rows.clone().map(|row| stored(row.attempt))),
        Column::of(rows.clone().map(|row| row.instance.map(InstanceId::as_uuid))),
        Column::of(rows.clone().map(|row| row.duration.map(millis))),
        Column::of(rows.clone().map(|row| row.output)),
        Column::of(rows.map(|row| row.error)),
    ]
}

async fn insert_attempt(
    transaction: &DatabaseTransaction,
    store: &Store,
    lease: Lease,
    kind: AttemptKind,
    error: &str,
) -> Result<()> {
    let row = vec![
        Column::each(std::iter::once(lease.id.as_uuid())),
        Column::Same(stored(lease.attempt).into()),
        Column::Same(kind.as_str().into()),
        Column::Same(error.into()),
        Column::Same(lease.instance.as_uuid().into()),
    ];
    execute_in(transaction, store.sql("").insert(&ATTEMPTS, row)).await?;
    Ok(())
}

/// Counters as the database holds them.
pub(super) fn stored(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
