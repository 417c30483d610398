//! The temporary folder of one server: its data, its log, and the user who owns them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::account::Account;
use crate::process::{Farewell, Guarded, held_back};

/// Preparing a data folder takes a few seconds; on a machine busy with a build, a minute was seen.
const PREPARATION_LIMIT: Duration = Duration::from_secs(300);

/// How much of the log an error quotes: `mariadb-install-db` says thirty lines of advice after the cause.
const LOG_TAIL_LINES: usize = 60;

#[derive(Debug)]
pub(crate) struct Folder {
    root: TempDir,
    account: Option<Account>,
}

impl Folder {
    /// Creates it within `place`, or where temporary folders are.
    pub(crate) fn create(name: &str, account: Option<Account>, place: Option<&Path>) -> Result<Self> {
        let place = place.map_or_else(|| base(account.is_some()), Path::to_owned);
        let root = tempfile::Builder::new()
            .prefix(&format!("orchestratum-{name}-"))
            .tempdir_in(place)
            .context("cannot create a temporary folder")?;
        if let Some(account) = account {
            account.own(root.path())?;
        }
        Ok(Self { root, account })
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// A command for [`Guarded::start`] that runs as the folder's owner, in the folder, and writes to its log.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        let log = self.open_log()?;
        let mut command = held_back(program);
        command
            .current_dir(self.path())
            .env("HOME", self.path())
            // Ours may be closed to the server's user.
            .env("TMPDIR", self.path())
            .env("LC_ALL", "C");
        command.stdout(log.try_clone()?).stderr(log);
        if let Some(account) = self.account {
            account.assume(&mut command);
        }
        Ok(command)
    }

    /// Starts `command`; should its owner die, it gets `signal` and this folder goes.
    pub(crate) fn start(&self, command: Command, signal: Signal) -> Result<Guarded> {
        let farewell = Farewell { signal, whole_group: false, remove: Some(self.path().to_owned()) };
        let mut as_owner = |watchdog: &mut Command| {
            if let Some(account) = self.account {
                account.assume(watchdog);
            }
        };
        Guarded::start_with(command, &farewell, &mut as_owner)
    }

    /// Runs a program that prepares the folder, and waits for its end.
    pub(crate) fn prepare<I, S>(&self, program: &Path, args: I) -> Result<()>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = self.command(program)?;
        command.args(args);
        let mut running = self.start(command, Signal::KILL)?;
        match running.wait(PREPARATION_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("{} failed ({status}):\n{}", program.display(), self.log_tail()),
            None => bail!("{} did not end within {PREPARATION_LIMIT:?}:\n{}", program.display(), self.log_tail()),
        }
    }

    /// The last lines of the log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn open_log(&self) -> Result<File> {
        let path = self.log();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }
}

/// Where temporary folders go: a `TMPDIR` inside root's home cannot be entered by the user that runs the server.
fn base(for_another_user: bool) -> PathBuf {
    let usual = std::env::temp_dir();
    let enterable =
        |folder: &Path| fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0);
    if for_another_user && !usual.ancestors().all(enterable) { PathBuf::from("/tmp") } else { usual }
}
