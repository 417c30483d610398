//! Every statement that touches the tables.
//!
//! A command has one row in `orchestratum_commands` from its append to its purge, and beside it exactly one row in
//! either `orchestratum_live` (pending, blocked, running) or `orchestratum_ended` (completed, failed, canceled). Each
//! function here moves rows by one verb of [`state`](crate::state), in one transaction.
//!
//! **The guard.** Whoever holds a lease writes only through a condition on id, `state = 'running'`, instance and
//! attempt. The attempt number grows at every claim and never resets, so that the four together name one lease for
//! ever: a write with a stale token finds no row and changes nothing. Row counts mean something after the commit only.
//!
//! This module spawns no task and never sleeps; it retries a lost race (a deadlock, a serialization failure) a few times
//! at once, and a write for which SQLite has made room once, and leaves everything else to the caller.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, QueryResult, Statement, TransactionOptions,
    TransactionTrait,
};

use crate::error::{Error, Result};
use crate::store::backend::Backend;
use crate::store::sql::Sql;

pub(crate) mod append;
pub(crate) mod backend;
pub(crate) mod claim;
pub(crate) mod instance;
pub(crate) mod operate;
pub(crate) mod purge;
pub(crate) mod read;
pub(crate) mod settle;
pub(crate) mod sql;
#[cfg(test)]
mod tests;

pub(crate) use backend::is_transient;

/// The tables, through one pool of connections.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    /// Replaced when a call got no answer: what such a connection will do next is unknown.
    pool: Arc<Mutex<DatabaseConnection>>,
    pub(crate) backend: Backend,
    /// Every statement in a transaction of its own, for poolers that hand out a connection a transaction.
    pub(crate) poll_only: bool,
    /// The schema to look in, where it is not the server's default.
    search_path: Option<String>,
}

/// How often a transaction that lost a race is tried again before the caller hears of it. The winner has gone on by
/// the second time; the rest is for crowds.
const RACES: usize = 8;

/// How many bytes of text one statement, and one transaction of the engine, brings: MariaDB's `max_allowed_packet` is
/// 16 MiB by default, and whoever shares a transaction waits for all of it.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// How many of the first items go together: at most so many, and no more bytes than that, but one at least.
pub(crate) fn together<T>(items: &[T], most: usize, bytes_of: impl Fn(&T) -> usize) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take(most).take_while(|item| {
        bytes += bytes_of(item);
        bytes <= MOST_BYTES
    });
    fits.count().max(1).min(items.len())
}

impl Store {
    pub(crate) fn new(connection: DatabaseConnection, poll_only: bool) -> Result<Self> {
        let backend = Backend::of(&connection)?;
        Ok(Self { pool: Arc::new(Mutex::new(connection)), backend, poll_only, search_path: None })
    }

    /// The same, with the schema of its pool for the connections that are opened like it.
    pub(crate) async fn with_search_path(self) -> Result<Self> {
        let search_path = backend::search_path(&self.connection()).await?;
        Ok(Self { search_path, ..self })
    }

    /// Whether an append is announced to other processes.
    pub(crate) fn announces(&self) -> bool {
        self.backend.notifies() && !self.poll_only
    }

    /// Whether this process can hear of what others append.
    pub(crate) fn hears(&self) -> bool {
        self.announces() || self.backend.is_a_file()
    }

    /// The pool, as it is now.
    pub(crate) fn connection(&self) -> DatabaseConnection {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives up on connections that do not answer, and opens others in their place.
    pub(crate) async fn renew(&self, purpose: backend::Purpose) -> Result<()> {
        let fresh = self.connect_like(purpose).await?;
        *self.pool.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The same tables through connections of another purpose. Call it on the runtime that will use them.
    pub(crate) async fn open(&self, purpose: backend::Purpose) -> Result<Self> {
        let connection = self.connect_like(purpose).await?;
        Ok(Self { pool: Arc::new(Mutex::new(connection)), ..self.clone() })
    }

    /// Asks no connection that exists: it may be the one that does not answer.
    async fn connect_like(&self, purpose: backend::Purpose) -> Result<DatabaseConnection> {
        let search_path = self.search_path.as_deref();
        backend::connect_like(&self.connection(), purpose, self.poll_only, search_path).await
    }

    pub(crate) fn sql(&self, text: &str) -> Sql {
        Sql::new(self.backend, text)
    }

    /// Runs `work` in a transaction and commits it, again from the start when it lost a race.
    ///
    /// Dropping the future rolls back, unless the commit was already on its way: then nobody knows, and the caller
    /// must be able to ask or to repeat.
    ///
    /// The transaction is given away for the time of `work` and taken back for the commit: a future that borrowed it
    /// from here could not be sent to another thread (rust-lang/rust#102211).
    pub(crate) async fn write<'s, T>(
        &'s self,
        work: impl Fn(Arc<DatabaseTransaction>) -> BoxFuture<'s, Result<T>> + Send + Sync + 's,
    ) -> Result<T> {
        self.write_as(self.backend.write_transaction(), work).await
    }

    /// The same, in a transaction with these options.
    pub(crate) async fn write_as<'s, T>(
        &'s self,
        options: TransactionOptions,
        work: impl Fn(Arc<DatabaseTransaction>) -> BoxFuture<'s, Result<T>> + Send + Sync + 's,
    ) -> Result<T> {
        let mut races = 0;
        loop {
            match self.try_write(options, &work).await {
                Err(Error::Database(error)) if self.races(&error) && races < RACES => races += 1,
                Err(Error::Database(error)) if races < RACES && self.makes_room(&error).await => races = RACES,
                result => return result,
            }
        }
    }

    async fn try_write<'s, T>(
        &'s self,
        options: TransactionOptions,
        work: &(impl Fn(Arc<DatabaseTransaction>) -> BoxFuture<'s, Result<T>> + Send + Sync + 's),
    ) -> Result<T> {
        let transaction = Arc::new(heeded(self.connection().begin_with_options(options).await)?);
        let result = work(Arc::clone(&transaction)).await;
        let transaction = Arc::into_inner(transaction).expect("`work` has ended and kept nothing");
        match result {
            Ok(value) => {
                transaction.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // The first error is the one to tell; a rollback that fails ends with the connection.
                let _ = transaction.rollback().await;
                Err(error)
            }
        }
    }

    /// Whether to try again at once: not what has waited in vain for a lock or for the file.
    fn races(&self, error: &DbErr) -> bool {
        backend::is_conflict(error) && !backend::has_waited(error)
    }

    /// Folds SQLite's write-ahead log into the file, if the disk was full: what is written next begins at its start.
    ///
    /// The log holds every version of a page since it was last folded. SQLite does that after a commit; a log that has
    /// taken the last of the disk, because a reader kept it from being folded, leaves no room for one, and nobody could
    /// write again although the reader is gone. Where the file itself would have to grow for it, only a freed disk helps.
    async fn makes_room(&self, error: &DbErr) -> bool {
        if !backend::is_file_full(error) {
            return false;
        }
        // Passive waits for no reader. Not within a transaction, which would itself be one.
        let fold = Statement::from_string(self.backend.to_sea_orm(), "PRAGMA wal_checkpoint(PASSIVE)");
        let Ok(Some(row)) = self.connection().query_one_raw(fold).await else { return false };
        // Whether another fold was under way, the pages in the log, and how many of them are in the file now.
        let said = |column| row.try_get_by_index::<i64>(column).ok();
        said(0) == Some(0) && said(1).is_some_and(|pages| pages >= 0 && said(2) == Some(pages))
    }

    /// Rows of one statement that only reads, or of a whole write that cannot lose a race.
    pub(crate) async fn rows(&self, sql: Sql) -> Result<Vec<QueryResult>> {
        Ok(self.rows_once(sql.build()).await?)
    }

    /// Rows of one statement that is a whole write by itself. A statement that lost a race is run again.
    pub(crate) async fn write_rows(&self, sql: Sql) -> Result<Vec<QueryResult>> {
        let statement = sql.build();
        self.again(|| self.rows_once(statement.clone())).await
    }

    /// The number of rows that one statement changed. A statement that lost a race is run again.
    pub(crate) async fn execute(&self, sql: Sql) -> Result<u64> {
        let statement = sql.build();
        self.again(|| self.changed_once(statement.clone())).await
    }

    /// The same for a statement that cannot lose a race.
    pub(crate) async fn execute_once(&self, sql: Sql) -> Result<u64> {
        Ok(self.changed_once(sql.build()).await?)
    }

    async fn again<T, F: Future<Output = Result<T, DbErr>>>(&self, once: impl Fn() -> F) -> Result<T> {
        let mut races = 0;
        loop {
            match once().await {
                Err(error) if self.races(&error) && races < RACES => races += 1,
                Err(error) if races < RACES && self.makes_room(&error).await => races = RACES,
                result => return Ok(result?),
            }
        }
    }

    async fn rows_once(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        if !self.poll_only {
            return heeded(self.connection().query_all_raw(statement).await);
        }
        let transaction = self.connection().begin().await?;
        let rows = transaction.query_all_raw(statement).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn changed_once(&self, statement: Statement) -> Result<u64, DbErr> {
        if !self.poll_only {
            return Ok(heeded(self.connection().execute_raw(statement).await)?.rows_affected());
        }
        // A transaction that is dropped is rolled back.
        let transaction = self.connection().begin().await?;
        let changed = transaction.execute_raw(statement).await?.rows_affected();
        transaction.commit().await?;
        Ok(changed)
    }
}

/// Rows of one statement within a transaction.
pub(crate) async fn rows_in(transaction: &DatabaseTransaction, sql: Sql) -> Result<Vec<QueryResult>> {
    Ok(heeded(transaction.query_all_raw(sql.build()).await)?)
}

/// The number of rows that one statement changed within a transaction.
pub(crate) async fn execute_in(transaction: &DatabaseTransaction, sql: Sql) -> Result<u64> {
    Ok(heeded(transaction.execute_raw(sql.build()).await)?.rows_affected())
}

/// Lets the connections hear of an error that they are to blame for.
pub(crate) fn heeded<T>(result: Result<T, DbErr>) -> Result<T, DbErr> {
    result.inspect_err(backend::heed)
}
