//! Programs that cannot outlive their owner.
//!
//! A child of ours must stop when we are killed with `SIGKILL`, when a test calls `exit`, when a panic aborts. Nothing
//! that runs in our process can promise this, and the kernel's parent-death signal follows the *thread* that started
//! the child, which in a test ends early. So each program has a *watchdog*, a shell that blocks on reading a pipe of
//! which only we hold the writing end. The kernel closes that end with our process, however it ends; the watchdog wakes
//! up, signals the program, insists after ten seconds, and removes its folder.
//!
//! There is no moment without protection: the program is started *held back*, as a shell that waits for a word from
//! us before it becomes the program, and gets the word only after its watchdog stands.
//!
//! Both run in process groups of their own: a ctrl-c in the terminal reaches us and not them, and the order in which
//! things stop stays ours.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::tree::{descendants, is_alive};

/// How often the end of a program is looked for: the standard library has no wait with a deadline.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Becomes the program after one line from the owner; ends when the owner is gone before that.
const HELD_BACK: &str = r#"read -r go || exit 1; exec "$@" </dev/null"#;

/// Arguments: the signal's number, the target of `kill`, the folder to remove or nothing.
///
/// Signal 0 also reaches a dead process that nobody has collected, so the second loop must end too. The long form of
/// `kill` is the one that all shells take with `--`, without which a group's negative number would be an option.
const WATCHDOG: &str = r#"
signal() { kill -s "$1" -- "$target" 2>/dev/null; }
target=$2
read -r never_written
signal "$1"
tries=0
while signal 0 && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
signal 9
tries=0
while signal 0 && [ $tries -lt 20 ]; do sleep 0.05; tries=$((tries + 1)); done
if [ -n "$3" ]; then cd / && rm -rf -- "$3"; fi
"#;

/// What a program's watchdog does when the owner is gone.
#[derive(Clone, Debug)]
pub struct Farewell {
    /// What the program gets first; `SIGKILL` follows ten seconds later.
    pub signal: Signal,
    /// Signal the program's whole process group instead of the program only.
    pub whole_group: bool,
    /// The folder to remove after the program has ended.
    pub remove: Option<PathBuf>,
}

/// A running program with its watchdog.
///
/// Dropping it does to the program what the watchdog would do, and waits for its end; the folder is left to its owner.
#[derive(Debug)]
pub struct Guarded {
    program: Child,
    watchdog: Child,
    farewell: Farewell,
}

/// A command for [`Guarded::start`]: `program`, held back. Its standard input is taken; add arguments and the rest.
pub fn held_back(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", HELD_BACK, "held-back"]).arg(program).stdin(Stdio::piped()).process_group(0);
    command
}

impl Guarded {
    /// Starts a command made by [`held_back`].
    ///
    /// # Errors
    ///
    /// When no process can be started. A program that does not exist is not an error here: it ends with status 127.
    pub fn start(command: Command, farewell: &Farewell) -> Result<Self> {
        Self::start_with(command, farewell, &mut |_| ())
    }

    /// Like [`start`](Self::start), with a chance to change the watchdog's user.
    pub(crate) fn start_with(
        mut command: Command,
        farewell: &Farewell,
        adjust: &mut dyn FnMut(&mut Command),
    ) -> Result<Self> {
        let mut program = command.spawn().context("cannot start /bin/sh")?;
        drop(command); // holds our copies of its output pipes, whose end the reader waits for
        let go = program.stdin.take();
        let target = if farewell.whole_group { format!("-{}", program.id()) } else { program.id().to_string() };
        let mut watchdog = Command::new("/bin/sh");
        watchdog.args(["-c", WATCHDOG, "watchdog", &farewell.signal.as_raw().to_string(), &target]);
        watchdog.arg(farewell.remove.as_deref().map_or(OsStr::new(""), |folder| folder.as_os_str()));
        watchdog.current_dir("/").process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        adjust(&mut watchdog);
        let watchdog = watchdog.spawn().context("cannot start the watchdog")?; // on failure `go` closes, and the program with it
        let guarded = Self { program, watchdog, farewell: farewell.clone() };
        if let Some(mut go) = go {
            go.write_all(b"go\n").context("the program ended before it was let go")?;
        }
        Ok(guarded)
    }

    /// The process id of the program itself.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.id()
    }

    /// How the program ended, or `None` while it runs.
    ///
    /// # Errors
    ///
    /// When the system refuses to say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.program.try_wait().context("cannot ask for the state of a child process")
    }

    /// Waits for the program's end; `None` when it still runs after `limit`.
    ///
    /// # Errors
    ///
    /// When the system refuses to say.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended()?;
            if ended.is_some() || Instant::now() >= deadline {
                return Ok(ended);
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Sends `signal` to the program; one that has ended is left alone.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            let pid = Pid::from_child(&self.program);
            kill_process(pid, signal).with_context(|| format!("cannot signal process {}", self.pid()))?;
        }
        Ok(())
    }

    /// Kills the program and all of its descendants with `SIGKILL`, and returns when they are gone.
    ///
    /// The program is stopped first, so that it neither sees its children die nor starts new ones: PostgreSQL's
    /// processes have sessions of their own and would otherwise notice the loss of their parent at leisure.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn kill_tree(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let mut killed = Vec::new();
        loop {
            let children: Vec<_> = descendants(self.pid()).into_iter().filter(|pid| is_alive(*pid)).collect();
            if children.is_empty() {
                break;
            }
            for child in children {
                kill_one(child);
                killed.push(child);
            }
            thread::sleep(POLL_INTERVAL);
        }
        self.signal(Signal::KILL)?;
        self.program.wait().context("cannot wait for a killed process")?;
        while killed.iter().any(|pid| is_alive(*pid)) {
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if self.ended()?.is_none() && !self.farewell.whole_group {
            self.signal(self.farewell.signal)?;
            if self.wait(Duration::from_secs(10))?.is_none() {
                self.signal(Signal::KILL)?;
            }
            self.program.wait().context("cannot wait for a killed process")?;
        }
        Ok(())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if self.farewell.whole_group {
            // The group may outlive its leader, and the watchdog is the one that knows how to end it.
            drop(self.watchdog.stdin.take());
            let _ = self.program.wait();
        } else {
            let _ = self.end();
            let _ = self.watchdog.kill();
        }
        let _ = self.watchdog.wait();
    }
}

fn kill_one(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL); // one that is gone already is what we want
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> Command {
        let mut command = held_back("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        command
    }

    /// What the watchdog sees when the owner dies.
    fn owner_dies(guarded: &mut Guarded) {
        drop(guarded.watchdog.stdin.take());
    }

    fn first_line(guarded: &mut Guarded) -> String {
        let mut line = String::new();
        BufReader::new(guarded.program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    #[test]
    fn program_gets_the_signal_when_its_owner_dies_and_then_its_folder_goes() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("data"), "").unwrap();
        let farewell = Farewell { signal: Signal::USR1, whole_group: false, remove: Some(folder.path().to_owned()) };
        let mut guarded = Guarded::start(shell("echo up; exec sleep 600"), &farewell).unwrap();
        assert_eq!(first_line(&mut guarded), "up");
        owner_dies(&mut guarded);
        let status = guarded.wait(LIMIT).unwrap().unwrap();
        assert_eq!(status.signal(), Some(Signal::USR1.as_raw()));
        guarded.watchdog.wait().unwrap();
        assert!(!folder.path().exists());
    }

    #[test]
    fn program_that_ignores_the_signal_is_killed_in_the_end() {
        let farewell = Farewell { signal: Signal::TERM, whole_group: false, remove: None };
        let mut guarded = Guarded::start(shell("trap '' TERM; echo up; while :; do sleep 1; done"), &farewell).unwrap();
        assert_eq!(first_line(&mut guarded), "up");
        owner_dies(&mut guarded);
        let status = guarded.wait(LIMIT).unwrap().unwrap();
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
    }

    #[test]
    fn drop_ends_a_whole_group_also_after_its_leader_has_ended() {
        let farewell = Farewell { signal: Signal::KILL, whole_group: true, remove: None };
        let mut guarded = Guarded::start(shell("sleep 600 >/dev/null & echo $!"), &farewell).unwrap();
        let grandchild = first_line(&mut guarded).parse().unwrap();
        assert!(guarded.wait(LIMIT).unwrap().unwrap().success());
        assert!(is_alive(grandchild));
        drop(guarded);
        assert!(!is_alive(grandchild));
    }

    #[test]
    fn killed_tree_takes_grandchildren_along() {
        let farewell = Farewell { signal: Signal::KILL, whole_group: false, remove: None };
        let mut guarded = Guarded::start(shell("sh -c 'sleep 600 & echo $!; wait' & wait"), &farewell).unwrap();
        let grandchild = first_line(&mut guarded).parse().unwrap();
        guarded.kill_tree().unwrap();
        assert!(!is_alive(grandchild));
    }

    #[test]
    fn missing_program_ends_with_status_127() {
        let farewell = Farewell { signal: Signal::KILL, whole_group: false, remove: None };
        let mut command = held_back("/no/such/program");
        command.stderr(Stdio::null());
        let mut guarded = Guarded::start(command, &farewell).unwrap();
        assert_eq!(guarded.wait(LIMIT).unwrap().unwrap().code(), Some(127));
    }
}
