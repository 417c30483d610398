//! What a user does to a command or a queue: cancel, retry, pause, resume.

use std::collections::HashSet;

use sea_orm::DatabaseTransaction;

use crate::command::CommandId;
use crate::error::{Error, Result};
use crate::instance_id::InstanceId;
use crate::state::{Event, IllegalTransition, State, next};
use crate::store::append::{CHANNEL, LIVE, append_in, holders_in};
use crate::store::backend::CANCEL;
use crate::store::claim::number;
use crate::store::settle::{Ended, follow_ups_of, insert_ended, stored, unreadable};
use crate::store::sql::{Column, Columns};
use crate::store::{Store, execute_in, rows_in};

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canceled {
    /// The command was waiting and is canceled now.
    Now,
    /// The command is running: its handler is told, and the command is canceled once the handler has stopped or its
    /// lease has expired. If the handler completes all the same, the command is completed.
    Requested,
}

impl Store {
    pub(crate) async fn cancel(&self, id: CommandId) -> Result<Canceled> {
        self.write(move |transaction| Box::pin(async move { self.cancel_in(&transaction, id).await })).await
    }

    async fn cancel_in(&self, transaction: &DatabaseTransaction, id: CommandId) -> Result<Canceled> {
        let live = match self.lock_live(transaction, id).await? {
            Some(live) => live,
            None => match self.ended_state(transaction, id).await? {
                Some((state, _)) => return Err(refuse(id, state, Event::Cancel)),
                // There is no such command, or an operator has retried it between the two looks.
                None => self.lock_live(transaction, id).await?.ok_or(Error::NotFound(id))?,
            },
        };
        let (state, attempt) = live;
        next(state, Event::Cancel).map_err(|source| Error::NotAllowed { id, source })?;
        if state == State::Running {
            let sql = self.sql("UPDATE orchestratum_live SET cancel_requested = true WHERE id = ").bind(id.as_uuid());
            execute_in(transaction, sql).await?;
            self.announce_cancel(transaction).await?;
            return Ok(Canceled::Requested);
        }
        execute_in(transaction, self.sql("DELETE FROM orchestratum_live WHERE id = ").bind(id.as_uuid())).await?;
        let ended = Ended {
            id,
            state: State::Canceled,
            attempt,
            instance: None::<InstanceId>,
            duration: None,
            output: None,
            error: None,
        };
        insert_ended(transaction, self, &[ended]).await?;
        // Under a lock, as the live row: a commit gives up its locks before new snapshots show it.
        let sql = self.sql("SELECT follow_ups FROM orchestratum_commands WHERE id = ").bind(id.as_uuid());
        let rows = rows_in(transaction, sql.text(self.backend.current_read())).await?;
        let follow_ups = match rows.first() {
            Some(row) => {
                let stored: Option<String> = Columns::new(row).take().unwrap_or_else(|error| unreadable(id, &error));
                follow_ups_of(id, stored.as_deref(), State::Canceled)
            }
            None => Vec::new(),
        };
        if !follow_ups.is_empty() {
            append_in(transaction, self.backend, &follow_ups, !self.poll_only).await?;
        }
        Ok(Canceled::Now)
    }

    /// Elsewhere the next heartbeat of the instance hears of it.
    async fn announce_cancel(&self, transaction: &DatabaseTransaction) -> Result<()> {
        if self.announces() {
            let sql = self.sql("SELECT pg_notify(").bind(CHANNEL).text(", ").bind(CANCEL).text(")");
            rows_in(transaction, sql).await?;
        }
        Ok(())
    }

    /// Puts an ended command back to pending, due now, with a fresh budget and a growing attempt number.
    pub(crate) async fn retry(&self, id: CommandId) -> Result<()> {
        self.write(move |transaction| Box::pin(async move { self.retry_in(&transaction, id).await })).await
    }

    async fn retry_in(&self, transaction: &DatabaseTransaction, id: CommandId) -> Result<()> {
        if let Some((state, _)) = self.lock_live(transaction, id).await? {
            return Err(refuse(id, state, Event::Retry));
        }
        let Some((state, attempt)) = self.ended_state(transaction, id).await? else {
            return Err(self.missing(transaction, id, Event::Retry).await?);
        };
        next(state, Event::Retry).map_err(|source| Error::NotAllowed { id, source })?;
        let sql = self
            .sql("SELECT queue, command_key, priority, unique_key FROM orchestratum_commands WHERE id = ")
            .bind(id.as_uuid());
        let rows = rows_in(transaction, sql).await?;
        let row = rows.first().ok_or(Error::NotFound(id))?;
        let mut columns = Columns::new(row);
        let (queue, key): (String, String) = (columns.take()?, columns.take()?);
        let (priority, unique_key): (i16, Option<String>) = (columns.take()?, columns.take()?);
        let row = vec![
            Column::each(std::iter::once(id.as_uuid())),
            Column::Same(State::Pending.as_str().into()),
            Column::Same(queue.into()),
            Column::Same(key.into()),
            Column::Same(priority.into()),
            Column::Same(0_i64.into()),
            Column::Same(1_i64.into()),
            Column::Same(stored(attempt).into()),
            Column::Same(None::<uuid::Uuid>.into()),
            Column::Same(unique_key.clone().into()),
        ];
        let mut sql = self.sql("").insert(&LIVE, row);
        if unique_key.is_some() {
            sql = sql.text(self.backend.on_unique_conflict_skip());
        }
        execute_in(transaction, sql).await?;
        if let Some(unique_key) = unique_key {
            let holders = holders_in(transaction, self.backend, std::iter::once(unique_key.as_str())).await?;
            match holders.get(&unique_key) {
                Some(holder) if *holder == id => {}
                Some(holder) => {
                    return Err(Error::UniqueKeyTaken { unique_key, holder: *holder });
                }
                None => {
                    return Err(sea_orm::DbErr::Custom("the holder of the unique key ended just now".into()).into());
                }
            }
        }
        execute_in(transaction, self.sql("DELETE FROM orchestratum_ended WHERE id = ").bind(id.as_uuid())).await?;
        Ok(())
    }

    /// Neither live nor ended: there is no such command, or somebody has moved it between the two looks.
    async fn missing(&self, transaction: &DatabaseTransaction, id: CommandId, event: Event) -> Result<Error> {
        Ok(match self.lock_live(transaction, id).await? {
            Some((state, _)) => refuse(id, state, event),
            None => Error::NotFound(id),
        })
    }

    async fn lock_live(&self, transaction: &DatabaseTransaction, id: CommandId) -> Result<Option<(State, u32)>> {
        let lock = if self.backend.locks_rows() { " FOR UPDATE" } else { "" };
        let sql = self.sql("SELECT state, attempt FROM orchestratum_live WHERE id = ").bind(id.as_uuid()).text(lock);
        read_state(id, &rows_in(transaction, sql).await?)
    }

    /// Locked as well, so that two operators who retry one command do not both do it.
    async fn ended_state(&self, transaction: &DatabaseTransaction, id: CommandId) -> Result<Option<(State, u32)>> {
        let lock = if self.backend.locks_rows() { " FOR UPDATE" } else { "" };
        let sql = self.sql("SELECT state, attempt FROM orchestratum_ended WHERE id = ").bind(id.as_uuid()).text(lock);
        read_state(id, &rows_in(transaction, sql).await?)
    }

    /// Every claim looks at this row; what runs goes on.
    pub(crate) async fn pause(&self, queue: &str) -> Result<()> {
        let sql = self
            .sql("INSERT INTO orchestratum_queues (name, paused_at) VALUES (")
            .bind(queue)
            .text(", ")
            .now()
            .text(")")
            .text(self.backend.on_paused_skip());
        self.execute(sql).await?;
        Ok(())
    }

    pub(crate) async fn resume(&self, queue: &str) -> Result<()> {
        self.execute(self.sql("DELETE FROM orchestratum_queues WHERE name = ").bind(queue)).await?;
        Ok(())
    }

    pub(crate) async fn paused(&self) -> Result<HashSet<String>> {
        let rows = self.rows(self.sql("SELECT name FROM orchestratum_queues")).await?;
        let names = rows.iter().map(|row| Columns::new(row).take::<String>());
        Ok(names.collect::<Result<_, _>>()?)
    }
}

fn read_state(id: CommandId, rows: &[sea_orm::QueryResult]) -> Result<Option<(State, u32)>> {
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let mut columns = Columns::new(row);
    let text: String = columns.take()?;
    let state = State::parse(&text)
        .ok_or_else(|| sea_orm::DbErr::Type(format!("command {id} is in the unknown state `{text}`")))?;
    Ok(Some((state, number(columns.take()?))))
}

fn refuse(id: CommandId, state: State, event: Event) -> Error {
    Error::NotAllowed { id, source: IllegalTransition { state, event } }
}
