//! Connections, with the settings that each purpose needs.

#[cfg(feature = "sqlite")]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
#[cfg(feature = "sqlite")]
use std::time::Instant;

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, Statement, TransactionTrait};
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use sea_orm::{
    RuntimeErr,
    sqlx::{Connection as _, Database as Driver, Pool, pool::PoolOptions},
};

use crate::error::{Error, Result};
use crate::store::backend::Backend;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
type Options<D> = <<D as Driver>::Connection as sea_orm::sqlx::Connection>::Options;

/// Why a connection pool is opened; each purpose has its own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Appends and questions of the application.
    Application,
    /// Claims, completions and housekeeping.
    Engine {
        connections: u32,
        /// How long the database lets a transaction wait for its next statement.
        patience: Duration,
    },
    /// One connection that nothing else can exhaust or block.
    Heartbeat,
}

/// Opens a pool on an address.
pub(crate) async fn connect(url: &str, purpose: Purpose, poll_only: bool) -> Result<DatabaseConnection> {
    if url.starts_with("sqlite:") && (url.contains(":memory:") || url.contains("mode=memory")) {
        return crate::config::invalid(
            "database",
            "an in-memory database exists once a connection, and the engine has its own connections: use a file, \
             in tests a temporary one",
        );
    }
    check_address(url)?;
    // SeaORM knows one name for both.
    let renamed = url.strip_prefix("mariadb:").map(|rest| format!("mysql:{rest}"));
    let url = renamed.as_deref().unwrap_or(url);
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false);
    settle(&mut options, purpose, poll_only);
    match Database::connect(options).await {
        Ok(connection) => Ok(connection),
        Err(error) if error.to_string().contains("unable to open database file") => {
            let hint =
                "unable to open the database file: `?mode=rwc` creates it, its folder must exist and be writable";
            Err(Error::Unreachable(sea_orm::DbErr::Conn(sea_orm::RuntimeErr::Internal(hint.to_owned()))))
        }
        Err(error) => Err(why(url, error).await),
    }
}

/// The driver's own reason, where SeaORM's pool has only waited for it.
async fn why(url: &str, error: sea_orm::DbErr) -> Error {
    let timed_out = matches!(super::sqlx_error(&error), Some(sea_orm::sqlx::Error::PoolTimedOut));
    if !timed_out && !matches!(error, sea_orm::DbErr::ConnectionAcquire(_)) {
        return Error::Unreachable(error);
    }
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres")
        && let Ok(options) = url.parse::<sea_orm::sqlx::postgres::PgConnectOptions>()
    {
        return unreachable(reason::<sea_orm::sqlx::Postgres>(sea_orm::sqlx::Error::PoolTimedOut, &options).await);
    }
    #[cfg(feature = "mysql")]
    if (url.starts_with("mysql") || url.starts_with("mariadb"))
        && let Ok(options) = url.parse::<sea_orm::sqlx::mysql::MySqlConnectOptions>()
    {
        return unreachable(reason::<sea_orm::sqlx::MySql>(sea_orm::sqlx::Error::PoolTimedOut, &options).await);
    }
    let _ = url;
    Error::Unreachable(error)
}

/// Says which driver is missing or that an address cannot be read, without repeating it: it may hold a password.
fn check_address(url: &str) -> Result<()> {
    let scheme = url.split(':').next().unwrap_or_default();
    let (enabled, feature) = match scheme {
        "sqlite" => (cfg!(feature = "sqlite"), "sqlite"),
        "postgres" | "postgresql" => (cfg!(feature = "postgres"), "postgres"),
        "mysql" | "mariadb" => (cfg!(feature = "mysql"), "mysql"),
        _ => {
            return crate::config::invalid(
                "database",
                "the address must look like `sqlite://app.db?mode=rwc`, `postgres://user@host/app` or \
                 `mysql://user@host/app`",
            );
        }
    };
    if !enabled {
        return crate::config::invalid(
            "database",
            format!("a `{scheme}` address needs `features = [\"{feature}\"]` on the orchestratum crates"),
        );
    }
    if is_readable(url, feature) {
        return Ok(());
    }
    crate::config::invalid(
        "database",
        format!(
            "this `{scheme}` address cannot be read: look at its port and options; in a user or password `/`, `?`, `#`, \
             `@` and `%` are written as `%2F`, `%3F`, `%23`, `%40` and `%25`"
        ),
    )
}

/// Whether the driver can read an address. Its own error, and SeaORM's, may repeat it.
fn is_readable(url: &str, driver: &str) -> bool {
    match driver {
        #[cfg(feature = "postgres")]
        "postgres" => url.parse::<sea_orm::sqlx::postgres::PgConnectOptions>().is_ok(),
        #[cfg(feature = "mysql")]
        "mysql" => url.parse::<sea_orm::sqlx::mysql::MySqlConnectOptions>().is_ok(),
        // There are no passwords in the address of a file, and the driver says what is wrong with it.
        _ => {
            let _ = url;
            true
        }
    }
}

/// Opens another pool to where `connection` leads.
pub(crate) async fn connect_like(
    connection: &DatabaseConnection,
    purpose: Purpose,
    poll_only: bool,
    search_path: Option<&str>,
) -> Result<DatabaseConnection> {
    #[cfg(not(feature = "postgres"))]
    let _ = (poll_only, search_path);
    match Backend::of(connection)? {
        #[cfg(feature = "sqlite")]
        Backend::Sqlite => {
            let options = sqlite(connection.get_sqlite_connection_pool().connect_options().as_ref().clone(), purpose);
            let connections = connections(Backend::Sqlite, purpose);
            Ok(sea_orm::SqlxSqliteConnector::from_sqlx_sqlite_pool(
                pool(options, PoolOptions::new(), connections, may_only_read).await?,
            ))
        }
        #[cfg(feature = "postgres")]
        Backend::Postgres => {
            let options = connection.get_postgres_connection_pool().connect_options().as_ref().clone();
            let options = postgres(options, poll_only);
            let options = match search_path {
                Some(path) => options.options([("search_path", path)]),
                None => options,
            };
            let settings = match purpose {
                Purpose::Engine { patience, .. } if !poll_only => postgres_engine(patience),
                _ => PoolOptions::new(),
            };
            let connections = connections(Backend::Postgres, purpose);
            Ok(sea_orm::SqlxPostgresConnector::from_sqlx_postgres_pool(
                pool(options, settings, connections, || false).await?,
            ))
        }
        #[cfg(feature = "mysql")]
        Backend::Mysql => {
            let options = connection.get_mysql_connection_pool().connect_options().as_ref().clone();
            let settings = match purpose {
                Purpose::Engine { patience, .. } => mysql_engine(patience),
                _ => PoolOptions::new(),
            };
            let connections = connections(Backend::Mysql, purpose);
            Ok(sea_orm::SqlxMySqlConnector::from_sqlx_mysql_pool(pool(options, settings, connections, || false).await?))
        }
        #[allow(unreachable_patterns, reason = "which drivers exist is a matter of features")]
        other => crate::config::invalid("connection", format!("the feature for {} is not enabled", other.name())),
    }
}

/// Long enough for a reconnect, short enough that a loop notices and says so.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that was used a moment ago is not asked whether it lives: that would double the round trips of an
/// append. A server that restarts is away for longer than this; one that cuts a single connection is found out by the
/// next statement, as it would be in the middle of one.
const TEST_AFTER: Duration = Duration::from_millis(100);

fn connections(backend: Backend, purpose: Purpose) -> u32 {
    match (purpose, backend) {
        (Purpose::Heartbeat, _) => 1,
        // SQLite has one writer: a second connection would only wait for the first.
        (Purpose::Engine { .. }, Backend::Sqlite) => 1,
        (Purpose::Engine { connections, .. }, _) => connections,
        (Purpose::Application, Backend::Sqlite) => 4,
        (Purpose::Application, _) => 10,
    }
}

fn settle(options: &mut ConnectOptions, purpose: Purpose, poll_only: bool) {
    let backend = match options.get_url() {
        url if url.starts_with("sqlite:") => Backend::Sqlite,
        url if url.starts_with("postgres") => Backend::Postgres,
        _ => Backend::Mysql,
    };
    options.max_connections(connections(backend, purpose)).acquire_timeout(ACQUIRE_TIMEOUT);
    options.test_before_acquire_if_idle_for(TEST_AFTER);
    #[cfg(feature = "sqlite")]
    options.map_sqlx_sqlite_opts(move |options| sqlite(options, purpose)).map_sqlx_sqlite_pool_opts(unspoiled);
    #[cfg(feature = "postgres")]
    options.map_sqlx_postgres_opts(move |options| postgres(options, poll_only));
    #[cfg(not(feature = "postgres"))]
    let _ = poll_only;
}

/// Write-ahead log, so that readers do not wait for the writer; and a full sync at each commit, because an append that
/// has returned must survive loss of power.
#[cfg(feature = "sqlite")]
fn sqlite(
    options: sea_orm::sqlx::sqlite::SqliteConnectOptions,
    purpose: Purpose,
) -> sea_orm::sqlx::sqlite::SqliteConnectOptions {
    use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
    let patience = if purpose == Purpose::Heartbeat { 3 } else { 10 };
    options
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(patience))
        // A log that a long reader has let grow is cut to this, in bytes, when it starts again.
        .pragma("journal_size_limit", "67108864")
        // The thread that reads rows goes on while a batch of them is taken over, rather than stop every fifty.
        .row_buffer_size(2_000)
        .optimize_on_close(false, None)
}

/// When SQLite last refused a write because its connection may only read.
#[cfg(feature = "sqlite")]
static REFUSED: Mutex<Option<Instant>> = Mutex::new(None);
#[cfg(feature = "sqlite")]
const DISTRUST: Duration = Duration::from_secs(10);

/// Takes note of an error that connections are to blame for.
///
/// SQLite opens a file that nobody may write to for reading alone, and the connection stays so when that is over: a disk
/// was mounted anew, somebody has mended the rights. Which connections these are it does not tell, so that for a while
/// all of this process's are closed before they are used again.
pub(crate) fn heed(error: &DbErr) {
    #[cfg(feature = "sqlite")]
    if super::is_of_a_reader(error) {
        *REFUSED.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
    let _ = error;
}

#[cfg(feature = "sqlite")]
fn may_only_read() -> bool {
    let refused = *REFUSED.lock().unwrap_or_else(PoisonError::into_inner);
    refused.is_some_and(|refused| refused.elapsed() < DISTRUST)
}

/// Lets no connection come back to the pool that may only read, see [`heed`], or that the driver takes to be within a
/// transaction.
///
/// After an error like a full disk SQLite has rolled back by itself, the driver's own rollback finds no transaction and
/// fails, and the driver counts on as if one were open. What is begun next is a savepoint; when that is rolled back its
/// transaction stays open, and what is committed from then on is lost when the connection closes.
#[cfg(feature = "sqlite")]
fn unspoiled(options: PoolOptions<sea_orm::sqlx::Sqlite>) -> PoolOptions<sea_orm::sqlx::Sqlite> {
    options.after_release(|connection, _| {
        Box::pin(async move {
            connection.ping().await?; // a rollback may be on its way to the driver's thread
            Ok(!connection.is_in_transaction() && !may_only_read())
        })
    })
}

/// The schema of a lent pool, where it is not the server's default. SeaORM sets it by a statement on each new connection,
/// which connect options do not carry; a pooler may refuse parameters at connect, so that only what differs is set.
pub(crate) async fn search_path(connection: &DatabaseConnection) -> Result<Option<String>> {
    if Backend::of(connection)? != Backend::Postgres {
        return Ok(None);
    }
    let statement = Statement::from_string(Backend::Postgres.to_sea_orm(), "SELECT current_setting('search_path')");
    // In a transaction, for poolers that hand out a connection a transaction.
    let transaction = connection.begin().await.map_err(Error::Unreachable)?;
    let row = transaction.query_one_raw(statement).await.map_err(Error::Unreachable)?;
    transaction.commit().await.map_err(Error::Unreachable)?;
    let path = row.map(|row| row.try_get_by_index::<String>(0)).transpose()?;
    Ok(path.filter(|path| !path.is_empty() && path != "\"$user\", public"))
}

/// Behind a transaction pooler the next statement may run on another server connection, which has not prepared it.
#[cfg(feature = "postgres")]
fn postgres(
    options: sea_orm::sqlx::postgres::PgConnectOptions,
    poll_only: bool,
) -> sea_orm::sqlx::postgres::PgConnectOptions {
    if poll_only { options.statement_cache_capacity(0) } else { options }
}

/// How long a statement of the engine waits for a row that somebody has locked. Then the batch is parted, so that the
/// others need not wait, and what is locked is tried again later: neither a connection nor the locks of what was in the
/// same statement are kept meanwhile.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The longest patience with a transaction that says nothing, however long leases are; servers know a limit, too.
#[cfg(any(feature = "postgres", feature = "mysql"))]
const MOST_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Plans that never read a whole table, and transactions that do not outlive their process.
///
/// PostgreSQL keeps the plan of a prepared statement until the table is analyzed again, a minute at best. One that was
/// made while nothing waited reads the whole table, because it was small; a burst then pays for every row that waits or
/// has been, with each claim. One that was made when all had ended, in a table that was still large, collects all that is
/// due in a bitmap and sorts it, where the index has it in order. A small table that has no index for a question is now taken for so expensive that
/// PostgreSQL would compile the plan, for a fifth of a second.
///
/// A process that is paused, or whose machine vanishes, in the middle of a transaction leaves rows locked until the
/// server hears of it, hours later; whoever reclaims skips them. A transaction of the engine never waits for long.
///
/// Not behind a transaction pooler: there nothing is prepared, and a setting would stay with a connection that the next
/// statement of somebody else gets.
#[cfg(feature = "postgres")]
fn postgres_engine(patience: Duration) -> PoolOptions<sea_orm::sqlx::Postgres> {
    PoolOptions::new().after_connect(move |connection, _| {
        Box::pin(async move {
            let (patience, lock) = (patience.min(MOST_PATIENCE).as_millis(), LOCK_PATIENCE.as_millis());
            let settings = format!(
                "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off; SET lock_timeout = {lock}; \
                 SET idle_in_transaction_session_timeout = {patience}"
            );
            sea_orm::sqlx::Executor::execute(connection, sea_orm::sqlx::AssertSqlSafe(settings)).await?;
            Ok(())
        })
    })
}

/// Transactions that do not outlive their process, see [`postgres_engine`]. A claim locks what it reads, running
/// commands as well.
#[cfg(feature = "mysql")]
fn mysql_engine(patience: Duration) -> PoolOptions<sea_orm::sqlx::MySql> {
    PoolOptions::new().after_connect(move |connection, _| {
        Box::pin(async move {
            let version: String = sea_orm::sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut *connection).await?;
            // MySQL knows no patience for transactions alone; an idle connection that it closes is opened again.
            let setting = if version.contains("MariaDB") { "idle_transaction_timeout" } else { "wait_timeout" };
            let (patience, lock) = (patience.min(MOST_PATIENCE).as_secs_f64().ceil(), LOCK_PATIENCE.as_secs());
            let sql = format!("SET SESSION {setting} = {patience}, SESSION innodb_lock_wait_timeout = {lock}");
            sea_orm::sqlx::Executor::execute(connection, sea_orm::sqlx::AssertSqlSafe(sql)).await?;
            Ok(())
        })
    })
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
async fn pool<D: Driver>(
    options: Options<D>,
    settings: PoolOptions<D>,
    connections: u32,
    is_distrusted: fn() -> bool,
) -> Result<Pool<D>> {
    let pool = settings.max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool.test_before_acquire(false).before_acquire(move |connection: &mut D::Connection, known| {
        Box::pin(async move {
            if known.idle_for >= TEST_AFTER {
                connection.ping().await?;
            }
            // See `unspoiled`.
            Ok(!connection.is_in_transaction() && !is_distrusted())
        })
    });
    match pool.connect_with(options.clone()).await {
        Ok(pool) => Ok(pool),
        Err(error) => Err(unreachable(reason::<D>(error, &options).await)),
    }
}

/// A pool that has waited in vain does not say for what; a connection of its own does.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
async fn reason<D: Driver>(error: sea_orm::sqlx::Error, options: &Options<D>) -> sea_orm::sqlx::Error {
    if !matches!(error, sea_orm::sqlx::Error::PoolTimedOut) {
        return error;
    }
    match tokio::time::timeout(ACQUIRE_TIMEOUT, D::Connection::connect_with(options)).await {
        Ok(Err(reason)) => reason,
        Ok(Ok(_)) | Err(_) => error,
    }
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
fn unreachable(error: sea_orm::sqlx::Error) -> Error {
    Error::Unreachable(DbErr::Conn(RuntimeErr::SqlxError(error.into())))
}
