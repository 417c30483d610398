//! Questions: one command, many commands, how it ended, how many there are.

use std::time::Duration;

use sea_orm::{DbErr, QueryResult};
use uuid::Uuid;

use crate::command::CommandId;
use crate::config::name_problem;
use crate::error::{Error, Result};
use crate::inspect::{AttemptInfo, CommandInfo, Count, Ending, Filter, Order, Page, QueueStats, Stats};
use crate::instant::Timestamp;
use crate::outcome::AttemptKind;
use crate::state::State;
use crate::store::Store;
use crate::store::claim::number;
use crate::store::settle::{Lease, stored};
use crate::store::sql::{Columns, NOT_COMPLETED, Sql};

const INFO: &str = "SELECT c.id, c.queue, c.command_key, c.priority, coalesce(l.state, e.state),
    coalesce(l.attempt, e.attempt), c.retry_count, l.failures, l.losses, c.timeout_ms, c.unique_key, c.payload,
    l.run_at, c.created_at, e.finished_at, e.duration_ms, coalesce(l.instance, e.instance), l.cancel_requested,
    e.output, e.error FROM orchestratum_commands c";

/// Counting stops here: a dashboard that counts millions slows the database that it watches.
const COUNT_CAP: i64 = 10_000;

impl Store {
    pub(crate) async fn get(&self, id: CommandId) -> Result<Option<CommandInfo>> {
        let sql = self
            .sql(INFO)
            .text(" LEFT JOIN orchestratum_live l ON l.id = c.id LEFT JOIN orchestratum_ended e ON e.id = c.id")
            .text(" WHERE c.id = ")
            .bind(id.as_uuid());
        self.rows(sql).await?.first().map(read_info).transpose()
    }

    pub(crate) async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<CommandInfo>> {
        let mut sql = filtered(self.sql(INFO), filter);
        let (after, order) = match page.order {
            Order::NewestFirst => (" AND c.id < ", " ORDER BY c.id DESC LIMIT "),
            Order::OldestFirst => (" AND c.id > ", " ORDER BY c.id LIMIT "),
        };
        if let Some(cursor) = page.after {
            sql = sql.text(after).bind(cursor.as_uuid());
        }
        let rows = self.rows(sql.text(order).bind(i64::from(page.limit))).await?;
        rows.iter().map(read_info).collect()
    }

    pub(crate) async fn count(&self, filter: &Filter) -> Result<Count> {
        let sql = self.sql("SELECT count(*) FROM (SELECT 1 AS one FROM orchestratum_commands c");
        let sql = filtered(sql, filter).text(" LIMIT ").bind(COUNT_CAP + 1).text(") AS counted");
        let rows = self.rows(sql).await?;
        Ok(capped(rows.first().map_or(Ok(0), |row| Columns::new(row).take())?))
    }

    pub(crate) async fn attempts(&self, id: CommandId) -> Result<Vec<AttemptInfo>> {
        let sql = self
            .sql("SELECT attempt, kind, error, instance, ended_at FROM orchestratum_attempts WHERE command_id = ")
            .bind(id.as_uuid())
            .text(" ORDER BY attempt");
        let rows = self.rows(sql).await?;
        let attempts = rows.iter().map(|row| {
            let mut columns = Columns::new(row);
            let attempt = number(columns.take()?);
            let kind: String = columns.take()?;
            Ok(AttemptInfo {
                attempt,
                kind: AttemptKind::parse(&kind).ok_or_else(|| {
                    DbErr::Type(format!("attempt {attempt} of command {id} has unknown kind `{kind}`"))
                })?,
                error: columns.take()?,
                instance: columns.take::<Option<Uuid>>()?.map(Into::into),
                ended_at: Timestamp::from_micros(columns.take()?).to_datetime(),
            })
        });
        Ok(attempts.collect::<Result<_, DbErr>>()?)
    }

    /// The state of a command and, once it has ended, its output and error.
    pub(crate) async fn ending(&self, id: CommandId) -> Result<Ending> {
        let sql = self
            .sql(
                "SELECT coalesce(l.state, e.state), e.output, e.error FROM orchestratum_commands c
                    LEFT JOIN orchestratum_live l ON l.id = c.id LEFT JOIN orchestratum_ended e ON e.id = c.id
                    WHERE c.id = ",
            )
            .bind(id.as_uuid());
        let rows = self.rows(sql).await?;
        let mut columns = Columns::new(rows.first().ok_or(Error::NotFound(id))?);
        Ok(Ending { state: read_state(id, columns.take()?)?, output: columns.take()?, error: columns.take()? })
    }

    /// Whether this very attempt has completed the command, and its transaction has committed.
    pub(crate) async fn has_completed(&self, lease: Lease) -> Result<bool> {
        let sql = self
            .sql("SELECT 1 FROM orchestratum_ended WHERE state = 'completed' AND id = ")
            .bind(lease.id.as_uuid())
            .text(" AND attempt = ")
            .bind(stored(lease.attempt));
        Ok(!self.rows(sql).await?.is_empty())
    }

    pub(crate) async fn stats(&self) -> Result<Stats> {
        let paused = self.paused().await?;
        let mut names: Vec<String> = self.lanes("").await?.into_iter().map(|head| head.lane.queue).collect();
        names.extend(paused.iter().cloned());
        names.sort_unstable();
        names.dedup();
        let mut stats = Stats::default();
        for queue in names {
            let paused = paused.contains(&queue);
            stats.queues.push(self.queue_stats(queue, paused).await?);
        }
        for state in [State::Completed, State::Failed, State::Canceled] {
            let sql = self
                .sql("SELECT count(*) FROM (SELECT 1 AS one FROM orchestratum_ended WHERE state = ")
                .bind(state.as_str())
                .text(if state == State::Completed { "" } else { NOT_COMPLETED })
                .text(" LIMIT ")
                .bind(COUNT_CAP + 1)
                .text(") AS counted");
            let rows = self.rows(sql).await?;
            let count: i64 = rows.first().map_or(Ok(0), |row| Columns::new(row).take())?;
            *match state {
                State::Completed => &mut stats.completed,
                State::Failed => &mut stats.failed,
                _ => &mut stats.canceled,
            } = capped(count);
        }
        Ok(stats)
    }

    async fn queue_stats(&self, queue: String, paused: bool) -> Result<QueueStats> {
        let sql = self
            .sql("SELECT state, CASE WHEN run_at <= ")
            .now()
            .text(
                " THEN 1 ELSE 0 END AS due, count(*) FROM (SELECT state, run_at FROM orchestratum_live WHERE queue = ",
            )
            .bind(queue.as_str())
            .text(" LIMIT ")
            .bind(COUNT_CAP + 1)
            .text(") AS counted GROUP BY 1, 2");
        let mut stats = QueueStats { queue, paused, ..QueueStats::default() };
        let mut total = 0;
        for row in self.rows(sql).await? {
            let mut columns = Columns::new(&row);
            let (state, due, count): (String, i32, i64) = (columns.take()?, columns.take()?, columns.take()?);
            total += count;
            let count = u64::try_from(count).unwrap_or(0);
            match (State::parse(&state), due) {
                (Some(State::Running), _) => stats.running += count,
                (Some(State::Blocked), _) => stats.blocked += count,
                (_, 1) => stats.due += count,
                _ => stats.scheduled += count,
            }
        }
        stats.capped = total > COUNT_CAP;
        Ok(stats)
    }
}

/// After `FROM orchestratum_commands c`: joins and conditions.
fn filtered(sql: Sql, filter: &Filter) -> Sql {
    let all = |ended: bool| !filter.states.is_empty() && filter.states.iter().all(|state| state.has_ended() == ended);
    // An inner join lets the database start from the table that holds just the states asked for.
    let join = |only: bool| if only { " JOIN" } else { " LEFT JOIN" };
    let mut sql = sql
        .text(join(all(false)))
        .text(" orchestratum_live l ON l.id = c.id")
        .text(join(all(true)))
        .text(" orchestratum_ended e ON e.id = c.id WHERE 1 = 1");
    if !filter.states.is_empty() {
        let column = match (all(false), all(true)) {
            (true, _) => "l.state",
            (_, true) => "e.state",
            _ => "coalesce(l.state, e.state)",
        };
        sql = sql.text(" AND ").text(column).any_text(filter.states.iter().map(|state| state.as_str()));
        if all(true) && !filter.states.contains(&State::Completed) {
            sql = sql.text(" AND e.state <> 'completed'");
        }
    }
    for (column, names) in [("c.command_key", &filter.keys), ("c.queue", &filter.queues)] {
        // What no command can be called finds none; PostgreSQL would not even read it.
        let mut possible = names.iter().map(String::as_str).filter(|name| name_problem(name).is_none()).peekable();
        if possible.peek().is_some() {
            sql = sql.text(" AND ").text(column).any_text(possible);
        } else if !names.is_empty() {
            sql = sql.text(" AND 1 = 0");
        }
    }
    if let Some(from) = filter.created_from {
        sql = sql.text(" AND c.created_at >= ").bind(Timestamp::from(from).as_micros());
    }
    if let Some(before) = filter.created_before {
        sql = sql.text(" AND c.created_at < ").bind(Timestamp::from(before).as_micros());
    }
    sql
}

fn capped(count: i64) -> Count {
    Count { value: u64::try_from(count.min(COUNT_CAP)).unwrap_or(0), at_least: count > COUNT_CAP }
}

/// An error names the command: somebody has written into its row by hand.
fn read_info(row: &QueryResult) -> Result<CommandInfo> {
    let mut columns = Columns::new(row);
    let id = columns.take::<Uuid>()?.into();
    let info = read_columns(id, &mut columns);
    Ok(info.map_err(|error| DbErr::Type(format!("command {id} cannot be read: {error}")))?)
}

/// Those behind the id.
fn read_columns(id: CommandId, columns: &mut Columns<'_>) -> Result<CommandInfo, DbErr> {
    let time = |micros: i64| Timestamp::from_micros(micros).to_datetime();
    let millis = |millis: i64| Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    Ok(CommandInfo {
        id,
        queue: columns.take()?,
        key: columns.take()?,
        priority: columns.take()?,
        state: read_state(id, columns.take()?)?,
        attempt: number(columns.take()?),
        retry_count: number(columns.take()?),
        failures: columns.take::<Option<i32>>()?.map_or(0, number),
        losses: columns.take::<Option<i32>>()?.map_or(0, number),
        timeout: millis(columns.take()?),
        unique_key: columns.take()?,
        payload: columns.take()?,
        run_at: columns.take::<Option<i64>>()?.map(time),
        created_at: time(columns.take()?),
        finished_at: columns.take::<Option<i64>>()?.map(time),
        duration: columns.take::<Option<i64>>()?.map(millis),
        instance: columns.take::<Option<Uuid>>()?.map(Into::into),
        cancel_requested: columns.take::<Option<bool>>()?.unwrap_or(false),
        output: columns.take()?,
        error: columns.take()?,
    })
}

fn read_state(id: CommandId, text: Option<String>) -> Result<State, DbErr> {
    let text = text.unwrap_or_default();
    State::parse(&text).ok_or_else(|| DbErr::Type(format!("command {id} is in the unknown state `{text}`")))
}
