//! Purge: ended commands leave the database, a few at a time.

use std::collections::HashSet;
use std::time::Duration;

use sea_orm::DatabaseTransaction;
use uuid::Uuid;

use crate::command::CommandId;
use crate::error::Result;
use crate::state::State;
use crate::store::instance::micros;
use crate::store::sql::{Columns, NOT_COMPLETED, Sql};
use crate::store::{Store, execute_in, rows_in};

/// How many commands one step of a purge looks at: so many that its commit and its round trips weigh little, and so few
/// that it holds up nothing else.
pub(crate) const BATCH: usize = 2_000;

/// What one step of a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purged {
    pub(crate) count: usize,
    /// Where the next step starts, and what the database's clock said, in microseconds; `None` when the table has been
    /// walked to its end.
    pub(crate) next: Option<(CommandId, i64)>,
}

impl Store {
    /// Looks at up to `limit` ended commands in the order of their ids, from `after` on, and removes those in one of
    /// `states` that ended longer than `age` ago, with their history.
    ///
    /// The walk is by primary key, so that no index on the time has to be written at each completion.
    pub(crate) async fn purge(
        &self,
        states: &[State],
        age: Duration,
        after: Option<CommandId>,
        limit: usize,
    ) -> Result<Purged> {
        self.write(move |transaction| {
            Box::pin(async move {
                let transaction = &*transaction;
                let rows = rows_in(transaction, self.purgeable(self.sql(""), states, age, after, limit)).await?;
                let (mut old, mut count) = (Vec::new(), 0);
                let mut last = None;
                for row in &rows {
                    let mut columns = Columns::new(row);
                    let (id, is_old, now): (Uuid, i32, i64) = (columns.take()?, columns.take()?, columns.take()?);
                    last = Some((CommandId::from(id), now));
                    if is_old == 1 {
                        old.push(id);
                    }
                }
                if !old.is_empty() {
                    // Waits for an operator who is about to retry one of them, and then finds that it is not there any more.
                    let delete =
                        Sql::delete(self.backend, "orchestratum_ended", "id", &old).text(" AND finished_at < ");
                    count = execute_in(transaction, before(delete, age)).await?;
                    if count < old.len() as u64 {
                        old = without(&old, &self.kept(transaction, &old).await?);
                    }
                }
                if !old.is_empty() {
                    for (table, column) in [("orchestratum_attempts", "command_id"), ("orchestratum_commands", "id")] {
                        execute_in(transaction, Sql::delete(self.backend, table, column, &old)).await?;
                    }
                }
                // Another one may have removed some of them meanwhile, and counts those.
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                Ok(Purged { count, next: last.filter(|_| rows.len() == limit) })
            })
        })
        .await
    }

    /// The same for those that are kept for a while, without a look at what cannot be old enough; and where the next step
    /// starts, `None` at the end of the table.
    pub(crate) async fn purge_kept(
        &self,
        states: &[State],
        kept: Duration,
        after: Option<CommandId>,
        limit: usize,
    ) -> Result<(usize, Option<CommandId>)> {
        let purged = self.purge(states, kept, after, limit).await?;
        Ok((purged.count, purged.next.map(|(id, now)| past_the_young(id, kept, now))))
    }

    /// Those of these commands that somebody has moved meanwhile: they run again, or have ended again.
    async fn kept(&self, transaction: &DatabaseTransaction, ids: &[Uuid]) -> Result<HashSet<Uuid>> {
        let mut kept = HashSet::new();
        for table in ["orchestratum_live", "orchestratum_ended"] {
            let sql = self.sql(&format!("SELECT {table}.id FROM ")).rows_of(table, "id", ids);
            for row in rows_in(transaction, sql).await? {
                kept.insert(Columns::new(&row).take::<Uuid>()?);
            }
        }
        Ok(kept)
    }

    /// The next ended commands by id, and whether each is to be removed.
    pub(super) fn purgeable(
        &self,
        sql: Sql,
        states: &[State],
        age: Duration,
        after: Option<CommandId>,
        limit: usize,
    ) -> Sql {
        let sql = before(sql.text("SELECT id, CASE WHEN finished_at < "), age)
            .text(" AND state")
            .any_text(states.iter().map(|state| state.as_str()))
            .text(" THEN 1 ELSE 0 END, ")
            .now()
            .text(" FROM orchestratum_ended WHERE id > ")
            .bind(after.map_or(Uuid::nil(), CommandId::as_uuid));
        // The few others have an index, which spares the walk past all that completed.
        let sql = match states {
            [only] if *only != State::Completed => {
                sql.text(" AND state = '").text(only.as_str()).text("'").text(NOT_COMPLETED)
            }
            _ => sql,
        };
        sql.text(" ORDER BY id LIMIT ").bind(i64::try_from(limit).unwrap_or(i64::MAX))
    }
}

/// Where a walk goes on that has come to this id at this time of the database, in microseconds.
///
/// What was appended more recently than it is kept, by the clock of whoever appended, is most of the table. Behind it is
/// what was appended under a clock that is ahead. It is kept longer by as much as that, but not longer than three times
/// as long: what is ahead by more than it is kept is walked through.
fn past_the_young(id: CommandId, kept: Duration, now: i64) -> CommandId {
    // Ids of other versions, which somebody has written by hand, do not sort by their time.
    let timestamp = id.as_uuid().get_timestamp().filter(|_| id.as_uuid().get_version_num() == 7);
    let Some(appended) = timestamp else { return id };
    let (appended, now) = (i128::from(appended.to_unix().0), i128::from(now / 1_000_000));
    let kept = i128::from(kept.as_secs());
    let last = now + kept;
    if appended <= now - kept || appended > last {
        return id;
    }
    let millis = u128::try_from(last + 1).unwrap_or(0) * 1_000;
    Uuid::from_u128(millis << 80).into()
}

/// So long ago by the database's clock, worked out once and not for each row.
fn before(sql: Sql, age: Duration) -> Sql {
    sql.text("(SELECT ").now().text(") - ").bind(micros(age))
}

fn without(ids: &[Uuid], kept: &HashSet<Uuid>) -> Vec<Uuid> {
    ids.iter().copied().filter(|id| !kept.contains(id)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::LONGEST;

    #[test]
    fn a_walk_jumps_past_what_cannot_be_old_enough() {
        let (kept, now) = (Duration::from_secs(100), 1_000_000_000_000);
        let id = |seconds: u128| CommandId::from(Uuid::from_u128(((seconds * 1_000) << 80) | (7 << 76) | (2 << 62)));
        assert_eq!(past_the_young(id(999_900), kept, now), id(999_900));
        for young in [999_901, 1_000_000, 1_000_100] {
            let next = past_the_young(id(young), kept, now);
            assert!(id(1_000_100) < next && next < id(1_000_101), "{young}");
        }
        assert_eq!(past_the_young(id(1_000_101), kept, now), id(1_000_101), "its clock is ahead");
    }

    proptest! {
        /// Whatever somebody has made of an id, and whatever the clock says.
        #[test]
        fn a_walk_goes_forward_and_past_nothing_that_is_old_enough(
            id in prop_oneof![any::<u128>(), (0_u128..1 << 48).prop_map(|millis| millis << 80 | 7 << 76 | 2 << 62)],
            behind in any::<u128>(),
            kept in prop_oneof![0_u64..5_000, 0..LONGEST.as_millis() as u64],
            now in prop_oneof![-1_000_000_000_000..250_000_000_000_000_000_i64, 0..4_000_000_000_000_000_i64],
        ) {
            let (from, kept) = (Uuid::from_u128(id), Duration::from_millis(kept));
            let next = past_the_young(from.into(), kept, now).as_uuid();
            prop_assert!(next >= from);
            // What is between the two was appended more recently than it is kept, by the clock of whoever appended.
            let between = Uuid::from_u128(id + behind % (next.as_u128() - id).max(1));
            if let Some(appended) = between.get_timestamp().filter(|_| between != from && between.get_version_num() == 7) {
                prop_assert!(i128::from(appended.to_unix().0) > i128::from(now / 1_000_000) - i128::from(kept.as_secs()));
            }
        }
    }
}
