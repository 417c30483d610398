//! The database schema of Orchestratum as SeaORM migrations.
//!
//! Three ways to apply it, to be chosen once per database:
//!
//! - `.migrate()` on the builder, or `cargo run -p orchestratum-migration -- up`, with [`up`]: its own table
//!   `orchestratum_migrations`, guarded by a lock, so that ten processes may start at once;
//! - [`migrations`], appended to the vector of the application's own `Migrator`;
//! - [`sql`], a script for those who apply schemas by hand.
//!
//! Whichever it was, the schema says its version in `orchestratum_schema`, and [`check`] compares it with [`VERSION`].

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};
pub use sea_orm_migration::{MigrationTrait, MigratorTrait};

mod dialect;
mod m20261124_000001_create_tables;

pub use dialect::Dialect;

/// The version of the schema that this crate creates.
pub const VERSION: i32 = m20261124_000001_create_tables::VERSION;

/// The stand-alone migrator, with a migration table of its own.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        migrations()
    }

    fn migration_table_name() -> DynIden {
        Alias::new(TABLE).into_iden()
    }
}

const TABLE: &str = "orchestratum_migrations";

/// The migrations in their order, for applications that extend their own `Migrator`.
///
/// Names are prefixed and never change; append new ones where your vector ends.
#[must_use]
pub fn migrations() -> Vec<Box<dyn MigrationTrait>> {
    vec![Box::new(m20261124_000001_create_tables::Migration)]
}

/// How a database's schema stands to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// The program and the schema fit.
    Current,
    /// There is no schema, or an older one: run the migrations.
    Behind {
        /// The version found; `None` where there is no schema.
        found: Option<i32>,
    },
    /// A newer program has migrated the database; this one might damage what it does not know.
    Ahead {
        /// The version found.
        found: i32,
    },
}

/// Compares the schema with [`VERSION`]. Reads only.
///
/// # Errors
/// The database could not be asked.
pub async fn check(connection: &impl ConnectionTrait) -> Result<SchemaState, DbErr> {
    let found = if has_table(connection, "orchestratum_schema").await? {
        let statement = "SELECT MAX(version) AS version FROM orchestratum_schema";
        let statement = Statement::from_string(connection.get_database_backend(), statement);
        match connection.query_one_raw(statement).await? {
            Some(row) => row.try_get_by_index::<Option<i32>>(0)?,
            None => None,
        }
    } else {
        None
    };
    Ok(match found {
        Some(found) if found > VERSION => SchemaState::Ahead { found },
        Some(found) if found == VERSION => SchemaState::Current,
        found => SchemaState::Behind { found },
    })
}

/// Applies what is missing. Ten processes may call it at once: one applies, the others wait and find nothing to do.
///
/// PostgreSQL and SQLite apply everything or nothing. MariaDB and MySQL commit each statement by itself; there, a run
/// that was killed in the middle is finished by the next one.
///
/// # Errors
/// The database refused a statement, or has migrations that this crate does not know.
pub async fn up(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let transaction = lock(connection).await?;
    let result = Migrator::up(&transaction, None).await;
    unlock(transaction, result).await
}

/// Removes the schema and all commands in it. What is not ours stays.
///
/// # Errors
/// The database refused a statement.
pub async fn down(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let transaction = lock(connection).await?;
    let result = drop_ours(&transaction).await;
    unlock(transaction, result).await
}

/// Removes the schema with all commands and creates it anew. What is not ours stays, unlike with SeaORM's `fresh`.
///
/// # Errors
/// The database refused a statement.
pub async fn fresh(connection: &DatabaseConnection) -> Result<(), DbErr> {
    let transaction = lock(connection).await?;
    let result = match drop_ours(&transaction).await {
        Ok(()) => Migrator::up(&transaction, None).await,
        Err(error) => Err(error),
    };
    unlock(transaction, result).await
}

/// The migrations and whether each is applied, by the stand-alone table.
///
/// # Errors
/// The database could not be asked, or has migrations that this crate does not know.
pub async fn status(connection: &DatabaseConnection) -> Result<Vec<(String, bool)>, DbErr> {
    let migrations = Migrator::get_migration_with_status_read_only(connection).await?;
    let applied = sea_orm_migration::MigrationStatus::Applied;
    Ok(migrations.iter().map(|migration| (migration.name().to_owned(), migration.status() == applied)).collect())
}

/// The whole schema as a script, for those who apply it by hand: a statement ends where a line ends with a semicolon.
#[must_use]
pub fn sql(dialect: Dialect) -> String {
    let statements = m20261124_000001_create_tables::up(dialect);
    statements.iter().map(|statement| format!("{statement};\n")).collect()
}

pub(crate) async fn execute_all(manager: &SchemaManager<'_>, statements: &[String]) -> Result<(), DbErr> {
    for statement in statements {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}

async fn drop_ours(transaction: &DatabaseTransaction) -> Result<(), DbErr> {
    for statement in m20261124_000001_create_tables::down() {
        transaction.execute_unprepared(&statement).await?;
    }
    transaction.execute_unprepared(&format!("DROP TABLE IF EXISTS {TABLE}")).await?;
    Ok(())
}

async fn has_table(connection: &impl ConnectionTrait, table: &str) -> Result<bool, DbErr> {
    let backend = connection.get_database_backend();
    let catalog = match backend {
        DbBackend::Postgres => "SELECT 1 FROM pg_class WHERE oid = to_regclass($1) AND relkind IN ('r', 'p')",
        DbBackend::MySql => {
            "SELECT 1 FROM information_schema.tables WHERE table_schema = database() AND table_name = ?"
        }
        _ => "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?",
    };
    let statement = Statement::from_sql_and_values(backend, catalog, [table.into()]);
    Ok(connection.query_one_raw(statement).await?.is_some())
}

/// Opens a transaction on one connection and takes the migration lock in it.
///
/// On Galera `GET_LOCK` is refused or local to a node: there, run migrations through one node.
async fn lock(connection: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let immediate = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let transaction = connection.begin_with_options(immediate).await?;
    match transaction.get_database_backend() {
        DbBackend::Postgres => {
            transaction.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
        }
        DbBackend::MySql => {
            let statement = Statement::from_string(DbBackend::MySql, format!("SELECT GET_LOCK('{TABLE}', 300)"));
            match transaction.query_one_raw(statement).await {
                Err(error) => tracing::warn!(%error, "migrating without a lock: run migrations through one node"),
                Ok(row) => {
                    let got = row.map(|row| row.try_get_by_index::<Option<i32>>(0)).transpose()?.flatten();
                    if got != Some(1) {
                        let message = "another process has been migrating for five minutes: look at it first";
                        return Err(DbErr::Custom(message.to_owned()));
                    }
                }
            }
        }
        _ => {} // the immediate transaction is the lock
    }
    Ok(transaction)
}

/// Any number, as long as it stays the same: "orchestr" in ASCII.
const LOCK: i64 = 0x6f72_6368_6573_7472;

async fn unlock(transaction: DatabaseTransaction, result: Result<(), DbErr>) -> Result<(), DbErr> {
    if transaction.get_database_backend() == DbBackend::MySql {
        // A refused release changes nothing: the lock ends with the connection.
        let _ = transaction.execute_unprepared(&format!("SELECT RELEASE_LOCK('{TABLE}')")).await;
    }
    match result {
        Ok(()) => transaction.commit().await,
        Err(error) => {
            transaction.rollback().await?;
            Err(error)
        }
    }
}
