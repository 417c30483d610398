//! A private PostgreSQL server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use rustix::process::Signal;

use crate::account::Account;
use crate::container::{Container, Image};
use crate::folder::Folder;
use crate::host::Host;
use crate::install::{self, Kind, Source};
use crate::local::{Local, Recipe, path_argument};
use crate::ports::Port;
use crate::server::{DatabaseServer, Options};

/// A private PostgreSQL server with the superuser `postgres` and no password.
#[derive(Debug)]
pub struct Postgres {
    host: Host,
    /// `None` in a container: its own client is used then.
    psql: Option<PathBuf>,
}

impl Postgres {
    /// Starts a streaming standby of `primary`: a copy of its data that follows its log; returns when it answers reads.
    ///
    /// With `synchronous_standby_names=*` on the primary a commit is answered once the standby has it on disk, so that
    /// nothing acknowledged is lost when the primary goes; while no standby follows, commits wait.
    ///
    /// # Errors
    ///
    /// Those of [`start`](DatabaseServer::start); in a container always.
    pub fn start_standby(primary: &Self, options: &Options) -> Result<Self> {
        let port = Port::reserve()?;
        let Source::Installed(programs) = install::locate_or_explain(Self::KIND)? else {
            bail!("a standby needs PostgreSQL's own programs, not a container");
        };
        let folder = Folder::create("postgres", Account::for_server(&["postgres"])?, options.place.as_deref())?;
        let data = folder.data();
        let (data_argument, port_argument) = (path_argument("--pgdata=", &data), format!("--port={}", primary.port()));
        let flags =
            ["--host=127.0.0.1", "--username=postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"];
        folder.prepare(
            &programs.server.with_file_name("pg_basebackup"),
            flags.iter().map(AsRef::as_ref).chain([port_argument.as_ref(), data_argument.as_os_str()]),
        )?;
        let recipe = recipe(programs.server, &data, port.number(), options);
        Ok(Self { host: Local::start_new(recipe, folder, port)?.into(), psql: Some(programs.client) })
    }

    /// Makes a standby a primary; returns when it takes writes.
    ///
    /// # Errors
    ///
    /// When it does not answer, or is a primary already.
    pub fn promote(&self) -> Result<()> {
        self.query(Self::ADMIN_DATABASE, "SELECT pg_promote()").map(drop)
    }
}

impl DatabaseServer for Postgres {
    const KIND: Kind = Kind::Postgres;
    const ADMIN_DATABASE: &str = "postgres";

    fn start(options: Options) -> Result<Self> {
        let port = Port::reserve()?;
        match install::locate_or_explain(Self::KIND)? {
            Source::Installed(programs) => {
                let folder = Folder::create("postgres", Account::for_server(&["postgres"])?, options.place.as_deref())?;
                let data = folder.data();
                let (data_argument, flags) =
                    (path_argument("--pgdata=", &data), ["--username=postgres", "--auth=trust"]);
                folder.prepare(
                    &programs.prepare,
                    // Synchronizing an empty data folder to disk takes longer than all else in creating it.
                    flags
                        .iter()
                        .chain(&["--encoding=UTF8", "--locale=C", "--no-sync"])
                        .map(AsRef::as_ref)
                        .chain([data_argument.as_os_str()]),
                )?;
                let recipe = recipe(programs.server, &data, port.number(), &options);
                Ok(Self { host: Local::start_new(recipe, folder, port)?.into(), psql: Some(programs.client) })
            }
            Source::Docker(docker) => {
                let image = Image {
                    reference: "postgres:15",
                    port: 5432,
                    environment: &["POSTGRES_HOST_AUTH_METHOD=trust"],
                    stop_immediate: Some("SIGQUIT"),
                    is_ready: |container| {
                        container.succeeds(&["pg_isready", "--host=127.0.0.1", "--username=postgres"])
                    },
                };
                let container = Container::start_new(docker, image, settings(&options), port)?;
                Ok(Self { host: container.into(), psql: None })
            }
        }
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }

    fn query(&self, database: &str, sql: &str) -> Result<String> {
        let (mut command, url) = match (&self.psql, self.host.container()) {
            (Some(psql), _) => (Command::new(psql), self.url(database)),
            (None, Some(container)) => {
                (container.exec("psql"), format!("postgres://postgres@127.0.0.1:5432/{database}"))
            }
            (None, None) => (Command::new("psql"), self.url(database)),
        };
        command.args([
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--quiet",
            "--field-separator=\t",
            "--set=ON_ERROR_STOP=1",
        ]);
        install::output(command.args(["--command", sql, &url]))
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}

fn recipe(program: PathBuf, data: &Path, port: u16, options: &Options) -> Recipe {
    let mut arguments = vec!["-D".into(), data.into(), "-p".into(), port.to_string().into()];
    // No socket file: its path may grow longer than the system allows.
    let places = ["listen_addresses=127.0.0.1", "unix_socket_directories="];
    arguments.extend(places.iter().flat_map(|setting| ["-c".into(), setting.into()]));
    arguments.extend(settings(options).into_iter().map(Into::into));
    let pid_file = data.join("postmaster.pid");
    Recipe {
        program,
        arguments,
        stop: Signal::INT,
        stop_immediate: Signal::QUIT,
        is_ready: Box::new(move |pid| fs::read_to_string(&pid_file).is_ok_and(|content| says_ready(&content, pid))),
    }
}

/// `fsync=off` alone leaves a commit waiting for its write to the operating system, which survives `kill -9`;
/// `synchronous_commit=off` would not.
fn settings(options: &Options) -> Vec<String> {
    let durability: &[&str] = if options.durable {
        &["fsync=on", "synchronous_commit=on", "full_page_writes=on"]
    } else {
        &["fsync=off", "synchronous_commit=on", "full_page_writes=off"]
    };
    let settings = durability.iter().chain(&["max_connections=400"]);
    settings
        .flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()])
        .chain(options.extra_args.iter().cloned())
        .collect()
}

/// The first line of `postmaster.pid` is the process, the eighth its state; after a kill, an old file is still there.
fn says_ready(pid_file: &str, pid: u32) -> bool {
    let mut lines = pid_file.lines();
    let ours = lines.next().is_some_and(|line| line.trim() == pid.to_string());
    ours && lines.nth(6).is_some_and(|state| matches!(state.trim(), "ready" | "standby"))
}

#[cfg(test)]
mod tests {
    use super::says_ready;

    #[test]
    fn pid_file_of_a_killed_predecessor_is_not_taken_for_readiness() {
        let ready = "77\n/data\n1700000000\n15432\n\n127.0.0.1\n  163  5\nready   \n";
        assert!(says_ready(ready, 77));
        assert!(!says_ready(ready, 78));
        assert!(!says_ready(&ready.replace("ready", "starting"), 77));
        assert!(!says_ready("77\n/data\n", 77));
    }
}
