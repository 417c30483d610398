//! The worker and producer processes of a run: started, killed, paused, replaced.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use orchestratum_testbed::install;
use orchestratum_testbed::process::{Farewell, Guarded, held_back};
use rustix::process::Signal;

use crate::ledger::{Entry, Ledger};

/// What all processes of a fleet are started with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The address of the database for each of them, the workers first.
    pub(crate) urls: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) lease: Duration,
    pub(crate) workers: u32,
    pub(crate) producers: u32,
    /// Commands a second of all of them together.
    pub(crate) rate: u32,
    /// Commands a second of the stream.
    pub(crate) stream: u32,
    /// How long commands that have ended are kept, `None` for ever.
    pub(crate) keep: Option<Duration>,
    /// Whether some get clocks that are hours off.
    pub(crate) clocks: bool,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    plan: Plan,
    ledger: Ledger,
    members: Vec<Member>,
    random: Rng,
    serial: u32,
}

#[derive(Debug)]
struct Member {
    name: String,
    process: Guarded,
    paused_until: Option<Instant>,
}

impl Member {
    /// As its ledger is called.
    fn ledger_name(&self) -> String {
        format!("{}-{}", self.name, self.process.pid())
    }
}

impl Fleet {
    pub(crate) fn start(plan: Plan, ledger: Ledger, random: Rng) -> Result<Self> {
        let mut fleet = Self { plan, ledger, members: Vec::new(), random, serial: 0 };
        for number in 0..fleet.plan.workers {
            fleet.add(format!("worker-{number}"), number)?;
        }
        for number in 0..fleet.plan.producers {
            fleet.add(format!("producer-{number}"), fleet.plan.workers + number)?;
        }
        Ok(fleet)
    }

    fn add(&mut self, name: String, number: u32) -> Result<()> {
        let index = usize::try_from(number)?;
        let process = self.spawn(&name, index)?;
        self.members.push(Member { name, process, paused_until: None });
        Ok(())
    }

    fn spawn(&mut self, name: &str, index: usize) -> Result<Guarded> {
        self.serial += 1;
        let plan = &self.plan;
        let mut command = held_back(std::env::current_exe().context("cannot find this program")?);
        command.args(["process", "--url", &plan.urls[index], "--name", name, "--ledgers"]).arg(&plan.folder);
        let share = |rate: u32| u64::from(rate / (plan.workers + plan.producers).max(1));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        for (option, value) in [
            ("--serial", u64::from(self.serial)),
            ("--seed", self.random.u64(..)),
            ("--rate", share(plan.rate)),
            ("--stream", share(plan.stream)),
            ("--lease-ms", millis(plan.lease)),
        ] {
            command.args([option, &value.to_string()]);
        }
        if let Some(keep) = plan.keep {
            command.args(["--keep-ms", &millis(keep).to_string()]);
        }
        if name.starts_with("producer") {
            command.arg("--only-append");
        }
        if let (true, Some(shifter)) = (plan.clocks && self.random.u8(..) < 80, install::clock_shifter()) {
            let clock = plan.folder.join(format!("{name}.clock"));
            set_clock(&clock, self.random.i32(-12..12))?;
            // Read again each second.
            command.env("LD_PRELOAD", shifter).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_CACHE_DURATION", "1");
            // Only the calendar is shifted: the ledger wants a clock that all share.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
            self.ledger.note(Entry::Fault { name: "a clock was off".to_owned() });
        }
        let log = std::fs::File::options().create(true).append(true).open(plan.folder.join(format!("{name}.log")))?;
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::piped());
        Guarded::start(command, &Farewell { signal: Signal::KILL, whole_group: false, remove: None })
    }

    /// The process ids of the workers.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let workers = self.members.iter().filter(|member| member.name.starts_with("worker"));
        workers.map(|member| member.process.pid()).collect()
    }

    /// Replaces who has died, and wakes who has slept long enough.
    pub(crate) fn tend(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if member.process.ended()?.is_some() {
                self.ledger.note(Entry::Died { process: member.ledger_name() });
                let name = member.name.clone();
                let process = self.spawn(&name, index)?;
                self.members[index] = Member { name, process, paused_until: None };
            } else if member.paused_until.is_some_and(|until| until <= Instant::now()) {
                member.process.signal(Signal::CONT)?;
                member.paused_until = None;
                self.ledger.note(Entry::Resumed { process: member.ledger_name() });
            }
        }
        Ok(())
    }

    /// `kill -9` of anyone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let index = self.random.usize(..self.members.len());
        let member = &mut self.members[index];
        self.ledger.note(Entry::Died { process: member.ledger_name() });
        self.ledger.note(Entry::Fault { name: "kill -9 of a process".to_owned() });
        member.process.signal(Signal::KILL)?;
        member.process.wait(Duration::from_secs(30))?;
        let name = member.name.clone();
        let process = self.spawn(&name, index)?;
        self.members[index] = Member { name, process, paused_until: None };
        Ok(())
    }

    /// A clock that is off already is off by other hours at once.
    pub(crate) fn jump(&mut self) -> Result<()> {
        let index = self.random.usize(..self.members.len());
        let clock = self.plan.folder.join(format!("{}.clock", self.members[index].name));
        if clock.exists() {
            self.ledger.note(Entry::Fault { name: "a clock jumped".to_owned() });
            set_clock(&clock, self.random.i32(-12..12))?;
        }
        Ok(())
    }

    /// An orderly end, as in a deploy; [`tend`](Self::tend) starts its successor.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let index = self.random.usize(..self.members.len());
        let member = &mut self.members[index];
        if member.paused_until.is_none() {
            self.ledger.note(Entry::Fault { name: "SIGTERM of a process".to_owned() });
            member.process.signal(Signal::TERM)?;
        }
        Ok(())
    }

    /// SIGSTOP for longer than the lease.
    pub(crate) fn pause(&mut self) -> Result<()> {
        let index = self.random.usize(..self.members.len());
        let longer = Duration::from_millis(self.random.u64(500..4_000));
        let member = &mut self.members[index];
        if member.paused_until.is_none() {
            self.ledger.note(Entry::Paused { process: member.ledger_name() });
            member.process.signal(Signal::STOP)?;
            member.paused_until = Some(Instant::now() + self.plan.lease + longer);
        }
        Ok(())
    }

    /// Ends all of them in order. Returns those that did not end by themselves, or not well.
    pub(crate) fn stop(mut self, limit: Duration) -> Result<Vec<String>> {
        let mut unwell = Vec::new();
        for member in &mut self.members {
            // One that has just been started does not listen yet.
            let ledger = self.plan.folder.join(format!("{}.jsonl", member.ledger_name()));
            let started = Instant::now();
            while !ledger.exists() && member.process.ended()?.is_none() && started.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(10));
            }
            if member.paused_until.is_some() {
                self.ledger.note(Entry::Resumed { process: member.ledger_name() });
                member.process.signal(Signal::CONT)?;
            }
            member.process.signal(Signal::TERM)?;
        }
        for member in &mut self.members {
            match member.process.wait(limit)? {
                // A deadly command may have ended it just before.
                Some(status) if status.success() || status.signal() == Some(Signal::ABORT.as_raw()) => {}
                Some(status) => unwell.push(format!("{} ended with {status}", member.ledger_name())),
                None => unwell.push(format!("{} did not end within {limit:?}", member.ledger_name())),
            }
            self.ledger.note(Entry::Died { process: member.ledger_name() });
        }
        Ok(unwell)
    }
}

/// Renamed into place: whoever reads it meanwhile sees one or the other.
fn set_clock(clock: &Path, hours: i32) -> Result<()> {
    let next = clock.with_extension("next");
    std::fs::write(&next, format!("{hours:+}h\n"))?;
    Ok(std::fs::rename(next, clock)?)
}
