//! Purge: ended commands leave the database, a few at a time.

use std::time::Duration;

use sea_orm::DbErr;
use uuid::Uuid;

use crate::command::CommandId;
use crate::error::Result;
use crate::state::State;
use crate::store::instance::micros;
use crate::store::sql::{Columns, NOT_COMPLETED, Sql};
use crate::store::{Store, execute_in, rows_in};

/// What one step of a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Purged {
    pub(crate) count: usize,
    /// Where the next step starts; `None` when the table has been walked to its end.
    pub(crate) next: Option<CommandId>,
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
                let mut old = Vec::new();
                let mut last = None;
                for row in &rows {
                    let mut columns = Columns::new(row);
                    let (id, is_old): (Uuid, i32) = (columns.take()?, columns.take()?);
                    last = Some(CommandId::from(id));
                    if is_old == 1 {
                        old.push(id);
                    }
                }
                if !old.is_empty() && self.backend.locks_rows() {
                    // An operator may be about to retry one.
                    let sql = self.sql("SELECT id FROM ").rows_of("orchestratum_ended", "id", &old);
                    let rows = rows_in(transaction, sql.text(" FOR UPDATE SKIP LOCKED")).await?;
                    old = rows.iter().map(|row| Columns::new(row).take::<Uuid>()).collect::<Result<_, DbErr>>()?;
                }
                if !old.is_empty() {
                    for (table, column) in [
                        ("orchestratum_attempts", "command_id"),
                        ("orchestratum_ended", "id"),
                        ("orchestratum_commands", "id"),
                    ] {
                        execute_in(transaction, Sql::delete(self.backend, table, column, &old)).await?;
                    }
                }
                Ok(Purged { count: old.len(), next: last.filter(|_| rows.len() == limit) })
            })
        })
        .await
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
        let sql = sql
            .text("SELECT id, CASE WHEN finished_at < ")
            .now()
            .text(" - ")
            .bind(micros(age))
            .text(" AND state")
            .any_text(states.iter().map(|state| state.as_str()))
            .text(" THEN 1 ELSE 0 END FROM orchestratum_ended WHERE id > ")
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
