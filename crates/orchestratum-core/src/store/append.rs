//! Append: a command becomes durable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sea_orm::{DatabaseTransaction, TransactionOptions};
use uuid::Uuid;

use crate::command::{CommandId, NewCommand, RunAt};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::instant::Timestamp;
use crate::state::State;
use crate::store::backend::Backend;
use crate::store::settle::stored as counter;
use crate::store::sql::{Column, Columns, Expression, Kind, Sql, Table};
use crate::store::{Store, execute_in, rows_in, together};

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: CommandId,
    /// `false` when a live command already held the unique key; `id` is then that command's.
    pub(crate) is_new: bool,
}

/// The leases under which commands are to run as soon as they are stored: a claim in the append's own transaction.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) instance: InstanceId,
    /// One for each command of the append; `None`: it waits to be claimed.
    pub(crate) ids: Vec<Option<CommandId>>,
}

/// The number of an attempt that begins with the append.
pub(crate) const FIRST_ATTEMPT: u32 = 1;

/// The channel on which appends are announced.
pub(crate) const CHANNEL: &str = "orchestratum";

const COMMANDS: Table = Table {
    name: "orchestratum_commands",
    inputs: &[
        ("id", Kind::Id),
        ("queue", Kind::Text),
        ("command_key", Kind::Text),
        ("priority", Kind::Small),
        ("payload", Kind::Text),
        ("timeout_ms", Kind::Big),
        ("retry_count", Kind::Int),
        ("retry_policy", Kind::NullableText),
        ("follow_ups", Kind::NullableText),
        ("unique_key", Kind::NullableText),
    ],
    columns: &[
        ("id", Expression::Input(0)),
        ("queue", Expression::Input(1)),
        ("command_key", Expression::Input(2)),
        ("priority", Expression::Input(3)),
        ("payload", Expression::Input(4)),
        ("timeout_ms", Expression::Input(5)),
        ("retry_count", Expression::Input(6)),
        ("retry_policy", Expression::Input(7)),
        ("follow_ups", Expression::Input(8)),
        ("unique_key", Expression::Input(9)),
        ("created_at", Expression::Now),
    ],
};

/// Rows of the live table: a new command's, or that of an ended one which an operator retries.
pub(super) const LIVE: Table = Table {
    name: "orchestratum_live",
    inputs: &[
        ("id", Kind::Id),
        ("state", Kind::Text),
        ("queue", Kind::Text),
        ("command_key", Kind::Text),
        ("priority", Kind::Small),
        ("run_at", Kind::Big),
        ("from_now", Kind::Big),
        ("attempt", Kind::Int),
        ("instance", Kind::NullableId),
        ("unique_key", Kind::NullableText),
    ],
    columns: &[
        ("id", Expression::Input(0)),
        ("state", Expression::Input(1)),
        ("queue", Expression::Input(2)),
        ("command_key", Expression::Input(3)),
        ("priority", Expression::Input(4)),
        ("run_at", Expression::PlusNowTimes(5, 6)),
        ("attempt", Expression::Input(7)),
        ("failures", Expression::Fixed("0")),
        ("losses", Expression::Fixed("0")),
        ("instance", Expression::Input(8)),
        ("cancel_requested", Expression::Fixed("false")),
        ("unique_key", Expression::Input(9)),
    ],
};

/// Both rows of one new command, where a view takes them: see [`Backend::has_append_view`].
const BOTH: Table = Table {
    name: "orchestratum_append",
    inputs: &[
        ("id", Kind::Id),
        ("queue", Kind::Text),
        ("command_key", Kind::Text),
        ("priority", Kind::Small),
        ("payload", Kind::Text),
        ("timeout_ms", Kind::Big),
        ("retry_count", Kind::Int),
        ("retry_policy", Kind::NullableText),
        ("follow_ups", Kind::NullableText),
        ("unique_key", Kind::NullableText),
        ("state", Kind::Text),
        ("run_at", Kind::Big),
        ("from_now", Kind::Big),
        ("attempt", Kind::Int),
        ("instance", Kind::NullableId),
    ],
    columns: &[
        ("id", Expression::Input(0)),
        ("queue", Expression::Input(1)),
        ("command_key", Expression::Input(2)),
        ("priority", Expression::Input(3)),
        ("payload", Expression::Input(4)),
        ("timeout_ms", Expression::Input(5)),
        ("retry_count", Expression::Input(6)),
        ("retry_policy", Expression::Input(7)),
        ("follow_ups", Expression::Input(8)),
        ("unique_key", Expression::Input(9)),
        ("created_at", Expression::Now),
        ("state", Expression::Input(10)),
        ("run_at", Expression::PlusNowTimes(11, 12)),
        ("attempt", Expression::Input(13)),
        ("instance", Expression::Input(14)),
    ],
};

/// The most rows of one statement: beyond it a larger one gains nothing.
const MAX_STATEMENT_ROWS: usize = 2_000;

impl Store {
    /// Appends all commands or none. Durable when it returns; the answers are in the order of the commands.
    pub(crate) async fn append(&self, commands: &[NewCommand]) -> Result<Vec<Stored>> {
        let stored = fresh(commands, None);
        if let Some(rows) = self.rows_of_one_statement(commands, &stored, None) {
            self.append_at_once(commands, &rows, None).await?;
            return Ok(stored);
        }
        self.write_as(self.append_transaction(commands), move |transaction| {
            Box::pin(async move {
                let transaction = &*transaction;
                self.limit_patience(transaction, commands).await?;
                insert_in(transaction, self.backend, commands, fresh(commands, None), None).await
            })
        })
        .await
    }

    /// The same, with leases for some of the commands. `false` in the answer: none was given, because the instance has
    /// been fenced or one of the queues is paused, and all of them wait.
    ///
    /// If it fails without an answer of the database, the leases may have been given all the same, like those of a claim.
    pub(crate) async fn append_leased(&self, commands: &[NewCommand], leases: &Leases) -> Result<(Vec<Stored>, bool)> {
        let stored = fresh(commands, Some(leases));
        if let Some(rows) = self.rows_of_one_statement(commands, &stored, Some(leases)) {
            if self.append_at_once(commands, &rows, Some(leases)).await? {
                return Ok((stored, true));
            }
            return Ok((self.append(commands).await?, false));
        }
        self.write_as(self.append_transaction(commands), move |transaction| {
            Box::pin(async move {
                let transaction = &*transaction;
                self.limit_patience(transaction, commands).await?;
                let may_lease = self.may_lease(self.sql(""), commands, leases);
                let may_lease = !rows_in(transaction, may_lease).await?.is_empty();
                let leases = may_lease.then_some(leases);
                let stored = fresh(commands, leases);
                let stored = insert_in(transaction, self.backend, commands, stored, leases).await?;
                Ok((stored, leases.is_some()))
            })
        })
        .await
    }

    /// Inserts alone lock no gaps at any level of isolation, and to ask for one costs a round trip. What a lease depends
    /// on is read without a lock but in a database whose default is `SERIALIZABLE`, for the length of one commit.
    fn append_transaction(&self, commands: &[NewCommand]) -> TransactionOptions {
        if commands.iter().all(|command| command.unique_key.is_none()) {
            self.backend.application_transaction()
        } else {
            self.backend.write_transaction()
        }
    }

    /// Whoever holds a unique key in an open transaction is waited for no longer than the caller of an append waits for
    /// its answer: else the connection would stay with the insert for as long as that transaction.
    pub(super) async fn limit_patience(
        &self,
        transaction: &DatabaseTransaction,
        commands: &[NewCommand],
    ) -> Result<()> {
        let waits = commands.iter().any(|command| command.unique_key.is_some());
        if let Some(limit) = self.backend.append_patience().filter(|_| waits) {
            execute_in(transaction, self.sql(limit)).await?;
        }
        Ok(())
    }

    /// Tells listeners of what has been committed; see [`announcements`].
    pub(crate) async fn notify(&self, messages: Vec<String>) -> Result<()> {
        self.rows(notify(self.sql(""), messages)).await?;
        Ok(())
    }

    /// The rows, if one statement can write them all.
    fn rows_of_one_statement<'a>(
        &self,
        commands: &'a [NewCommand],
        stored: &[Stored],
        leases: Option<&Leases>,
    ) -> Option<Vec<Row<'a>>> {
        let takes_them = self.backend.chains_writes() || self.backend.has_append_view() && commands.len() == 1;
        if !takes_them || self.poll_only {
            return None;
        }
        let rows = plain_rows(commands, stored, leases);
        (rows.len() == commands.len() && chunks(&rows, self.backend).count() == 1).then_some(rows)
    }

    /// The append in one statement, hence in one round trip: the writes of one `WITH`, or of one trigger, commit together.
    /// `false`: there were leases to be given, and nothing was written because they must not be.
    async fn append_at_once(&self, commands: &[NewCommand], rows: &[Row<'_>], leases: Option<&Leases>) -> Result<bool> {
        if self.backend.has_append_view() {
            let mut sql = self.sql("").insert_one(&BOTH, &both_columns(rows));
            if let Some(leases) = leases {
                sql = self.may_lease(sql.text(" WHERE EXISTS ("), commands, leases).text(")");
            }
            // SQLite does not count what a trigger has changed.
            return Ok(!self.write_rows(sql.text(" RETURNING 1")).await?.is_empty());
        }
        let (guard, only_if) = match leases {
            Some(leases) => {
                let guard = self.may_lease(self.sql("WITH lease AS MATERIALIZED ("), commands, leases);
                (guard.text("), "), " WHERE EXISTS (SELECT 1 FROM lease)")
            }
            None => (self.sql("WITH "), ""),
        };
        let sql = inserts(guard, rows, only_if);
        // Only with leases something is read that others write.
        let count = if leases.is_some() { self.execute(sql).await? } else { self.execute_once(sql).await? };
        Ok(count > 0)
    }

    /// Has a row if what waits in these queues may be leased to the instance: as in a claim, a plain read.
    fn may_lease(&self, sql: Sql, commands: &[NewCommand], leases: &Leases) -> Sql {
        let leased = std::iter::zip(commands, &leases.ids).filter(|(_, id)| id.is_some());
        let queues: BTreeSet<&str> = leased.map(|(command, _)| command.queue.as_str()).collect();
        sql.text("SELECT 1 FROM orchestratum_instances WHERE fenced_at IS NULL AND id = ")
            .bind(leases.instance.as_uuid())
            .text(" AND NOT EXISTS (SELECT 1 FROM orchestratum_queues WHERE name")
            .any_text(queues)
            .text(")")
    }
}

/// Appends within a caller's transaction: nothing is retried and nothing is swallowed. Invisible to workers until the
/// caller commits.
pub(crate) async fn append_in(
    transaction: &DatabaseTransaction,
    backend: Backend,
    commands: &[NewCommand],
    notifies: bool,
) -> Result<Vec<Stored>> {
    let stored = insert_in(transaction, backend, commands, fresh(commands, None), None).await?;
    if notifies && backend.notifies() {
        rows_in(transaction, notify(Sql::new(backend, ""), announcements(commands))).await?;
    }
    Ok(stored)
}

async fn insert_in(
    transaction: &DatabaseTransaction,
    backend: Backend,
    commands: &[NewCommand],
    mut stored: Vec<Stored>,
    leases: Option<&Leases>,
) -> Result<Vec<Stored>> {
    let plain = plain_rows(commands, &stored, leases);
    for rows in chunks(&plain, backend) {
        for sql in insert_statements(backend, rows) {
            execute_in(transaction, sql).await?;
        }
    }
    insert_unique(transaction, backend, commands, &mut stored).await?;
    Ok(stored)
}

/// What inserts these rows into both tables: one statement where one can do both, which spares a round trip.
fn insert_statements(backend: Backend, rows: &[Row<'_>]) -> Vec<Sql> {
    if backend.chains_writes() {
        return vec![inserts(Sql::new(backend, "WITH "), rows, "")];
    }
    if backend.has_append_view() && rows.len() == 1 {
        return vec![Sql::new(backend, "").insert(&BOTH, both_columns(rows))];
    }
    vec![
        Sql::new(backend, "").insert(&LIVE, live_columns(rows)),
        Sql::new(backend, "").insert(&COMMANDS, command_columns(rows)),
    ]
}

/// Behind a `WITH`: the inserts into both tables, if the condition holds.
fn inserts(sql: Sql, rows: &[Row<'_>], only_if: &str) -> Sql {
    let sql = sql.text("live AS (").insert(&LIVE, live_columns(rows)).text(only_if).text(") ");
    sql.insert(&COMMANDS, command_columns(rows)).text(only_if)
}

/// Ids for commands, those of their leases where they have one.
fn fresh(commands: &[NewCommand], leases: Option<&Leases>) -> Vec<Stored> {
    let id = |index: usize| leases.and_then(|leases| leases.ids[index]).unwrap_or_else(CommandId::new);
    (0..commands.len()).map(|index| Stored { id: id(index), is_new: true }).collect()
}

/// A command with the id that it is to be stored under, and the instance that runs it at once.
#[derive(Debug)]
struct Row<'a> {
    command: &'a NewCommand,
    id: CommandId,
    instance: Option<InstanceId>,
    retry_policy: Option<String>,
    follow_ups: Option<String>,
}

impl<'a> Row<'a> {
    fn new(command: &'a NewCommand, id: CommandId, instance: Option<InstanceId>) -> Self {
        let (retry_policy, follow_ups) = (command.stored_policy(), command.stored_follow_ups());
        Self { command, id, instance, retry_policy, follow_ups }
    }

    /// How much text it brings to a statement, about.
    fn bytes(&self) -> usize {
        self.command.payload.len() + self.follow_ups.as_ref().map_or(0, String::len)
    }
}

fn rows_of<'a>(commands: &'a [NewCommand], stored: &[Stored], leases: Option<&Leases>) -> Vec<Row<'a>> {
    let instance = |index: usize| leases.filter(|leases| leases.ids[index].is_some()).map(|leases| leases.instance);
    let rows = std::iter::zip(commands, stored).enumerate();
    rows.map(|(index, (command, stored))| Row::new(command, stored.id, instance(index))).collect()
}

/// Those without a unique key.
fn plain_rows<'a>(commands: &'a [NewCommand], stored: &[Stored], leases: Option<&Leases>) -> Vec<Row<'a>> {
    let mut rows = rows_of(commands, stored, leases);
    rows.retain(|row| row.command.unique_key.is_none());
    rows
}

/// How often a holder may end between our insert and our look at it, before we say that we lost too many races.
const VANISHING_HOLDERS: usize = 16;

/// The unique index decides who holds a key; a row that it refuses is answered with the holder's id. Keys go in sorted
/// order, so that two appends that share several keys wait for each other in one direction only.
async fn insert_unique(
    transaction: &DatabaseTransaction,
    backend: Backend,
    commands: &[NewCommand],
    stored: &mut [Stored],
) -> Result<()> {
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, command) in commands.iter().enumerate() {
        if let Some(key) = &command.unique_key {
            by_key.entry(key).or_default().push(index);
        }
    }
    for _ in 0..VANISHING_HOLDERS {
        if by_key.is_empty() {
            return Ok(());
        }
        let row = |index: usize| Row::new(&commands[index], stored[index].id, None);
        let first: Vec<Row<'_>> = by_key.values().map(|indexes| row(indexes[0])).collect();
        for rows in chunks(&first, backend) {
            let sql = Sql::new(backend, "").insert(&LIVE, live_columns(rows)).text(backend.on_unique_conflict_skip());
            execute_in(transaction, sql).await?;
        }
        let holders = holders_in(transaction, backend, by_key.keys().copied()).await?;
        let holder = |command: &NewCommand| command.unique_key.as_ref().and_then(|key| holders.get(key));
        let won: Vec<Row<'_>> = first.into_iter().filter(|row| holder(row.command) == Some(&row.id)).collect();
        by_key.retain(|key, indexes| {
            let Some(holder) = holders.get(*key) else { return true };
            for index in indexes {
                stored[*index] = Stored { id: *holder, is_new: stored[*index].id == *holder };
            }
            false
        });
        for rows in chunks(&won, backend) {
            execute_in(transaction, Sql::new(backend, "").insert(&COMMANDS, command_columns(rows))).await?;
        }
    }
    let keys: Vec<_> = by_key.keys().collect();
    Err(sea_orm::DbErr::Custom(format!(
        "the holders of the unique keys {keys:?} kept ending while they were looked at"
    ))
    .into())
}

/// The live commands that hold these unique keys, as committed now.
pub(super) async fn holders_in<'a>(
    transaction: &DatabaseTransaction,
    backend: Backend,
    keys: impl Iterator<Item = &'a str>,
) -> Result<HashMap<String, CommandId>> {
    let keys: Vec<&str> = keys.collect();
    let mut holders = HashMap::new();
    for keys in keys.chunks(1_000) {
        let sql = Sql::new(backend, "SELECT unique_key, id FROM orchestratum_live WHERE unique_key")
            .any_text(keys.iter().copied())
            .text(backend.current_read());
        for row in rows_in(transaction, sql).await? {
            let mut columns = Columns::new(&row);
            holders.insert(columns.take::<String>()?, columns.take::<Uuid>()?.into());
        }
    }
    Ok(holders)
}

/// Rows of one statement each.
fn chunks<'r, 'a>(rows: &'r [Row<'a>], backend: Backend) -> impl Iterator<Item = &'r [Row<'a>]> {
    let most = MAX_STATEMENT_ROWS.min(backend.max_values() / COMMANDS.inputs.len().max(LIVE.inputs.len()));
    let mut rest = rows;
    std::iter::from_fn(move || {
        let (chunk, others) = rest.split_at(together(rest, most, Row::bytes));
        rest = others;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn live_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let commands = rows.iter().map(|row| row.command);
    let [state, run_at, from_now, attempt, instance] = first_state(rows);
    vec![
        Column::each(rows.iter().map(|row| row.id.as_uuid())),
        state,
        Column::of(commands.clone().map(|command| command.queue.as_str())),
        Column::of(commands.clone().map(|command| command.key.as_str())),
        Column::of(commands.clone().map(|command| command.priority)),
        run_at,
        from_now,
        attempt,
        instance,
        Column::of(commands.map(|command| command.unique_key.as_deref())),
    ]
}

/// State, instant, whether that is from now, attempt and instance: those before a claim, or after it.
fn first_state(rows: &[Row<'_>]) -> [Column; 5] {
    let run_at = |row: &Row<'_>| match row.command.run_at {
        RunAt::AfterMicros(micros) => (micros, 1_i64),
        RunAt::AtMicros(micros) => (micros, 0),
    };
    let leased = rows.iter().map(|row| row.instance.is_some());
    [
        Column::of(leased.clone().map(|leased| if leased { State::Running } else { State::Pending }.as_str())),
        Column::of(rows.iter().map(|row| run_at(row).0)),
        Column::of(rows.iter().map(|row| run_at(row).1)),
        Column::of(leased.map(|leased| counter(if leased { FIRST_ATTEMPT } else { 0 }))),
        Column::of(rows.iter().map(|row| row.instance.map(InstanceId::as_uuid))),
    ]
}

fn command_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let commands = rows.iter().map(|row| row.command);
    vec![
        Column::each(rows.iter().map(|row| row.id.as_uuid())),
        Column::of(commands.clone().map(|command| command.queue.as_str())),
        Column::of(commands.clone().map(|command| command.key.as_str())),
        Column::of(commands.clone().map(|command| command.priority)),
        Column::each(commands.clone().map(|command| command.payload.as_str())),
        Column::of(commands.clone().map(|command| command.timeout_ms)),
        Column::of(commands.clone().map(|command| command.retry_count)),
        Column::of(rows.iter().map(|row| row.retry_policy.as_deref())),
        Column::of(rows.iter().map(|row| row.follow_ups.as_deref())),
        Column::of(commands.map(|command| command.unique_key.as_deref())),
    ]
}

fn both_columns(rows: &[Row<'_>]) -> Vec<Column> {
    command_columns(rows).into_iter().chain(first_state(rows)).collect()
}

/// Tells listeners, in a statement that writes nothing.
fn notify(sql: Sql, messages: Vec<String>) -> Sql {
    let sql = sql.text("SELECT pg_notify('").text(CHANNEL).text("', n.message) FROM unnest(");
    sql.bind(messages).text("::text[]) AS n(message)")
}

/// The lanes that have something to claim, and after how many microseconds, as texts that a listener reads back.
pub(crate) fn announcements(commands: &[NewCommand]) -> Vec<String> {
    let now = Timestamp::now().as_micros();
    let mut lanes: HashMap<(&str, &str, i16), i64> = HashMap::new();
    for command in commands {
        let delay = match command.run_at {
            RunAt::AfterMicros(micros) => micros,
            RunAt::AtMicros(micros) => micros.saturating_sub(now).max(0),
        };
        let soonest = lanes.entry((&command.queue, &command.key, command.priority)).or_insert(delay);
        *soonest = delay.min(*soonest);
    }
    let text = |((queue, key, priority), delay)| serde_json::to_string(&(queue, key, priority, delay));
    lanes.into_iter().filter_map(|lane| text(lane).ok()).collect()
}
