//! A server in a Docker container, for machines without the database and without apt.
//!
//! The container is not started with `--rm`: it must survive being killed, so that it can be started again with its
//! data. A watchdog removes it when its owner is gone, as in [`process`](crate::process).

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::install::output;
use crate::ports::Port;

/// The first start prepares the data folder too.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Each look starts a `docker` command.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(200);

const WATCHDOG: &str = r#"read -r never_written; exec "$1" rm --force --volumes "$2""#;

/// What to run, and how to see that it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) reference: &'static str,
    pub(crate) port: u16,
    pub(crate) environment: &'static [&'static str],
    /// The signal that ends the server at once; `None` where only `SIGKILL` does.
    pub(crate) stop_immediate: Option<&'static str>,
    pub(crate) is_ready: fn(&Container) -> bool,
}

#[derive(Debug)]
pub(crate) struct Container {
    docker: PathBuf,
    image: Image,
    name: String,
    watchdog: Child,
    port: Port,
}

impl Container {
    pub(crate) fn start_new(docker: PathBuf, image: Image, arguments: Vec<String>, port: Port) -> Result<Self> {
        let name = format!("orchestratum-{}-{}", std::process::id(), port.number());
        let mut create = Command::new(&docker);
        create.args(["create", "--name", &name, "--publish", &format!("127.0.0.1:{}:{}", port.number(), image.port)]);
        create.args(image.environment.iter().flat_map(|variable| ["--env", variable]));
        output(create.arg(image.reference).args(arguments))?;
        let watchdog = Command::new("/bin/sh")
            .args(["-c", WATCHDOG, "watchdog"])
            .args([docker.as_os_str(), name.as_ref()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the watchdog")?;
        let mut container = Self { docker, image, name, watchdog, port };
        container.start()?;
        Ok(container)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// A command that runs `program` inside the container.
    pub(crate) fn exec(&self, program: &str) -> Command {
        let mut command = Command::new(&self.docker);
        command.args(["exec", &self.name, program]);
        command
    }

    pub(crate) fn succeeds(&self, command: &[&str]) -> bool {
        let Some((program, arguments)) = command.split_first() else {
            return false;
        };
        output(self.exec(program).args(arguments)).is_ok()
    }

    pub(crate) fn is_running(&mut self) -> Result<bool> {
        Ok(self.docker(&["inspect", "--format", "{{.State.Running}}", &self.name])?.trim() == "true")
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.docker(&["start", &self.name])?;
        let deadline = Instant::now() + START_LIMIT;
        while !(self.image.is_ready)(self) {
            if !self.is_running()? || Instant::now() >= deadline {
                let log = self.docker(&["logs", "--tail", "30", &self.name])?;
                bail!(
                    "{} in container {} did not start within {START_LIMIT:?}:\n{log}",
                    self.image.reference,
                    self.name
                );
            }
            thread::sleep(READY_POLL_INTERVAL);
        }
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.docker(&["stop", "--time", "60", &self.name]).map(drop)
    }

    pub(crate) fn stop_immediate(&mut self) -> Result<()> {
        self.end_with(self.image.stop_immediate.unwrap_or("SIGKILL"))
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.end_with("SIGKILL")
    }

    fn end_with(&mut self, signal: &str) -> Result<()> {
        if self.is_running()? {
            self.docker(&["kill", "--signal", signal, &self.name])?;
        }
        self.docker(&["wait", &self.name]).map(drop)
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        output(Command::new(&self.docker).args(arguments))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
