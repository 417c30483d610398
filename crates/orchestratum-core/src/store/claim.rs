//! Claim: what is due becomes running, under a new lease.
//!
//! Commands of one queue, key and priority form a *lane*. A claim names its lane, so that the due index is read from
//! one position on and nothing else is walked past: neither a million commands of a key that this program does not
//! know, nor a million scheduled ones of a higher priority.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join;
use sea_orm::{DatabaseTransaction, DbErr, QueryResult};
use uuid::Uuid;

use crate::command::{CommandId, NewCommand};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::instant::Timestamp;
use crate::store::append::FIRST_ATTEMPT;
use crate::store::sql::{Columns, Sql};
use crate::store::{Store, execute_in, rows_in};

/// The commands that share queue, key and priority.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) queue: String,
    pub(crate) key: String,
    pub(crate) priority: i16,
}

/// A lane that has live commands.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) lane: Lane,
    /// When the first live command of the lane is due; it may be running already.
    pub(crate) due_at: Timestamp,
    /// Microseconds until then.
    pub(crate) due_in_micros: i64,
}

/// A command under a lease of this instance.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) id: CommandId,
    pub(crate) attempt: u32,
    pub(crate) lane: Arc<Lane>,
    pub(crate) payload: Arc<str>,
    pub(crate) timeout_ms: i64,
    pub(crate) retry_count: u32,
    pub(crate) failures: u32,
    pub(crate) retry_policy: Option<String>,
    pub(crate) follow_ups: Option<String>,
    /// Why its row cannot be read, where somebody has written to it by hand; then the rest is empty.
    pub(crate) damage: Option<String>,
}

impl Claimed {
    /// Reads the columns [`COMMAND`], the follow-ups first: a command that fails because the rest cannot be read has some
    /// for that.
    fn read(&mut self, wide: &mut Columns<'_>) -> Result<(), DbErr> {
        self.follow_ups = wide.take()?;
        let payload = wide.take::<Option<String>>()?;
        self.payload = payload.ok_or_else(missing)?.into();
        self.timeout_ms = wide.take()?;
        self.retry_count = number(wide.take()?);
        self.retry_policy = wide.take()?;
        Ok(())
    }

    /// How many bytes of text it has brought.
    pub(crate) fn weight(&self) -> usize {
        self.payload.len() + self.follow_ups.as_ref().map_or(0, String::len)
    }

    /// A command that was stored under a lease.
    pub(crate) fn stored(id: CommandId, command: NewCommand) -> Self {
        Self {
            id,
            attempt: FIRST_ATTEMPT,
            retry_policy: command.stored_policy(),
            follow_ups: command.stored_follow_ups(),
            lane: Arc::new(Lane { queue: command.queue, key: command.key, priority: command.priority }),
            payload: command.payload.into(),
            timeout_ms: command.timeout_ms,
            retry_count: number(command.retry_count),
            failures: 0,
            damage: None,
        }
    }
}

/// What a claim took of a lane, the oldest first.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) commands: Vec<Claimed>,
    /// When the last of them was due.
    pub(crate) reached: Option<Timestamp>,
}

/// What a claim reads of the command's row.
const COMMAND: &str = "follow_ups, payload, timeout_ms, retry_count, retry_policy";
/// What it reads of the live row before it has taken it.
const DUE: &str = "id, attempt + 1 AS attempt, run_at, failures";

/// Has a row if the instance, which follows, has a lease.
const UNFENCED: &str = "SELECT 1 FROM orchestratum_instances WHERE fenced_at IS NULL AND id = ";

/// How much later than others of its time a command may come to light, in microseconds: an append takes its instant
/// when its statement begins, and is seen when it commits. What is younger is read again by every claim; what takes
/// longer is found by the next look from the start.
const COMMITS_LATE: i64 = 200_000;

/// A command that has been claimed more often (by hand: it takes thirty years) is left alone, because the table refuses
/// the next number, and with it the whole claim.
const MOST_ATTEMPTS: i32 = 1_000_000_000;

impl Store {
    /// The lanes of unpaused queues that have live commands. Those whose names cannot be read are left out, with an event.
    pub(crate) async fn survey(&self) -> Result<Vec<Head>> {
        self.lanes(" WHERE queue NOT IN (SELECT name FROM orchestratum_queues)").await
    }

    /// The lanes that have live commands. One statement; it reads one index entry a lane, however many commands wait.
    pub(super) async fn lanes(&self, condition: &str) -> Result<Vec<Head>> {
        let sql = if self.backend.skips_through_groups() {
            self.sql(
                "WITH lane AS (SELECT queue, command_key, priority, min(run_at) AS run_at, NULL AS id
                    FROM orchestratum_live GROUP BY queue, command_key, priority) ",
            )
        } else {
            // https://wiki.postgresql.org/wiki/Loose_indexscan: jump from the first entry of a lane to the next lane's.
            self.sql(
                "WITH RECURSIVE lane(queue, command_key, priority, run_at, id) AS (
                    SELECT * FROM (SELECT queue, command_key, priority, run_at, id FROM orchestratum_live
                        ORDER BY queue, command_key, priority, run_at LIMIT 1) AS first
                    UNION ALL
                    SELECT next.queue, next.command_key, next.priority, next.run_at, next.id
                    FROM lane JOIN orchestratum_live AS next ON next.id = (
                        SELECT l.id FROM orchestratum_live AS l
                        WHERE (l.queue, l.command_key, l.priority) > (lane.queue, lane.command_key, lane.priority)
                        ORDER BY l.queue, l.command_key, l.priority, l.run_at LIMIT 1)
                ) ",
            )
        };
        let sql = sql
            .text("SELECT queue, command_key, priority, run_at, run_at - ")
            .now()
            .text(", id FROM lane")
            .text(condition);
        let rows = self.rows(sql).await?;
        let head = |row: &QueryResult| {
            let mut columns = Columns::new(row);
            let lane = Lane { queue: columns.take()?, key: columns.take()?, priority: columns.take()? };
            let due_at = Timestamp::from_micros(columns.take()?);
            Ok::<_, DbErr>(Head { lane, due_at, due_in_micros: columns.take()? })
        };
        let (mut heads, mut unreadable) = (Vec::with_capacity(rows.len()), None);
        for row in &rows {
            match head(row) {
                Ok(head) => heads.push(head),
                Err(error) => unreadable = Some((row, error)),
            }
        }
        if let Some((row, error)) = unreadable {
            if heads.is_empty() {
                return Err(error.into());
            }
            // MySQL and MariaDB keep no text that cannot be read, and name none.
            let id: Option<Uuid> = Columns::after(row, 5).take()?;
            let id = id.map(CommandId::from).map(tracing::field::display);
            tracing::error!(
                target: "orchestratum::survey::unreadable", id, %error, "the queue or key of commands like this one cannot be read"
            );
        }
        Ok(heads)
    }

    /// Microseconds until the next scheduled command of a lane is due; `None` if none is scheduled.
    pub(crate) async fn next_due_micros(&self, lane: &Lane) -> Result<Option<i64>> {
        let sql = self
            .sql("SELECT run_at - ")
            .now()
            .text(" FROM orchestratum_live WHERE ")
            .within_lane(lane)
            .text(" AND run_at > ")
            .now()
            .text(" ORDER BY run_at LIMIT 1");
        match self.rows(sql).await?.first() {
            Some(row) => Ok(Some(Columns::new(row).take::<i64>()?)),
            None => Ok(None),
        }
    }

    /// Takes up to `room` due commands of a lane, the oldest first, those due before `after` left out, unless they were
    /// due only just now.
    ///
    /// Two claims at once share nothing: rows that another transaction has locked are skipped where rows can be
    /// locked, and the update is guarded by `state = 'pending'` everywhere. An instance that has been fenced claims
    /// nothing, and nothing is claimed from a paused queue. The leases are durable when it returns; if it fails, or its
    /// future is dropped, the claim may have happened all the same, see [`Store::held`].
    pub(crate) async fn claim(
        &self,
        instance: InstanceId,
        lane: &Lane,
        after: Timestamp,
        room: usize,
    ) -> Result<Taken> {
        let mut due = if self.backend.chains_writes() {
            self.claim_at_once(instance, lane, after, room).await?
        } else if self.backend.locks_rows() {
            self.write(move |transaction| {
                Box::pin(async move { self.claim_in(&transaction, instance, lane, after, room).await })
            })
            .await?
        } else if self.rows(self.due(self.sql(""), "id", lane, after, 1)).await?.is_empty() {
            // A look that finds nothing must not take the lock of the one writer.
            Vec::new()
        } else {
            self.write(move |transaction| {
                Box::pin(async move { self.claim_as_the_writer(&transaction, instance, lane, after, room).await })
            })
            .await?
        };
        due.sort_unstable_by_key(|(run_at, command)| (*run_at, command.id));
        let reached = due.last().map(|(run_at, _)| *run_at);
        Ok(Taken { commands: due.into_iter().map(|(_, command)| command).collect(), reached })
    }

    /// One round trip. The due rows are materialized first: without it the planner may run the limited query again
    /// for each row of a join and lock more than the limit.
    async fn claim_at_once(
        &self,
        instance: InstanceId,
        lane: &Lane,
        after: Timestamp,
        room: usize,
    ) -> Result<Vec<Due>> {
        let sql = self.due(self.sql("WITH due AS MATERIALIZED ("), "id", lane, after, room).text(
            " FOR UPDATE SKIP LOCKED), l AS (
                UPDATE orchestratum_live SET state = 'running', attempt = attempt + 1, instance = ",
        );
        let sql = sql
            .bind(instance.as_uuid())
            .text(" WHERE id = ANY(ARRAY(SELECT id FROM due)) AND state = 'pending' AND EXISTS (")
            .text(UNFENCED)
            .bind(instance.as_uuid())
            .text(") RETURNING id, attempt, run_at, failures) SELECT l.id, l.attempt, l.run_at, l.failures, ")
            .text(COMMAND)
            .text(" FROM l LEFT JOIN orchestratum_commands c ON c.id = l.id");
        read_claimed(&self.write_rows(sql).await?, lane)
    }

    /// Where there is one writer and this is it: nothing can change between two statements, so that narrow and wide rows
    /// are read in one pass.
    async fn claim_as_the_writer(
        &self,
        transaction: &DatabaseTransaction,
        instance: InstanceId,
        lane: &Lane,
        after: Timestamp,
        room: usize,
    ) -> Result<Vec<Due>> {
        let sql = self.sql("SELECT l.*, ").text(COMMAND).text(" FROM (");
        let sql = self
            .due(sql, DUE, lane, after, room)
            .text(") AS l LEFT JOIN orchestratum_commands AS c ON c.id = l.id WHERE EXISTS (")
            .text(UNFENCED)
            .bind(instance.as_uuid())
            .text(")");
        let due = rows_in(transaction, sql).await?;
        // The rows are decoded while the database writes.
        let lease = self.lease(transaction, instance, ids_of(&due));
        let (leased, claimed) = join(lease, async { read_claimed(&due, lane) }).await;
        leased?;
        claimed
    }

    /// The portable way: find and lock, update by primary key, read the wide rows.
    async fn claim_in(
        &self,
        transaction: &DatabaseTransaction,
        instance: InstanceId,
        lane: &Lane,
        after: Timestamp,
        room: usize,
    ) -> Result<Vec<Due>> {
        // A plain read: as a part of the update it would lock the row that the heartbeat writes.
        if rows_in(transaction, self.sql(UNFENCED).bind(instance.as_uuid())).await?.is_empty() {
            return Ok(Vec::new());
        }
        let sql = self.due(self.sql(""), DUE, lane, after, room).text(" FOR UPDATE SKIP LOCKED");
        let due = rows_in(transaction, sql).await?;
        let ids = self.lease(transaction, instance, ids_of(&due)).await?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = || self.sql("SELECT id, ").text(COMMAND).text(" FROM orchestratum_commands WHERE id").any(&ids);
        let mut wide = rows_in(transaction, sql()).await?;
        if wide.len() < ids.len() {
            // A commit gives up its locks before new snapshots show it: what has just been appended can be leased and not
            // be seen. Who takes a lock sees it.
            wide = rows_in(transaction, sql().text(self.backend.current_read())).await?;
        }
        let wide: HashMap<Uuid, &QueryResult> =
            wide.iter().map(|row| Ok((Columns::new(row).take::<Uuid>()?, row))).collect::<Result<_, DbErr>>()?;
        let lane = Arc::new(lane.clone());
        let claimed = due.iter().map(|row| {
            let leased = Leased::read(&mut Columns::new(row))?;
            let mut wide = wide.get(&leased.id).map(|row| Columns::after(row, 1));
            Ok(leased.with(wide.as_mut(), &lane))
        });
        Ok(claimed.collect::<Result<_, DbErr>>()?)
    }

    /// Leases pending rows, which nobody else can have changed since they were read, to the instance. Returns their ids.
    async fn lease(
        &self,
        transaction: &DatabaseTransaction,
        instance: InstanceId,
        ids: Result<Vec<Uuid>, DbErr>,
    ) -> Result<Vec<Uuid>> {
        let ids = ids?;
        if ids.is_empty() {
            return Ok(ids);
        }
        let lease =
            |sql: Sql| sql.text("state = 'running', attempt = attempt + 1, instance = ").bind(instance.as_uuid());
        let sql = Sql::update(self.backend, "orchestratum_live", &ids, lease).text(" AND state = 'pending'");
        if execute_in(transaction, sql).await? != ids.len() as u64 {
            // The lock is an optimization; this count is the proof.
            return Err(DbErr::Custom("commands that were about to be claimed have changed".to_owned()).into());
        }
        Ok(ids)
    }

    /// The first due rows of the lane.
    pub(super) fn due(&self, sql: Sql, columns: &str, lane: &Lane, after: Timestamp, room: usize) -> Sql {
        sql.text("SELECT ")
            .text(columns)
            .text(" FROM orchestratum_live")
            .text(self.backend.due_index_hint())
            .text(" WHERE ")
            .within_lane(lane)
            .text(" AND run_at >= ")
            .text(self.backend.least())
            .text("(")
            .bind(after.as_micros())
            .text(", ")
            .now()
            .text(" - ")
            .bind(COMMITS_LATE)
            .text(") AND run_at <= ")
            .now()
            .text(" AND state = 'pending' AND attempt < ")
            .bind(MOST_ATTEMPTS)
            .text(" AND NOT EXISTS (SELECT 1 FROM orchestratum_queues WHERE name = ")
            .bind(lane.queue.as_str())
            .text(") ORDER BY run_at LIMIT ")
            .bind(i64::try_from(room).unwrap_or(i64::MAX))
    }
}

impl Sql {
    fn within_lane(self, lane: &Lane) -> Self {
        self.text("queue = ")
            .bind(lane.queue.as_str())
            .text(" AND command_key = ")
            .bind(lane.key.as_str())
            .text(" AND priority = ")
            .bind(lane.priority)
    }
}

/// When a command was due, and the command.
type Due = (Timestamp, Claimed);

/// The narrow row of a command that has just been claimed.
struct Leased {
    id: Uuid,
    attempt: i32,
    run_at: i64,
    failures: i32,
}

impl Leased {
    /// Reads the columns [`DUE`].
    fn read(columns: &mut Columns<'_>) -> Result<Self, DbErr> {
        Ok(Self { id: columns.take()?, attempt: columns.take()?, run_at: columns.take()?, failures: columns.take()? })
    }

    /// Reads the columns [`COMMAND`], if the row is there. One that cannot be read, or that somebody has removed, must not
    /// keep the others of its claim from being run.
    fn with(self, wide: Option<&mut Columns<'_>>, lane: &Arc<Lane>) -> Due {
        let mut claimed = Claimed {
            id: self.id.into(),
            attempt: number(self.attempt),
            failures: number(self.failures),
            lane: Arc::clone(lane),
            payload: Arc::default(),
            timeout_ms: 0,
            retry_count: 0,
            retry_policy: None,
            follow_ups: None,
            damage: None,
        };
        if let Err(error) = wide.ok_or_else(missing).and_then(|wide| claimed.read(wide)) {
            claimed.damage = Some(error.to_string());
        }
        (Timestamp::from_micros(self.run_at), claimed)
    }
}

fn missing() -> DbErr {
    DbErr::RecordNotFound("it is not in orchestratum_commands any more".to_owned())
}

/// The first column of rows, sorted: those who lock several rows lock them in one order.
fn ids_of(rows: &[QueryResult]) -> Result<Vec<Uuid>, DbErr> {
    let mut ids = rows.iter().map(|row| Columns::new(row).take::<Uuid>()).collect::<Result<Vec<_>, DbErr>>()?;
    ids.sort_unstable();
    Ok(ids)
}

/// Reads rows with the columns [`DUE`] and [`COMMAND`].
fn read_claimed(rows: &[QueryResult], lane: &Lane) -> Result<Vec<Due>> {
    let lane = Arc::new(lane.clone());
    let claimed = rows.iter().map(|row| {
        let mut columns = Columns::new(row);
        Ok(Leased::read(&mut columns)?.with(Some(&mut columns), &lane))
    });
    Ok(claimed.collect::<Result<_, DbErr>>()?)
}

/// Counters are never negative unless somebody wrote to the table by hand; then they count as zero.
pub(super) fn number(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}
