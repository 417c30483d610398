//! A private durable server, a fresh database a run, and what it says it has done.

use std::cell::Cell;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use orchestratum_testbed::{DatabaseServer, MariaDb, Options, Postgres, descendants, install};

use super::process::cpu_us;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    Mariadb,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Postgres, Self::Sqlite, Self::Mariadb];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
        }
    }
}

/// Where the runs' databases live.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) kind: Kind,
    server: Server,
    /// For SQLite's files and for the programs' ledgers.
    folder: tempfile::TempDir,
    made: Cell<u32>,
}

#[derive(Debug)]
enum Server {
    None,
    Postgres(Box<Postgres>),
    MariaDb(Box<MariaDb>),
}

/// What the server has done so far; what a database does not tell is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) wal_bytes: Option<f64>,
    pub(crate) commits: Option<f64>,
    pub(crate) statements: Option<f64>,
    pub(crate) cpu_us: Option<f64>,
}

impl Counters {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let difference =
            |after: Option<f64>, before: Option<f64>| after.zip(before).map(|(after, before)| after - before);
        Self {
            wal_bytes: difference(self.wal_bytes, before.wal_bytes),
            commits: difference(self.commits, before.commits),
            statements: difference(self.statements, before.statements),
            cpu_us: difference(self.cpu_us, before.cpu_us),
        }
    }
}

/// A fresh database.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    pub(crate) url: String,
    name: String,
}

impl Database {
    pub(crate) fn start(kind: Kind) -> Result<Self> {
        let server = match kind {
            Kind::Sqlite => Server::None,
            Kind::Postgres => {
                install::ensure(Postgres::KIND)?;
                let server = Postgres::start(postgres())?;
                server.query(Postgres::ADMIN_DATABASE, "CREATE EXTENSION pg_stat_statements")?;
                Server::Postgres(Box::new(server))
            }
            Kind::Mariadb => {
                install::ensure(MariaDb::KIND)?;
                Server::MariaDb(Box::new(MariaDb::start(mariadb())?))
            }
        };
        Ok(Self { kind, server, folder: tempfile::tempdir()?, made: Cell::new(0) })
    }

    /// Makes an empty database and drops the one before.
    pub(crate) fn fresh(&self) -> Result<Fresh> {
        let number = self.made.get();
        self.made.set(number + 1);
        let (name, last) = (format!("bench_{number}"), format!("bench_{}", number.saturating_sub(1)));
        let url = match &self.server {
            Server::None => {
                for suffix in ["", "-wal", "-shm"] {
                    let _ = std::fs::remove_file(self.folder.path().join(format!("{last}.db{suffix}")));
                }
                format!("sqlite://{}?mode=rwc", self.folder.path().join(format!("{name}.db")).display())
            }
            Server::Postgres(server) => {
                server.query(Postgres::ADMIN_DATABASE, &format!("DROP DATABASE IF EXISTS {last} WITH (FORCE)"))?;
                server.create_database(&name)?;
                server.url(&name)
            }
            Server::MariaDb(server) => {
                server.query(MariaDb::ADMIN_DATABASE, &format!("DROP DATABASE IF EXISTS {last}"))?;
                server.create_database(&name)?;
                server.url(&name)
            }
        };
        Ok(Fresh { url, name })
    }

    /// A file for a program to leave something in.
    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Lets the server do now what it would do in the middle of a run: every program starts from the same calm.
    pub(crate) fn settle(&self, fresh: &Fresh) -> Result<()> {
        match &self.server {
            Server::None => {}
            Server::Postgres(server) => {
                server.query(&fresh.name, "VACUUM ANALYZE")?;
                server.query(&fresh.name, "CHECKPOINT")?;
            }
            Server::MariaDb(server) => {
                let tables = server.query(&fresh.name, "SHOW TABLES")?;
                let tables: Vec<_> = tables.lines().map(str::trim).filter(|name| !name.contains("overview")).collect();
                let tables = tables.join(", ");
                // Its checkpoint: for an export the pages of a table are written.
                let sql = format!("ANALYZE TABLE {tables}; FLUSH TABLES {tables} FOR EXPORT; UNLOCK TABLES");
                server.query(&fresh.name, &sql)?;
            }
        }
        Ok(())
    }

    pub(crate) fn counters(&self, fresh: &Fresh) -> Result<Counters> {
        match &self.server {
            Server::None => Ok(Counters::default()),
            Server::Postgres(server) => {
                // Sessions report their commits when they have been idle for a second.
                let sql = format!(
                    "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8, d.xact_commit::float8, \
                     (SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE dbid = d.datid) \
                     FROM pg_stat_database d WHERE datname = '{}'",
                    fresh.name
                );
                let row = server.query(Postgres::ADMIN_DATABASE, &sql)?;
                let values = numbers(&row);
                Ok(Counters {
                    wal_bytes: values.first().copied(),
                    commits: values.get(1).copied(),
                    statements: values.get(2).copied(),
                    cpu_us: server.pid().map(tree_cpu_us),
                })
            }
            Server::MariaDb(server) => {
                let sql = "SELECT variable_value FROM information_schema.global_status WHERE variable_name IN \
                    ('Innodb_os_log_written', 'Com_commit', 'Questions') ORDER BY variable_name";
                let values = numbers(&server.query(MariaDb::ADMIN_DATABASE, sql)?);
                Ok(Counters {
                    commits: values.first().copied(),
                    wal_bytes: values.get(1).copied(),
                    statements: values.get(2).copied(),
                    cpu_us: server.pid().map(tree_cpu_us),
                })
            }
        }
    }

    /// How many connections the programs hold now.
    pub(crate) fn connections(&self, fresh: &Fresh) -> Result<Option<f64>> {
        let row = match &self.server {
            Server::None => return Ok(None),
            Server::Postgres(server) => {
                let sql = format!("SELECT numbackends FROM pg_stat_database WHERE datname = '{}'", fresh.name);
                server.query(Postgres::ADMIN_DATABASE, &sql)?
            }
            Server::MariaDb(server) => {
                let sql = format!("SELECT count(*) FROM information_schema.processlist WHERE db = '{}'", fresh.name);
                server.query(MariaDb::ADMIN_DATABASE, &sql)?
            }
        };
        Ok(numbers(&row).first().copied())
    }

    /// Opens a session that holds an old snapshot until the value is dropped.
    pub(crate) fn hold_snapshot(&self, fresh: &Fresh) -> Result<Option<Snapshot>> {
        let Server::Postgres(server) = &self.server else { return Ok(None) };
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", &server.url(&fresh.name)]);
        let mut session = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run psql")?;
        let (input, output) = (session.stdin.take(), session.stdout.take());
        let mut input = input.context("its input is a pipe")?;
        let sql = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class;\n";
        std::io::Write::write_all(&mut input, sql.as_bytes())?;
        let mut line = String::new();
        // The answer says that the snapshot is taken.
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output.context("a pipe")?), &mut line)?;
        Ok(Some(Snapshot { session, _input: input }))
    }
}

/// A session in the middle of a transaction.
#[derive(Debug)]
pub(crate) struct Snapshot {
    session: Child,
    _input: std::process::ChildStdin,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = self.session.kill();
        let _ = self.session.wait();
    }
}

fn postgres() -> Options {
    let settings = [
        "shared_buffers=512MB",
        "shared_preload_libraries=pg_stat_statements",
        "max_wal_size=12GB",
        "checkpoint_timeout=1h",
    ];
    let extra_args = settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]).collect();
    Options { extra_args, ..Options::default() }
}

fn mariadb() -> Options {
    let settings = ["--innodb-buffer-pool-size=512M", "--innodb-log-file-size=1G"];
    Options { extra_args: settings.map(str::to_owned).to_vec(), ..Options::default() }
}

fn numbers(row: &str) -> Vec<f64> {
    row.split(['\t', '\n', '|']).filter_map(|value| value.trim().parse().ok()).collect()
}

#[allow(clippy::cast_precision_loss, reason = "figures of a benchmark")]
fn tree_cpu_us(pid: u32) -> f64 {
    (cpu_us(pid) + descendants(pid).into_iter().map(cpu_us).sum::<u64>()) as f64
}
