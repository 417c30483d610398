//! What every kind of database server can do.

use std::path::PathBuf;

use anyhow::Result;

use crate::host::Host;
use crate::install::Kind;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether a commit survives the loss of power, as it does with the database's own defaults.
    ///
    /// Without it the server never waits for the disk, which makes a suite several times faster. A commit survives
    /// `kill -9` of the server in both modes: it is with the operating system before it is confirmed.
    pub durable: bool,
    /// Further arguments of the server program, after ours: the later one wins.
    pub extra_args: Vec<String>,
    /// Where its folder is created, which the server's user must be able to enter; with temporary folders if not named.
    pub place: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { durable: true, extra_args: Vec::new(), place: None }
    }
}

impl Options {
    /// For suites that test behavior and never pull the plug.
    #[must_use]
    pub fn fast() -> Self {
        Self { durable: false, ..Self::default() }
    }
}

/// A private database server; it stops when the value is dropped, and its data are gone then.
///
/// Port and data stay the same through [`stop`](Self::stop) and [`start_again`](Self::start_again).
pub trait DatabaseServer: Sized {
    /// Which database this is.
    const KIND: Kind;
    /// A database that always exists, and from which others can be created.
    const ADMIN_DATABASE: &str;

    /// Prepares an empty server and starts it; returns when it answers.
    ///
    /// # Errors
    ///
    /// When the database is not installed, the message saying what to install, or when it does not start, the message
    /// quoting its log.
    fn start(options: Options) -> Result<Self>;

    /// The URL of one database of this server, which need not exist yet.
    fn url(&self, database: &str) -> String;

    /// Runs SQL through the database's command-line client and returns what it prints: values alone, tabs between.
    ///
    /// # Errors
    ///
    /// When the client cannot connect, or the server refuses a statement.
    fn query(&self, database: &str, sql: &str) -> Result<String>;

    /// The running program, or the container in its place.
    fn host(&self) -> &Host;

    /// See [`host`](Self::host).
    fn host_mut(&mut self) -> &mut Host;

    /// Creates an empty database.
    ///
    /// # Errors
    ///
    /// Those of [`query`](Self::query).
    fn create_database(&self, name: &str) -> Result<()> {
        self.query(Self::ADMIN_DATABASE, &format!("CREATE DATABASE {name}")).map(drop)
    }

    /// The loopback port.
    fn port(&self) -> u16 {
        self.host().port()
    }

    /// The folder with the data; `None` in a container.
    fn data_dir(&self) -> Option<std::path::PathBuf> {
        self.host().data_dir()
    }

    /// The server's main process; `None` while it is down, and in a container.
    fn pid(&self) -> Option<u32> {
        self.host().pid()
    }

    /// Shuts the server down in order: connections are cut, everything is flushed. Does nothing when it is down.
    ///
    /// # Errors
    ///
    /// When it does not stop within a minute.
    fn stop(&mut self) -> Result<()> {
        self.host_mut().stop()
    }

    /// Ends the server without flushing or goodbye, so that the next start recovers from the log: PostgreSQL's
    /// *immediate* mode. MariaDB has no such mode and is killed.
    ///
    /// # Errors
    ///
    /// When it does not stop within a minute.
    fn stop_immediate(&mut self) -> Result<()> {
        self.host_mut().stop_immediate()
    }

    /// `kill -9` of the server with all of its processes; returns when they are gone.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    fn kill(&mut self) -> Result<()> {
        self.host_mut().kill()
    }

    /// Starts a stopped or killed server on its port and data; returns when it answers, recovery included.
    ///
    /// # Errors
    ///
    /// Those of [`start`](Self::start).
    fn start_again(&mut self) -> Result<()> {
        self.host_mut().start()
    }

    /// [`stop`](Self::stop) and [`start_again`](Self::start_again).
    ///
    /// # Errors
    ///
    /// Theirs.
    fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Whether the server runs.
    ///
    /// # Errors
    ///
    /// When the system refuses to say.
    fn is_running(&mut self) -> Result<bool> {
        self.host_mut().is_running()
    }
}
