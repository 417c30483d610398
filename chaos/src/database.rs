//! The database of a run.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use orchestratum_core::Orchestrator;
use orchestratum_testbed::{DatabaseServer as _, Kind, MariaDb, Options, Postgres, install};
use sea_orm::ConnectionTrait as _;
use tempfile::TempDir;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatabaseKind {
    Sqlite,
    Postgres,
    Mariadb,
}

/// A private one, durable, with its tables and the application's.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite(TempDir),
    Postgres(Postgres),
    MariaDb(MariaDb),
}

const NAME: &str = "chaos";
/// Few, so that they can be used up.
const CONNECTIONS: u32 = 120;

impl Database {
    pub(crate) async fn start(kind: DatabaseKind) -> Result<Self> {
        let database = match kind {
            DatabaseKind::Sqlite => Self::Sqlite(tempfile::Builder::new().prefix("orchestratum-chaos-").tempdir()?),
            DatabaseKind::Postgres => {
                install::ensure(Kind::Postgres)?;
                let arguments = vec!["-c".to_owned(), format!("max_connections={CONNECTIONS}")];
                Self::Postgres(Postgres::start(Options { extra_args: arguments, ..Options::default() })?)
            }
            DatabaseKind::Mariadb => {
                install::ensure(Kind::MariaDb)?;
                let arguments = vec![format!("--max-connections={CONNECTIONS}")];
                Self::MariaDb(MariaDb::start(Options { extra_args: arguments, ..Options::default() })?)
            }
        };
        match &database {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.create_database(NAME)?,
            Self::MariaDb(server) => server.create_database(NAME)?,
        }
        let orchestrator = Orchestrator::builder().database(database.url()).migrate().client_only().build().await?;
        for table in [
            "CREATE TABLE chaos_orders (number BIGINT NOT NULL PRIMARY KEY)",
            // No key: what takes effect twice must be there twice.
            "CREATE TABLE chaos_effects (command CHAR(36) NOT NULL, number BIGINT NOT NULL)",
        ] {
            orchestrator.connection().execute_unprepared(table).await?;
        }
        Ok(database)
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite://{}?mode=rwc", self.file().display()),
            Self::Postgres(server) => server.url(NAME),
            Self::MariaDb(server) => server.url(NAME),
        }
    }

    /// The file of an embedded one.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(folder) => folder.path().join("chaos.db"),
            Self::Postgres(_) | Self::MariaDb(_) => PathBuf::new(),
        }
    }

    /// The port of a server.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(server) => Some(server.port()),
            Self::MariaDb(server) => Some(server.port()),
        }
    }
}
