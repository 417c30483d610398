//! A server that runs as a program of this machine.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::folder::Folder;
use crate::ports::Port;
use crate::process::Guarded;

/// Starting includes recovery, which after a kill under load on a busy machine takes tens of seconds.
const START_LIMIT: Duration = Duration::from_secs(180);

/// An orderly stop writes out everything that is dirty.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Short, because every test that starts a server waits for it.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How to start and stop one kind of server.
pub(crate) struct Recipe {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Asks for an orderly stop.
    pub(crate) stop: Signal,
    /// Ends the server at once; also what it gets when its owner dies.
    pub(crate) stop_immediate: Signal,
    /// Whether the server with this process id answers.
    pub(crate) is_ready: Box<dyn Fn(u32) -> bool + Send + Sync>,
}

impl fmt::Debug for Recipe {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Recipe")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

/// Fields drop in order: the program ends before its folder goes and its port is freed.
#[derive(Debug)]
pub(crate) struct Local {
    running: Option<Guarded>,
    recipe: Recipe,
    folder: Folder,
    port: Port,
}

impl Local {
    pub(crate) fn start_new(recipe: Recipe, folder: Folder, port: Port) -> Result<Self> {
        let mut server = Self { running: None, recipe, folder, port };
        server.start()?;
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.data()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Guarded::pid)
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        match &mut self.running {
            Some(running) => Ok(running.ended()?.is_none()),
            None => Ok(false),
        }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("{} runs already on port {}", self.name(), self.port());
        }
        let mut command = self.folder.command(&self.recipe.program)?;
        command.args(&self.recipe.arguments);
        let running = self.running.insert(self.folder.start(command, self.recipe.stop_immediate)?);
        let deadline = Instant::now() + START_LIMIT;
        while !(self.recipe.is_ready)(running.pid()) {
            if let Some(status) = running.ended()? {
                bail!("{} ended while starting ({status}):\n{}", self.name(), self.folder.log_tail());
            }
            if Instant::now() >= deadline {
                bail!("{} does not answer within {START_LIMIT:?}:\n{}", self.name(), self.folder.log_tail());
            }
            thread::sleep(READY_POLL_INTERVAL);
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.stop_with(self.recipe.stop)
    }

    pub(crate) fn stop_immediate(&mut self) -> Result<()> {
        self.stop_with(self.recipe.stop_immediate)
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.kill_tree(),
            None => Ok(()),
        }
    }

    fn stop_with(&mut self, signal: Signal) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.signal(signal)?;
        running.wait(STOP_LIMIT)?.with_context(|| {
            format!(
                "{} does not stop within {STOP_LIMIT:?}:\n{}",
                self.recipe.program.display(),
                self.folder.log_tail()
            )
        })?;
        self.running = None;
        Ok(())
    }

    fn name(&self) -> String {
        self.recipe.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// `--name=value` where the value is a path.
pub(crate) fn path_argument(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(path);
    argument
}
