//! A database of its own for each case, on each backend.

use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, Database, DatabaseConnection};
use tempfile::TempDir;

/// Where a case runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
    Mariadb,
}

/// A migrated database of its own, gone when the case has ended.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) backend: Backend,
    /// Where orchestrators connect to; behind a pooler if one is named.
    pub(crate) url: String,
    /// Where the case itself looks.
    direct: String,
    _folder: Option<TempDir>,
}

/// No case may take longer; the slowest take a few seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// Runs one case on one backend, on a runtime that nothing else depends on: a case may block all of its threads. A
/// backend that is not there is skipped visibly, unless it is required.
pub(crate) fn run<F, Fut>(backend: Backend, case: F)
where
    F: FnOnce(&'static World) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let Some(server) = backend.server() else {
        assert!(!backend.is_required(), "{backend} is required, but its address is not set");
        return skip(&format!("no {backend} server"));
    };
    let housekeeping = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (world, database) = housekeeping.block_on(World::new(backend, &server));
    // Cases share the world with tasks of their own; it is a few bytes that live as long as the process.
    let world: &'static World = Box::leak(Box::new(world));
    let (ended, end) = mpsc::channel();
    let case = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| runtime.block_on(case(world))));
        runtime.shutdown_background();
        // Nobody listens to a case that took too long.
        let _ = ended.send(());
        result
    });
    let in_time = end.recv_timeout(PATIENCE).is_ok();
    // A case that hangs may hold a lock that the clean-up waits for.
    let _ = housekeeping
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), world.clean_up(&server, &database)).await });
    assert!(in_time, "the case did not end within {PATIENCE:?}");
    if let Err(panic) = case.join().and_then(|result| result) {
        resume_unwind(panic);
    }
}

/// Says that a case does not run here, past the runner's capture of what passing tests print.
pub(crate) fn skip(reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
}

/// Turns a case into `::sqlite`, `::postgres` and `::mariadb`.
macro_rules! on_every_backend {
    ($($(#[$meta:meta])* async fn $name:ident($world:ident) $body:block)*) => {
        $(
            $(#[$meta])*
            mod $name {
                #[allow(unused_imports, reason = "not every case uses something of its file")]
                use super::*;

                async fn case($world: &'static crate::harness::World) $body

                #[test]
                fn sqlite() {
                    crate::harness::run(crate::harness::Backend::Sqlite, case);
                }

                #[test]
                fn postgres() {
                    crate::harness::run(crate::harness::Backend::Postgres, case);
                }

                #[test]
                fn mariadb() {
                    crate::harness::run(crate::harness::Backend::Mariadb, case);
                }
            }
        )*
    };
}
pub(crate) use on_every_backend;

/// Waits until `condition` holds; the one place of the suite that polls.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while !condition().await {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        tick.tick().await;
    }
}

impl World {
    async fn new(backend: Backend, server: &str) -> (Self, String) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let database = format!("orchestratum_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (direct, folder) = match backend {
            Backend::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                (format!("sqlite://{}?mode=rwc", folder.path().join("app.db").display()), Some(folder))
            }
            Backend::Postgres | Backend::Mariadb => {
                let admin = Database::connect(server).await.unwrap();
                admin.execute_unprepared(&format!("CREATE DATABASE {database}")).await.unwrap();
                admin.close().await.unwrap();
                (with_database(server, &database), None)
            }
        };
        let url = match pooler() {
            Some(pooler) if backend == Backend::Postgres => with_database(&pooler, &database),
            _ => direct.clone(),
        };
        let world = Self { backend, url, direct, _folder: folder };
        let connection = world.connect().await;
        orchestratum_migration::up(&connection).await.unwrap();
        connection.close().await.unwrap();
        (world, database)
    }

    async fn clean_up(&self, server: &str, database: &str) {
        match self.backend {
            Backend::Sqlite => {
                if let Some(folder) = &self._folder {
                    let _ = std::fs::remove_dir_all(folder.path());
                }
            }
            Backend::Postgres | Backend::Mariadb => {
                let force = if self.backend == Backend::Postgres { " WITH (FORCE)" } else { "" };
                let admin = Database::connect(server).await.unwrap();
                let _ = admin.execute_unprepared(&format!("DROP DATABASE IF EXISTS {database}{force}")).await;
                let _ = admin.close().await;
            }
        }
    }

    /// Whether orchestrators talk to a pooler, without state of a session.
    pub(crate) fn is_pooled(&self) -> bool {
        self.url != self.direct
    }

    /// A connection pool of the case itself.
    pub(crate) async fn connect(&self) -> DatabaseConnection {
        let mut options = sea_orm::ConnectOptions::new(&self.direct);
        options.sqlx_logging(false).max_connections(5);
        Database::connect(options).await.unwrap()
    }
}

/// The address of a PgBouncer in transaction mode before PostgreSQL: the suite passes through it in poll-only mode.
pub(crate) fn pooler() -> Option<String> {
    std::env::var("ORCHESTRATUM_TEST_PGBOUNCER_URL").ok()
}

impl Backend {
    /// The address of the server: an administrator's, without a database of ours.
    fn server(self) -> Option<String> {
        match self {
            Self::Sqlite => Some(String::new()),
            Self::Postgres => std::env::var("ORCHESTRATUM_TEST_POSTGRES_URL").ok(),
            Self::Mariadb => std::env::var("ORCHESTRATUM_TEST_MARIADB_URL").ok(),
        }
    }

    fn is_required(self) -> bool {
        let required = std::env::var("ORCHESTRATUM_TEST_REQUIRED").unwrap_or_default();
        required.split(',').any(|name| name == self.to_string())
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
        })
    }
}

/// The server's address with another database: what follows the last slash is replaced.
fn with_database(server: &str, database: &str) -> String {
    let (address, options) = server.split_once('?').map_or((server, ""), |(address, options)| (address, options));
    let authority = address.find("://").map_or(0, |scheme| scheme + 3);
    let base = address[authority..].find('/').map_or(address, |slash| &address[..authority + slash]);
    if options.is_empty() { format!("{base}/{database}") } else { format!("{base}/{database}?{options}") }
}
