//! The only module that names the databases.
//!
//! Everything else asks a question in words ([`Backend::locks_rows`], [`Backend::now`], …) and writes the portable way
//! once; where a database has a faster way, the code that takes it stands beside the portable one and says why.

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, IsolationLevel, RuntimeErr, SqliteTransactionMode, TransactionOptions,
};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::store::sql::Kind;

mod connect;
mod files;
mod listen;

pub(crate) use connect::{Purpose, connect, connect_like, heed, search_path};
pub(crate) use listen::CANCEL;

/// One of the databases that we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
    Mysql,
}

impl Backend {
    pub(crate) fn of(connection: &impl ConnectionTrait) -> Result<Self> {
        match connection.get_database_backend() {
            DbBackend::Sqlite => Ok(Self::Sqlite),
            DbBackend::Postgres => Ok(Self::Postgres),
            DbBackend::MySql => Ok(Self::Mysql),
            other => Err(Error::InvalidConfig {
                option: "connection".to_owned(),
                problem: format!("{other:?} is none of SQLite, PostgreSQL, MySQL and MariaDB"),
            }),
        }
    }

    pub(crate) const fn to_sea_orm(self) -> DbBackend {
        match self {
            Self::Sqlite => DbBackend::Sqlite,
            Self::Postgres => DbBackend::Postgres,
            Self::Mysql => DbBackend::MySql,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
            Self::Mysql => "MySQL or MariaDB",
        }
    }

    /// The instant that decides everything, in microseconds: the start of the statement by the server's clock.
    ///
    /// SQLite has no server: its clock is the machine's, with a resolution of a millisecond.
    pub(crate) const fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "cast(unixepoch('subsec') * 1000 as integer) * 1000",
            Self::Postgres => "(extract(epoch from statement_timestamp()) * 1000000)::bigint",
            Self::Mysql => "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6))",
        }
    }

    /// How what differs between the rows of an insert is given.
    pub(crate) const fn lists(self) -> Lists {
        match self {
            Self::Postgres => Lists::Arrays,
            // It cannot name the columns of a list of values.
            Self::Mysql => Lists::Json,
            Self::Sqlite => Lists::Values,
        }
    }

    /// The value in a column of such a list.
    pub(crate) fn listed(self, column: &str, kind: Kind) -> String {
        let (null_id, id) = match self {
            Self::Sqlite => return column.to_owned(),
            Self::Postgres => (format!("'{}'::uuid", Uuid::nil()), column.to_owned()),
            Self::Mysql => (format!("UNHEX('{}')", Uuid::nil().simple()), format!("UNHEX({column})")),
        };
        match kind {
            Kind::Id => id,
            Kind::NullableId => format!("NULLIF({id}, {null_id})"),
            Kind::NullableText => format!("NULLIF({column}, '')"),
            Kind::NullableNumber => format!("NULLIF({column}, -1)"),
            Kind::Text | Kind::Small | Kind::Int | Kind::Big => column.to_owned(),
        }
    }

    /// Whether arrays can be bound as one value.
    pub(crate) const fn binds_arrays(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// Whether `INSERT`, `UPDATE` and `DELETE` can return the rows they changed, also as a part of a larger statement.
    pub(crate) const fn chains_writes(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// Whether the schema has a view that takes both rows of a new command in one insert. Only SQLite can write through
    /// one; there each statement is a call of the driver's thread, and a transaction of two inserts four.
    pub(crate) const fn has_append_view(self) -> bool {
        matches!(self, Self::Sqlite)
    }

    /// Whether one row can be locked while others are written. SQLite locks the whole file, with `BEGIN IMMEDIATE`.
    pub(crate) const fn locks_rows(self) -> bool {
        matches!(self, Self::Postgres | Self::Mysql)
    }

    /// Whether a listener hears of commits of other processes.
    pub(crate) const fn notifies(self) -> bool {
        matches!(self, Self::Postgres)
    }

    /// Whether every commit changes a file that this process can see.
    pub(crate) const fn is_a_file(self) -> bool {
        matches!(self, Self::Sqlite)
    }

    /// What lets a transaction wait for a lock no longer than an append waits for its answer, where the server would wait
    /// for ever. MariaDB gives up after 50 seconds by itself, SQLite after ten.
    pub(crate) const fn append_patience(self) -> Option<&'static str> {
        match self {
            Self::Postgres => Some("SET LOCAL lock_timeout = '25s'"),
            Self::Sqlite | Self::Mysql => None,
        }
    }

    /// What follows an `INSERT` so that a taken unique key skips the row.
    pub(crate) const fn on_unique_conflict_skip(self) -> &'static str {
        match self {
            Self::Sqlite => " ON CONFLICT DO NOTHING",
            Self::Postgres => " ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING",
            // `INSERT IGNORE` would hide other errors as well.
            Self::Mysql => " ON DUPLICATE KEY UPDATE unique_key = orchestratum_live.unique_key",
        }
    }

    /// What follows an `INSERT` so that a queue which is paused already stays so.
    pub(crate) const fn on_paused_skip(self) -> &'static str {
        match self {
            Self::Sqlite | Self::Postgres => " ON CONFLICT DO NOTHING",
            Self::Mysql => " ON DUPLICATE KEY UPDATE name = orchestratum_queues.name",
        }
    }

    /// What follows a `SELECT` that must see what is committed now, also in a caller's repeatable-read transaction.
    pub(crate) const fn current_read(self) -> &'static str {
        match self {
            Self::Mysql => " LOCK IN SHARE MODE",
            Self::Sqlite | Self::Postgres => "",
        }
    }

    /// What follows the name of the live table in a claim.
    pub(crate) const fn due_index_hint(self) -> &'static str {
        match self {
            // With few rows the optimizer prefers the primary key, and then locks every row that it walks past.
            Self::Mysql => " FORCE INDEX (ix_orchestratum_live__due)",
            Self::Sqlite | Self::Postgres => "",
        }
    }

    /// Whether the rows of a list of ids are found by joining the list as a table.
    ///
    /// MariaDB scans a small table rather than look up some of its rows, whatever the index hint, and a scan that locks
    /// waits for rows that it does not even want. A join in a fixed order always looks up.
    pub(crate) const fn joins_ids(self) -> bool {
        matches!(self, Self::Mysql)
    }

    /// Whether `GROUP BY` over the leading columns of an index reads one entry a group. MySQL and MariaDB do (a loose
    /// index scan); elsewhere a recursive query jumps from group to group.
    pub(crate) const fn skips_through_groups(self) -> bool {
        matches!(self, Self::Mysql)
    }

    /// The function that gives the smallest of its arguments.
    pub(crate) const fn least(self) -> &'static str {
        match self {
            Self::Sqlite => "min",
            Self::Postgres | Self::Mysql => "LEAST",
        }
    }

    /// How many claims, and how many settlements, may be under way at once. SQLite has one writer.
    pub(crate) const fn transactions_at_once(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres | Self::Mysql => 2,
        }
    }

    /// Begins a transaction that writes.
    pub(crate) fn write_transaction(self) -> TransactionOptions {
        TransactionOptions {
            // A gap lock of MySQL's default level would make claims and appends wait for each other.
            isolation_level: matches!(self, Self::Mysql).then_some(IsolationLevel::ReadCommitted),
            access_mode: None,
            // A deferred transaction that reads before it writes fails when another has written meanwhile, however
            // long it is willing to wait.
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        }
    }

    /// Begins a transaction of the application that writes: the database's own default, but never deferred.
    pub(crate) const fn application_transaction(self) -> TransactionOptions {
        TransactionOptions {
            isolation_level: None,
            access_mode: None,
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        }
    }

    /// The most values that one statement may bind.
    pub(crate) const fn max_values(self) -> usize {
        match self {
            Self::Sqlite => 32_000,
            Self::Postgres | Self::Mysql => 65_000,
        }
    }
}

/// How many rows are given to one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// One array a column; those of the driver have no nulls.
    Arrays,
    /// One JSON text.
    Json,
    /// One bound value for each.
    Values,
}

/// What the driver calls an error.
#[allow(dead_code, reason = "which drivers exist is a matter of features")]
enum Code {
    /// SQLSTATE.
    Postgres(String),
    /// The server's number.
    Mysql(u16),
    /// The primary code; extended ones carry it in their low byte.
    Sqlite(u32),
}

/// Whether the transaction lost against another one and may be tried again: a deadlock, a serialization
/// failure, a lock that was waited for too long, a certification conflict of Galera, a file that stayed busy.
pub(crate) fn is_conflict(error: &DbErr) -> bool {
    match code(error) {
        Some(Code::Postgres(code)) => matches!(code.as_str(), "40001" | "40P01" | "55P03"),
        Some(Code::Mysql(code)) => matches!(code, 1213 | 1205 | 1020),
        Some(Code::Sqlite(_)) => is_file_busy(error),
        None => false,
    }
}

/// Whether a lock or the file has been waited for as long as the connection is willing to.
pub(crate) fn has_waited(error: &DbErr) -> bool {
    match code(error) {
        Some(Code::Postgres(code)) => code == "55P03",
        Some(Code::Mysql(code)) => code == 1205,
        Some(Code::Sqlite(_)) => is_file_busy(error),
        None => false,
    }
}

/// Whether a writer has held the file for longer than the connection was willing to wait.
pub(crate) fn is_file_busy(error: &DbErr) -> bool {
    matches!(code(error), Some(Code::Sqlite(5 | 6)))
}

/// Whether SQLite may have found no room for a write: a full disk, or an I/O error, which it also says of a quota and of
/// the file beside the log.
pub(crate) fn is_file_full(error: &DbErr) -> bool {
    matches!(code(error), Some(Code::Sqlite(10 | 13)))
}

/// Whether SQLite has refused a write because the connection may only read.
#[cfg(feature = "sqlite")]
fn is_of_a_reader(error: &DbErr) -> bool {
    matches!(code(error), Some(Code::Sqlite(8)))
}

/// Whether the same statement may succeed later: a conflict, or a database that is away, full, read-only or starting.
pub(crate) fn is_transient(error: &DbErr) -> bool {
    if is_conflict(error) || matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)) {
        return true;
    }
    match code(error) {
        // Connection, read-only transaction, resources (disk full, too many connections), operator, system.
        Some(Code::Postgres(code)) => {
            code == "25006" || ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        }
        // Too many connections, disk full (three times), shutdown, killed, read-only (twice), gone (twice), not ready.
        Some(Code::Mysql(code)) => {
            matches!(code, 1040 | 1021 | 1026 | 1114 | 1053 | 1317 | 1927 | 1969 | 1290 | 1836 | 2006 | 2013 | 1047)
        }
        // Read-only, I/O error, disk full, cannot open, locking protocol.
        Some(Code::Sqlite(code)) => matches!(code, 8 | 10 | 13 | 14 | 15),
        None => sqlx_error(error).is_some_and(|error| !is_about_values(error)),
    }
}

/// Whether the database will never take this very data. Everything else may be mended from outside (a missing right, a
/// full disk, a table that is being altered): the engine waits for that rather than run a handler again for nothing.
pub(crate) fn is_refusal(error: &DbErr) -> bool {
    match code(error) {
        // Data, constraints, limits of the program.
        Some(Code::Postgres(code)) => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
        // Null, duplicate, too large a packet, range, wrong value, too long, foreign key, JSON, check (twice).
        Some(Code::Mysql(code)) => matches!(code, 1048 | 1062 | 1153 | 1264 | 1366 | 1406 | 1452 | 3140 | 3819 | 4025),
        // Too big, constraint, type mismatch, range.
        Some(Code::Sqlite(code)) => matches!(code, 18 | 19 | 20 | 25),
        None => match sqlx_error(error) {
            Some(error) => is_about_values(error),
            None => !matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_)),
        },
    }
}

fn is_about_values(error: &sea_orm::sqlx::Error) -> bool {
    use sea_orm::sqlx::Error as E;
    matches!(error, E::RowNotFound | E::ColumnDecode { .. } | E::Decode(_) | E::Encode(_))
}

fn sqlx_error(error: &DbErr) -> Option<&sea_orm::sqlx::Error> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error))
        | DbErr::Conn(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

fn code(error: &DbErr) -> Option<Code> {
    let error = sqlx_error(error)?.as_database_error()?;
    #[cfg(feature = "mysql")]
    if let Some(error) = error.try_downcast_ref::<sea_orm::sqlx::mysql::MySqlDatabaseError>() {
        return Some(Code::Mysql(error.number()));
    }
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<sea_orm::sqlx::postgres::PgDatabaseError>() {
        return Some(Code::Postgres(error.code().to_owned()));
    }
    error.code()?.parse::<u32>().ok().map(|code| Code::Sqlite(code & 0xff))
}
