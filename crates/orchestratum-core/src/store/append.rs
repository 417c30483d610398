//! Append: a command becomes durable.

use std::collections::{BTreeMap, HashMap};

use sea_orm::DatabaseTransaction;
use uuid::Uuid;

use crate::command::{CommandId, NewCommand, RunAt};
use crate::error::Result;
use crate::instant::Timestamp;
use crate::store::backend::Backend;
use crate::store::sql::{Column, Columns, Expression, Kind, Sql, Table};
use crate::store::{Store, execute_in, rows_in};

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) id: CommandId,
    /// `false` when a live command already held the unique key; `id` is then that command's.
    pub(crate) is_new: bool,
}

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
        ("queue", Kind::Text),
        ("command_key", Kind::Text),
        ("priority", Kind::Small),
        ("run_at", Kind::Big),
        ("from_now", Kind::Big),
        ("attempt", Kind::Int),
        ("unique_key", Kind::NullableText),
    ],
    columns: &[
        ("id", Expression::Input(0)),
        ("state", Expression::Fixed("'pending'")),
        ("queue", Expression::Input(1)),
        ("command_key", Expression::Input(2)),
        ("priority", Expression::Input(3)),
        ("run_at", Expression::PlusNowTimes(4, 5)),
        ("attempt", Expression::Input(6)),
        ("failures", Expression::Fixed("0")),
        ("losses", Expression::Fixed("0")),
        ("instance", Expression::Fixed("NULL")),
        ("cancel_requested", Expression::Fixed("false")),
        ("unique_key", Expression::Input(7)),
    ],
};

/// Statements stay below this many bytes of payload: MariaDB's `max_allowed_packet` is 16 MiB by default.
const MAX_STATEMENT_BYTES: usize = 4 * 1024 * 1024;
/// And below this many rows: beyond it a larger statement gains nothing.
const MAX_STATEMENT_ROWS: usize = 2_000;

impl Store {
    /// Appends all commands or none. Durable when it returns; the answers are in the order of the commands.
    pub(crate) async fn append(&self, commands: &[NewCommand]) -> Result<Vec<Stored>> {
        if self.backend.chains_writes() && !self.poll_only {
            let stored = fresh(commands);
            let rows = rows_of(commands, &stored, |command| command.unique_key.is_none());
            if rows.len() == commands.len() && chunks(&rows, self.backend).count() == 1 {
                self.append_at_once(commands, &rows).await?;
                return Ok(stored);
            }
        }
        self.write(move |transaction| {
            Box::pin(async move {
                let transaction = &*transaction;
                append_in(transaction, self.backend, commands, !self.poll_only).await
            })
        })
        .await
    }

    /// The same in one statement, hence in one round trip: the writes of one `WITH` commit together.
    async fn append_at_once(&self, commands: &[NewCommand], rows: &[Row<'_>]) -> Result<()> {
        let sql = self
            .sql("WITH live AS (")
            .insert(&LIVE, live_columns(rows))
            .text("), commands AS (")
            .insert(&COMMANDS, command_columns(rows))
            .text(") SELECT pg_notify('")
            .text(CHANNEL)
            .text("', n.lane) FROM unnest(")
            .bind(announcements(commands))
            .text("::text[]) AS n(lane)");
        self.rows(sql).await?;
        Ok(())
    }
}

/// Appends within a caller's transaction: nothing is retried and nothing is swallowed. Invisible to workers until the
/// caller commits.
pub(crate) async fn append_in(
    transaction: &DatabaseTransaction,
    backend: Backend,
    commands: &[NewCommand],
    notify: bool,
) -> Result<Vec<Stored>> {
    let mut stored = fresh(commands);
    let plain = rows_of(commands, &stored, |command| command.unique_key.is_none());
    for rows in chunks(&plain, backend) {
        execute_in(transaction, Sql::new(backend, "").insert(&LIVE, live_columns(rows))).await?;
        execute_in(transaction, Sql::new(backend, "").insert(&COMMANDS, command_columns(rows))).await?;
    }
    insert_unique(transaction, backend, commands, &mut stored).await?;
    if notify && backend.notifies() {
        let sql = Sql::new(backend, "SELECT pg_notify('")
            .text(CHANNEL)
            .text("', n.lane) FROM unnest(")
            .bind(announcements(commands))
            .text("::text[]) AS n(lane)");
        rows_in(transaction, sql).await?;
    }
    Ok(stored)
}

fn fresh(commands: &[NewCommand]) -> Vec<Stored> {
    commands.iter().map(|_| Stored { id: CommandId::new(), is_new: true }).collect()
}

/// A command with the id that it is to be stored under.
type Row<'a> = (&'a NewCommand, Stored);

fn rows_of<'a>(commands: &'a [NewCommand], stored: &[Stored], wanted: impl Fn(&NewCommand) -> bool) -> Vec<Row<'a>> {
    std::iter::zip(commands, stored.iter().copied()).filter(|(command, _)| wanted(command)).collect()
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
        let first: Vec<Row<'_>> = by_key.values().map(|indexes| (&commands[indexes[0]], stored[indexes[0]])).collect();
        for rows in chunks(&first, backend) {
            let sql = Sql::new(backend, "").insert(&LIVE, live_columns(rows)).text(backend.on_unique_conflict_skip());
            execute_in(transaction, sql).await?;
        }
        let holders = holders_in(transaction, backend, by_key.keys().copied()).await?;
        let holder = |command: &NewCommand| command.unique_key.as_ref().and_then(|key| holders.get(key));
        let won: Vec<Row<'_>> =
            first.into_iter().filter(|(command, stored)| holder(command) == Some(&stored.id)).collect();
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
    let most = MAX_STATEMENT_ROWS.min(backend.max_values() / COMMANDS.inputs.len());
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take(most).take_while(|(command, _)| {
            bytes += command.payload.len();
            bytes <= MAX_STATEMENT_BYTES
        });
        // One that is larger than a statement should be goes alone.
        let count = fits.count().max(1).min(rest.len());
        let (chunk, others) = rest.split_at(count);
        rest = others;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn live_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let commands = rows.iter().map(|(command, _)| *command);
    let run_at = |command: &NewCommand| match command.run_at {
        RunAt::AfterMicros(micros) => (micros, 1_i64),
        RunAt::AtMicros(micros) => (micros, 0),
    };
    vec![
        Column::each(rows.iter().map(|(_, stored)| stored.id.as_uuid())),
        Column::of(commands.clone().map(|command| command.queue.as_str())),
        Column::of(commands.clone().map(|command| command.key.as_str())),
        Column::of(commands.clone().map(|command| command.priority)),
        Column::of(commands.clone().map(|command| run_at(command).0)),
        Column::of(commands.clone().map(|command| run_at(command).1)),
        Column::Same(0_i32.into()),
        Column::of(commands.map(|command| command.unique_key.as_deref())),
    ]
}

fn command_columns(rows: &[Row<'_>]) -> Vec<Column> {
    let commands = rows.iter().map(|(command, _)| *command);
    let policy = |command: &NewCommand| serde_json::to_string(command.retry_policy.as_ref()?).ok();
    let follow_ups = |command: &NewCommand| {
        let follow_ups = &command.follow_ups;
        (!follow_ups.is_empty()).then(|| serde_json::to_string(follow_ups).ok()).flatten()
    };
    vec![
        Column::each(rows.iter().map(|(_, stored)| stored.id.as_uuid())),
        Column::of(commands.clone().map(|command| command.queue.as_str())),
        Column::of(commands.clone().map(|command| command.key.as_str())),
        Column::of(commands.clone().map(|command| command.priority)),
        Column::each(commands.clone().map(|command| command.payload.as_str())),
        Column::of(commands.clone().map(|command| command.timeout_ms)),
        Column::of(commands.clone().map(|command| command.retry_count)),
        Column::of(commands.clone().map(policy)),
        Column::of(commands.clone().map(follow_ups)),
        Column::of(commands.map(|command| command.unique_key.as_deref())),
    ]
}

/// The lanes that have something to run, and after how many microseconds, as texts that a listener reads back.
fn announcements(commands: &[NewCommand]) -> Vec<String> {
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
