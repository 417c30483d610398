//! A measured program that runs: what it is told, what it says, what it costs.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// It ends when we do: its standard input closes.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    pub(crate) version: String,
}

impl Process {
    /// Starts a program; it is connected and waits when this returns.
    pub(crate) fn start(program: &[String], arguments: &[String]) -> Result<Self> {
        let (name, rest) = program.split_first().context("a program has a name")?;
        let mut command = Command::new(name);
        command.args(rest).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, lines) = channel();
        let stdout = stdout.context("its output is a pipe")?;
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        let mut process = Self { child, stdin: stdin.context("its input is a pipe")?, lines, version: String::new() };
        let ready = process.hear("ready", Duration::from_secs(60))?;
        process.version = ready["version"].as_str().unwrap_or_default().to_owned();
        Ok(process)
    }

    pub(crate) fn tell(&mut self, word: &str) -> Result<()> {
        let Err(gone) = writeln!(self.stdin, "{word}").and_then(|()| self.stdin.flush()) else { return Ok(()) };
        let _ = self.child.kill(); // one that only listens no more would not end
        match self.said_error() {
            Some(error) => bail!("the program has ended: {error}"),
            None => Err(gone).context("the program has ended"),
        }
    }

    /// Only of a program that has ended: before that it would wait for the next line.
    fn said_error(&self) -> Option<Value> {
        self.lines.iter().find_map(|line| line.get("error").cloned())
    }

    /// The next line with this field; an error said by the program is an error here.
    pub(crate) fn hear(&mut self, field: &str, patience: Duration) -> Result<Value> {
        loop {
            match self.lines.recv_timeout(patience) {
                Ok(line) if line.get(field).is_some() => return Ok(line),
                Ok(line) => {
                    if let Some(error) = line.get("error") {
                        bail!("{error}");
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("the program said no `{field}` for {patience:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the program ended without `{field}`"),
            }
        }
    }

    /// How many handlers it says have run, if it has said so since the last call.
    pub(crate) fn progress(&mut self) -> Result<Option<u64>> {
        let mut told = None;
        for line in self.lines.try_iter() {
            if let Some(error) = line.get("error") {
                bail!("{error}");
            }
            told = line["ran"].as_u64().or(told);
        }
        Ok(told)
    }

    pub(crate) fn left(&mut self) -> Result<u64> {
        self.tell("left")?;
        let line = self.hear("left", Duration::from_secs(60))?;
        line["left"].as_u64().context("a count")
    }

    /// Lets it save its ledger and leave.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.tell("stop")?;
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        let error = self.said_error().unwrap_or_default();
        bail!("the program ended with {status}: {error}")
    }

    pub(crate) fn cpu_us(&self) -> u64 {
        cpu_us(self.child.id())
    }

    /// The most memory it has held, in MiB.
    pub(crate) fn peak_rss_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    }
}

/// A program whose measurement has failed must not run into the next one.
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of a process and of its children that have ended, in microseconds.
pub(crate) fn cpu_us(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 1_000_000 / rustix::param::clock_ticks_per_second()
}

/// How often each command ran, from the ledgers of all processes.
pub(crate) fn counts(ledgers: &[impl AsRef<Path>], n: u64) -> Result<Vec<u32>> {
    let mut counts = vec![0; usize::try_from(n)?];
    for ledger in ledgers {
        let bytes = fs::read(ledger).context("a program left no ledger")?;
        counts.iter_mut().zip(bytes).for_each(|(count, byte)| *count += u32::from(byte));
    }
    Ok(counts)
}

/// Nanoseconds since 1970, one a command; 0 where nothing happened.
pub(crate) fn times(file: &Path) -> Result<Vec<u64>> {
    let bytes = fs::read(file).context("a program left no times")?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}
