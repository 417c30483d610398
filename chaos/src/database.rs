//! The database of a run.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use orchestratum_core::Orchestrator;
use orchestratum_testbed::{DatabaseServer, Galera, HaProxy, Kind, MariaDb, Options, Postgres, install};
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
    Pair(Box<Pair>),
    Galera(Galera),
}

/// A PostgreSQL whose every commit is on a standby before it is answered, behind HAProxy, which leads to the primary.
#[derive(Debug)]
pub(crate) struct Pair {
    primary: Postgres,
    standby: Option<Postgres>,
    balancer: HaProxy,
    /// The balancer's place of the primary; the standby has the other one.
    place: usize,
}

/// A stop of the server waits for connections that have said nothing yet, as a network that stands still leaves them.
fn postgres_options(connections: u32, place: Option<&Path>) -> Options {
    let settings = [format!("max_connections={connections}"), "authentication_timeout=5".to_owned()];
    let arguments = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]);
    Options { extra_args: arguments.collect(), place: place.map(Path::to_owned), ..Options::default() }
}

impl Pair {
    fn start() -> Result<Self> {
        install::ensure(Kind::Postgres)?;
        install::ensure_balancer()?;
        let primary = Postgres::start(Self::options())?;
        let balancer = HaProxy::start(primary.port())?;
        let mut pair = Self { primary, standby: None, balancer, place: 0 };
        pair.add_standby()?;
        Ok(pair)
    }

    fn options() -> Options {
        let mut options = postgres_options(CONNECTIONS, None);
        options.extra_args.extend(["-c".to_owned(), "synchronous_standby_names=*".to_owned()]);
        options
    }

    pub(crate) fn lose_primary(&mut self) -> Result<()> {
        self.primary.kill()
    }

    /// The standby is the primary from now on, and what the old one had alone is gone.
    pub(crate) fn promote(&mut self) -> Result<()> {
        if let Some(standby) = self.standby.take() {
            standby.promote()?;
            self.primary = standby;
            self.place = 1 - self.place;
        }
        Ok(())
    }

    pub(crate) fn add_standby(&mut self) -> Result<()> {
        let standby = Postgres::start_standby(&self.primary, &Self::options())?;
        self.balancer.point(1 - self.place, standby.port())?;
        self.standby = Some(standby);
        Ok(())
    }
}

const NAME: &str = "chaos";
/// Few, so that they can be used up.
const CONNECTIONS: u32 = 120;

impl Database {
    /// A PostgreSQL with a synchronous standby.
    pub(crate) async fn start_pair() -> Result<Self> {
        Self::Pair(Box::new(Pair::start()?)).prepared().await
    }

    /// A cluster of three nodes.
    pub(crate) async fn start_cluster() -> Result<Self> {
        install::ensure(Kind::MariaDb)?;
        install::ensure_galera()?;
        let arguments = vec![format!("--max-connections={CONNECTIONS}")];
        let options = Options { extra_args: arguments, ..Options::default() };
        Self::Galera(Galera::start(3, &options)?).prepared().await
    }

    /// A PostgreSQL with connections for a crowd of processes, which counts statements.
    pub(crate) async fn start_large() -> Result<Self> {
        install::ensure(Kind::Postgres)?;
        let mut options = postgres_options(10 * CONNECTIONS, None);
        options.extra_args.extend(["-c".to_owned(), "shared_preload_libraries=pg_stat_statements".to_owned()]);
        let server = Postgres::start(options)?;
        // What each new database begins as.
        server.query("template1", "CREATE EXTENSION pg_stat_statements")?;
        Self::Postgres(server).prepared().await
    }

    /// One of this kind, within the folder `place` or where temporary folders are.
    pub(crate) async fn start(kind: DatabaseKind, place: Option<&Path>) -> Result<Self> {
        let database = match kind {
            DatabaseKind::Sqlite => {
                let mut folder = tempfile::Builder::new();
                let folder = folder.prefix("orchestratum-chaos-");
                Self::Sqlite(place.map_or_else(|| folder.tempdir(), |place| folder.tempdir_in(place))?)
            }
            DatabaseKind::Postgres => {
                install::ensure(Kind::Postgres)?;
                Self::Postgres(Postgres::start(postgres_options(CONNECTIONS, place))?)
            }
            DatabaseKind::Mariadb => {
                install::ensure(Kind::MariaDb)?;
                let arguments = vec![format!("--max-connections={CONNECTIONS}")];
                let place = place.map(Path::to_owned);
                Self::MariaDb(MariaDb::start(Options { extra_args: arguments, place, ..Options::default() })?)
            }
        };
        database.prepared().await
    }

    async fn prepared(self) -> Result<Self> {
        match &self {
            Self::Sqlite(_) => {}
            Self::Postgres(server) => server.create_database(NAME)?,
            Self::MariaDb(server) => server.create_database(NAME)?,
            Self::Pair(pair) => pair.primary.create_database(NAME)?,
            Self::Galera(cluster) => cluster.nodes()[0].create_database(NAME)?,
        }
        let orchestrator = Orchestrator::builder().database(self.url()).migrate().client_only().build().await?;
        for table in [
            "CREATE TABLE chaos_orders (number BIGINT NOT NULL PRIMARY KEY)",
            // No key: what takes effect twice must be there twice.
            "CREATE TABLE chaos_effects (command CHAR(36) NOT NULL, number BIGINT NOT NULL)",
        ] {
            orchestrator.connection().execute_unprepared(table).await?;
        }
        Ok(self)
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(_) => format!("sqlite://{}?mode=rwc", self.file().display()),
            Self::Postgres(server) => server.url(NAME),
            Self::MariaDb(server) => server.url(NAME),
            Self::Pair(pair) => pair.balancer.url(NAME),
            Self::Galera(cluster) => cluster.nodes()[0].url(NAME),
        }
    }

    /// The file of an embedded one.
    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(folder) => folder.path().join("chaos.db"),
            Self::Postgres(_) | Self::MariaDb(_) | Self::Pair(_) | Self::Galera(_) => PathBuf::new(),
        }
    }

    /// The port of its server, which [`url`](Self::url) names.
    pub(crate) fn port(&self) -> Option<u16> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(server) => Some(server.port()),
            Self::MariaDb(server) => Some(server.port()),
            Self::Pair(pair) => Some(pair.balancer.port()),
            Self::Galera(cluster) => cluster.nodes().first().map(DatabaseServer::port),
        }
    }
}
