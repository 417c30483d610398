//! Claim: what is due becomes running, under a new lease.
//!
//! Commands of one queue, key and priority form a *lane*. A claim names its lane, so that the due index is read from
//! one position on and nothing else is walked past: neither a million commands of a key that this program does not
//! know, nor a million scheduled ones of a higher priority.

use sea_orm::{DatabaseTransaction, DbErr};
use uuid::Uuid;

use crate::command::CommandId;
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::instant::Timestamp;
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
    /// Microseconds until the first live command of the lane is due; it may be running already.
    pub(crate) due_in_micros: i64,
}

/// A command under a lease of this instance.
#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) id: CommandId,
    pub(crate) attempt: u32,
    pub(crate) run_at: Timestamp,
    pub(crate) queue: String,
    pub(crate) key: String,
    pub(crate) priority: i16,
    pub(crate) payload: String,
    pub(crate) timeout_ms: i64,
    pub(crate) retry_count: u32,
    pub(crate) failures: u32,
    pub(crate) retry_policy: Option<String>,
    pub(crate) follow_ups: Option<String>,
}

/// A row of the live table, locked for a claim.
struct Due {
    id: Uuid,
    attempt: i32,
}

const CLAIMED: &str = "l.id, l.attempt, l.run_at, l.failures, \
     c.queue, c.command_key, c.priority, c.payload, c.timeout_ms, c.retry_count, c.retry_policy, c.follow_ups";

impl Store {
    /// The lanes of unpaused queues that have live commands.
    pub(crate) async fn survey(&self) -> Result<Vec<Head>> {
        self.lanes(" WHERE queue NOT IN (SELECT name FROM orchestratum_queues)").await
    }

    /// The lanes that have live commands. One statement; it reads one index entry a lane, however many commands wait.
    pub(super) async fn lanes(&self, condition: &str) -> Result<Vec<Head>> {
        let sql = if self.backend.skips_through_groups() {
            self.sql(
                "WITH lane AS (SELECT queue, command_key, priority, min(run_at) AS run_at FROM orchestratum_live
                    GROUP BY queue, command_key, priority) ",
            )
        } else {
            // https://wiki.postgresql.org/wiki/Loose_indexscan: jump from the first entry of a lane to the next lane's.
            self.sql(
                "WITH RECURSIVE lane(queue, command_key, priority, run_at) AS (
                    SELECT * FROM (SELECT queue, command_key, priority, run_at FROM orchestratum_live
                        ORDER BY queue, command_key, priority, run_at LIMIT 1) AS first
                    UNION ALL
                    SELECT next.queue, next.command_key, next.priority, next.run_at
                    FROM lane JOIN orchestratum_live AS next ON next.id = (
                        SELECT l.id FROM orchestratum_live AS l
                        WHERE (l.queue, l.command_key, l.priority) > (lane.queue, lane.command_key, lane.priority)
                        ORDER BY l.queue, l.command_key, l.priority, l.run_at LIMIT 1)
                ) ",
            )
        };
        let sql = sql.text("SELECT queue, command_key, priority, run_at - ").now().text(" FROM lane").text(condition);
        let rows = self.rows(sql).await?;
        let heads = rows.iter().map(|row| {
            let mut columns = Columns::new(row);
            let lane = Lane { queue: columns.take()?, key: columns.take()?, priority: columns.take()? };
            Ok(Head { lane, due_in_micros: columns.take()? })
        });
        Ok(heads.collect::<Result<_, DbErr>>()?)
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

    /// Takes up to `room` due commands of a lane, the oldest first, those due before `after` left out.
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
    ) -> Result<Vec<Claimed>> {
        let mut claimed = if self.backend.chains_writes() {
            self.claim_at_once(instance, lane, after, room).await?
        } else {
            self.write(move |transaction| {
                Box::pin(async move {
                    let transaction = &*transaction;
                    self.claim_in(transaction, instance, lane, after, room).await
                })
            })
            .await?
        };
        claimed.sort_unstable_by_key(|command| (command.run_at, command.id));
        Ok(claimed)
    }

    /// One round trip. The due rows are materialized first: without it the planner may run the limited query again
    /// for each row of a join and lock more than the limit.
    async fn claim_at_once(
        &self,
        instance: InstanceId,
        lane: &Lane,
        after: Timestamp,
        room: usize,
    ) -> Result<Vec<Claimed>> {
        let sql = self.due(self.sql("WITH due AS MATERIALIZED ("), lane, after, room).text(
            " FOR UPDATE SKIP LOCKED), l AS (
                UPDATE orchestratum_live SET state = 'running', attempt = attempt + 1, instance = ",
        );
        let sql = sql
            .bind(instance.as_uuid())
            .text(" WHERE id = ANY(ARRAY(SELECT id FROM due)) AND state = 'pending' AND EXISTS (")
            .text("SELECT 1 FROM orchestratum_instances WHERE fenced_at IS NULL AND id = ")
            .bind(instance.as_uuid())
            .text(") RETURNING id, attempt, run_at, failures) SELECT ")
            .text(CLAIMED)
            .text(" FROM l JOIN orchestratum_commands c ON c.id = l.id");
        read_claimed(&self.rows(sql).await?)
    }

    /// The portable way: lock, update by primary key, read.
    async fn claim_in(
        &self,
        transaction: &DatabaseTransaction,
        instance: InstanceId,
        lane: &Lane,
        after: Timestamp,
        room: usize,
    ) -> Result<Vec<Claimed>> {
        let lock = if self.backend.locks_rows() { " FOR UPDATE SKIP LOCKED" } else { "" };
        let rows = rows_in(transaction, self.due(self.sql(""), lane, after, room).text(lock)).await?;
        let due = rows.iter().map(|row| {
            let mut columns = Columns::new(row);
            Ok(Due { id: columns.take()?, attempt: columns.take()? })
        });
        let due: Vec<Due> = due.collect::<Result<_, DbErr>>()?;
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids: Vec<Uuid> = due.iter().map(|due| due.id).collect();
        ids.sort_unstable();
        // A plain read: as a part of the update it would lock the row that the heartbeat writes.
        let sql =
            self.sql("SELECT 1 FROM orchestratum_instances WHERE fenced_at IS NULL AND id = ").bind(instance.as_uuid());
        if rows_in(transaction, sql).await?.is_empty() {
            return Ok(Vec::new());
        }
        let lease =
            |sql: Sql| sql.text("state = 'running', attempt = attempt + 1, instance = ").bind(instance.as_uuid());
        let sql = Sql::update(self.backend, "orchestratum_live", &ids, lease).text(" AND state = 'pending'");
        if execute_in(transaction, sql).await? == 0 {
            return Ok(Vec::new());
        }
        let sql = self
            .sql("SELECT ")
            .text(CLAIMED)
            .text(" FROM orchestratum_live l JOIN orchestratum_commands c ON c.id = l.id WHERE l.instance = ")
            .bind(instance.as_uuid())
            .text(" AND l.id")
            .any(&ids);
        let mut claimed = read_claimed(&rows_in(transaction, sql).await?)?;
        // A row that the update's guard left alone may be ours from before: only a grown attempt was claimed now.
        let attempts: std::collections::HashMap<_, _> = due.iter().map(|due| (due.id, due.attempt)).collect();
        claimed.retain(|command| {
            attempts.get(&command.id.as_uuid()).is_some_and(|before| i64::from(*before) < i64::from(command.attempt))
        });
        Ok(claimed)
    }

    fn due(&self, sql: Sql, lane: &Lane, after: Timestamp, room: usize) -> Sql {
        sql.text("SELECT id, attempt FROM orchestratum_live")
            .text(self.backend.due_index_hint())
            .text(" WHERE ")
            .within_lane(lane)
            .text(" AND run_at >= ")
            .bind(after.as_micros())
            .text(" AND run_at <= ")
            .now()
            .text(" AND state = 'pending' AND NOT EXISTS (SELECT 1 FROM orchestratum_queues WHERE name = ")
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

fn read_claimed(rows: &[sea_orm::QueryResult]) -> Result<Vec<Claimed>> {
    let claimed = rows.iter().map(|row| {
        let mut columns = Columns::new(row);
        Ok(Claimed {
            id: columns.take::<Uuid>()?.into(),
            attempt: number(columns.take()?),
            run_at: Timestamp::from_micros(columns.take()?),
            failures: number(columns.take()?),
            queue: columns.take()?,
            key: columns.take()?,
            priority: columns.take()?,
            payload: columns.take()?,
            timeout_ms: columns.take()?,
            retry_count: number(columns.take()?),
            retry_policy: columns.take()?,
            follow_ups: columns.take()?,
        })
    });
    Ok(claimed.collect::<Result<_, DbErr>>()?)
}

/// Counters are never negative unless somebody wrote to the table by hand; then they count as zero.
pub(super) fn number(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}
