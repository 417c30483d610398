//! Instances: extend, fence, and what an instance holds.
//!
//! A lease is valid while its instance is not *fenced*. The instance's row is where a heartbeat and a reclaim meet: a
//! heartbeat extends `expires_at` if the row is not fenced, a reclaim fences the row if `expires_at` has passed, and
//! the database lets one of the two come first. Fencing is final; the instance goes on under a new id. So one row is
//! written per heartbeat, however many commands run, and a heartbeat waits for no lock on a command: not even for that
//! of a handler's open `complete_in`.

use std::time::Duration;

use sea_orm::DbErr;
use uuid::Uuid;

use crate::command::CommandId;
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::store::Store;
use crate::store::claim::number;
use crate::store::sql::Columns;

/// A command that the database leases to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) id: CommandId,
    pub(crate) attempt: u32,
}

/// How long a fenced instance is remembered. A claim that was under way when it was fenced commits no later than this, as
/// long as the server ends transactions that say nothing for so long; whatever it took is then still found. An append
/// under a lease runs on the application's connections, of which that is not so: see [`Store::held`].
const REMEMBER_FENCED: Duration = Duration::from_secs(300);

/// Who is there, and who was.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    pub(crate) fenced: Vec<InstanceId>,
    /// How many are not fenced.
    pub(crate) live: usize,
}

impl Store {
    pub(crate) async fn register(&self, instance: InstanceId, name: &str, lease: Duration) -> Result<()> {
        let sql = self
            .sql("INSERT INTO orchestratum_instances (id, name, started_at, expires_at) VALUES (")
            .bind(instance.as_uuid())
            .text(", ")
            .bind(name)
            .text(", ")
            .now()
            .text(", ")
            .now()
            .text(" + ")
            .bind(micros(lease))
            .text(")");
        self.execute(sql).await?;
        Ok(())
    }

    /// Extends every lease of the instance. `false`: it has been fenced, and whatever it holds belongs to others.
    pub(crate) async fn extend(&self, instance: InstanceId, lease: Duration) -> Result<bool> {
        let sql = self
            .sql("UPDATE orchestratum_instances SET expires_at = ")
            .now()
            .text(" + ")
            .bind(micros(lease))
            .text(" WHERE fenced_at IS NULL AND id = ")
            .bind(instance.as_uuid());
        Ok(self.execute(sql).await? == 1)
    }

    /// Forgets an instance that ends. Unless it knows that nothing is left, it is fenced instead: a claim that is still
    /// under way is then found by the others.
    pub(crate) async fn unregister(&self, instance: InstanceId, nothing_left: bool) -> Result<()> {
        let sql = if nothing_left {
            self.sql("DELETE FROM orchestratum_instances")
        } else {
            self.sql("UPDATE orchestratum_instances SET fenced_at = ").now()
        };
        self.execute(sql.text(" WHERE fenced_at IS NULL AND id = ").bind(instance.as_uuid())).await?;
        Ok(())
    }

    /// Which of these commands a user has asked to cancel while they run.
    pub(crate) async fn cancel_requests(&self, held: &[CommandId]) -> Result<Vec<CommandId>> {
        let mut canceled = Vec::new();
        for held in held.chunks(1_000) {
            let ids: Vec<Uuid> = held.iter().map(|id| id.as_uuid()).collect();
            let sql = self
                .sql("SELECT id FROM orchestratum_live WHERE cancel_requested AND state = 'running' AND id")
                .any(&ids);
            for row in self.rows(sql).await? {
                canceled.push(Columns::new(&row).take::<Uuid>()?.into());
            }
        }
        Ok(canceled)
    }

    /// What the database leases to these instances, and to any that it does not know, among the next `window` live commands
    /// by id; and behind which id the next window begins, `None` at the end of the table.
    ///
    /// An instance is in the table before anything is leased to it and until nothing is, unless somebody removed it by
    /// hand, or a transaction that saw it unfenced stayed open for longer than fenced ones are remembered.
    pub(crate) async fn held(
        &self,
        instances: &[InstanceId],
        after: Option<Uuid>,
        window: usize,
    ) -> Result<(Vec<(InstanceId, Held)>, Option<Uuid>)> {
        let after = after.unwrap_or(Uuid::nil());
        let sql = self
            .sql("SELECT id FROM orchestratum_live WHERE id > ")
            .bind(after)
            .text(" ORDER BY id LIMIT 1 OFFSET ")
            .bind(i64::try_from(window.saturating_sub(1)).unwrap_or(i64::MAX));
        let last = self.rows(sql).await?.first().map(|row| Columns::new(row).take::<Uuid>()).transpose()?;
        let instances: Vec<Uuid> = instances.iter().map(|instance| instance.as_uuid()).collect();
        let sql = self
            .sql("SELECT instance, id, attempt FROM orchestratum_live AS l WHERE state = 'running' AND (instance")
            .any(&instances)
            .text(" OR NOT EXISTS (SELECT 1 FROM orchestratum_instances AS i WHERE i.id = l.instance)) AND id > ")
            .bind(after);
        let sql = match last {
            Some(last) => sql.text(" AND id <= ").bind(last),
            None => sql,
        };
        let rows = self.rows(sql).await?;
        let held = rows.iter().map(|row| {
            let mut columns = Columns::new(row);
            let instance = columns.take::<Uuid>()?.into();
            Ok((instance, Held { id: columns.take::<Uuid>()?.into(), attempt: number(columns.take()?) }))
        });
        Ok((held.collect::<Result<_, DbErr>>()?, last))
    }

    /// Fences instances whose lease has expired, but for the one that asks: whether that is expired its heartbeat finds
    /// out, and others.
    pub(crate) async fn fence(&self, asking: InstanceId) -> Result<Instances> {
        let now = self.backend.now();
        let sql = self.sql("SELECT id, fenced_at, CASE WHEN expires_at <= ").text(now);
        let sql = sql.text(" THEN 1 ELSE 0 END AS expired FROM orchestratum_instances");
        let mut instances = Instances::default();
        for row in self.rows(sql).await? {
            let mut columns = Columns::new(&row);
            let (id, fenced_at) = (columns.take::<Uuid>()?, columns.take::<Option<i64>>()?);
            let has_expired = columns.take::<i32>()? != 0;
            let may_fence = has_expired && id != asking.as_uuid();
            let is_fenced = fenced_at.is_some()
                || may_fence
                    && match self.fence_one(id).await {
                        // Whoever has locked its row holds up no other.
                        Err(error) if error.is_conflict() => false,
                        fenced => fenced?,
                    };
            if is_fenced {
                instances.fenced.push(id.into());
            } else {
                instances.live += 1;
            }
        }
        Ok(instances)
    }

    /// By primary key, so that no heartbeat of another instance is waited for; `false` when its own came first.
    async fn fence_one(&self, id: Uuid) -> Result<bool> {
        let sql = self
            .sql("UPDATE orchestratum_instances SET fenced_at = ")
            .now()
            .text(" WHERE id = ")
            .bind(id)
            .text(" AND fenced_at IS NULL AND expires_at <= ")
            .now();
        Ok(self.execute(sql).await? == 1)
    }

    /// Forgets a fenced instance of which a walk that began `walk` ago has found nothing, unless something could have
    /// been leased to it since.
    pub(crate) async fn forget(&self, instance: InstanceId, walk: Duration) -> Result<()> {
        let sql = self
            .sql("DELETE FROM orchestratum_instances WHERE id = ")
            .bind(instance.as_uuid())
            .text(" AND fenced_at < ")
            .now()
            .text(" - ")
            .bind(micros(REMEMBER_FENCED + walk));
        self.execute(sql).await?;
        Ok(())
    }
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
