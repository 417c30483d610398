//! The worker and producer processes of a run: started, killed, paused, starved, replaced.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use orchestratum_testbed::install;
use orchestratum_testbed::process::{Farewell, Guarded, held_back};
use rustix::param::page_size;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::cable;
use crate::ledger::{Entry, Ledger};
use crate::process::{CALM, UNSETTLED, UNSTARTED};

/// As the ledger has them.
pub(crate) const KILL: &str = "kill -9 of a worker";
const KILL_OF_PRODUCER: &str = "kill -9 of a producer";
pub(crate) const DEPLOY: &str = "SIGTERM of a process";
pub(crate) const JUMP: &str = "a clock jumped";
pub(crate) const OFF: &str = "a clock was off";
pub(crate) const STARVED: &str = "lack of memory of a process";

/// How a process gets to the database.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) url: String,
    /// The network that it is in, if that is not the rig's.
    pub(crate) namespace: Option<PathBuf>,
}

/// What all processes of a fleet are started with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// One for each of them, the workers first.
    pub(crate) doors: Vec<Door>,
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
    /// Whether the first worker is left alone.
    pub(crate) spares_one: bool,
    /// Whether they need no state of a session.
    pub(crate) poll_only: bool,
    /// Of what the processes do.
    pub(crate) seed: u64,
}

/// How long an orderly end may take: the grace period, half a second to clean up, ten seconds each for a claim that is
/// under way and for the last writes, five for the last heartbeat; and a busy machine.
pub(crate) const ORDERLY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Fleet {
    plan: Plan,
    ledger: Ledger,
    members: Vec<Member>,
    random: Rng,
    serial: u32,
    /// Processes that ended as they should not, or did not end.
    unwell: Vec<String>,
}

#[derive(Debug)]
struct Member {
    name: String,
    process: Guarded,
    /// Its clock is off.
    is_shifted: bool,
    paused_until: Option<Instant>,
    /// It gets no more memory until then.
    starved_until: Option<Instant>,
    was_starved: bool,
    /// When it was told to stop.
    told: Option<Instant>,
    /// Since when it is watched, and how long its ledger was then.
    watched: (Instant, u64),
}

impl Member {
    /// As its ledger is called.
    fn ledger_name(&self) -> String {
        format!("{}-{}", self.name, self.process.pid())
    }

    fn ledger(&self, plan: &Plan) -> PathBuf {
        plan.folder.join(format!("{}.jsonl", self.ledger_name()))
    }

    /// To so many bytes of addresses, or to what the rig itself may have.
    fn limit_memory(&self, most: Option<u64>) -> Result<()> {
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw).context("a process has a number")?;
        let ours = getrlimit(Resource::As);
        let limit = Rlimit { current: most.or(ours.current), maximum: ours.maximum };
        prlimit(Some(pid), Resource::As, limit).context("cannot limit the memory of a process")?;
        Ok(())
    }

    /// One that has just been started does not listen yet.
    fn listens(&self, plan: &Plan) -> bool {
        self.ledger(plan).exists()
    }
}

impl Fleet {
    pub(crate) fn start(plan: Plan, ledger: Ledger, random: Rng) -> Result<Self> {
        let mut fleet = Self { plan, ledger, members: Vec::new(), random, serial: 0, unwell: Vec::new() };
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
        let member = self.member(name, index)?;
        self.members.push(member);
        Ok(())
    }

    fn member(&mut self, name: String, index: usize) -> Result<Member> {
        let (process, is_shifted) = self.spawn(&name, index)?;
        Ok(Member {
            name,
            process,
            is_shifted,
            paused_until: None,
            starved_until: None,
            was_starved: false,
            told: None,
            watched: (Instant::now(), 0),
        })
    }

    fn replace(&mut self, index: usize) -> Result<()> {
        let name = self.members[index].name.clone();
        self.members[index] = self.member(name, index)?;
        Ok(())
    }

    /// What it does and what its clock says depends on its serial alone, and not on when it is started.
    fn spawn(&mut self, name: &str, index: usize) -> Result<(Guarded, bool)> {
        self.serial += 1;
        let plan = &self.plan;
        let mut random = Rng::with_seed(plan.seed.wrapping_add(u64::from(self.serial)));
        let Door { url, namespace } = &plan.doors[index];
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = match namespace {
            Some(namespace) => cable::held_back_in(namespace, program),
            None => held_back(program),
        };
        command.args(["process", "--url", url, "--name", name, "--ledgers"]).arg(&plan.folder);
        let share = |rate: u32| u64::from(rate / (plan.workers + plan.producers).max(1));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        for (option, value) in [
            ("--serial", u64::from(self.serial)),
            ("--seed", random.u64(..)),
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
        if plan.poll_only {
            command.arg("--poll-only");
        }
        if plan.spares_one && index == 0 {
            command.arg("--never-deadly");
        }
        // Beside these what the engine holds could not be seen: memory that commands have given back and the allocator
        // has learned to keep, and the tables that a backtrace is read from, which stay loaded.
        command.env("MALLOC_MMAP_THRESHOLD_", "4194304").env("RUST_BACKTRACE", "0");
        let shifter = if plan.clocks && random.u8(..) < 80 { install::clock_shifter() } else { None };
        let is_shifted = shifter.is_some();
        if let Some(shifter) = shifter {
            let clock = plan.folder.join(format!("{name}.clock"));
            set_clock(&clock, some_hours(&mut random))?;
            // Read again each second.
            command.env("LD_PRELOAD", shifter).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_CACHE_DURATION", "1");
            // Only the calendar is shifted: the ledger wants a clock that all share.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
            self.ledger.note(Entry::Fault { name: OFF.to_owned() });
        }
        let log = fs::File::options().create(true).append(true).open(plan.folder.join(format!("{name}.log")))?;
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::piped());
        let farewell = Farewell { signal: Signal::KILL, whole_group: false, remove: None };
        Ok((Guarded::start(command, &farewell)?, is_shifted))
    }

    /// The process id of the first worker.
    pub(crate) fn first(&self) -> u32 {
        self.members[0].process.pid()
    }

    /// Any but one that is left alone.
    fn draw(&mut self) -> usize {
        self.random.usize(usize::from(self.plan.spares_one)..self.members.len())
    }

    /// A worker four times in five, but for one that is left alone.
    fn draw_worker(&mut self) -> usize {
        let workers = usize::try_from(self.plan.workers).unwrap_or(usize::MAX);
        let spared = usize::from(self.plan.spares_one);
        let has_producers = self.members.len() > workers;
        if workers <= spared || has_producers && self.random.u8(..5) == 0 {
            self.draw()
        } else {
            self.random.usize(spared..workers)
        }
    }

    /// Lets all of them append nothing any more; what is under way is dropped.
    pub(crate) fn calm(&self) -> Result<()> {
        Ok(fs::write(self.plan.folder.join(CALM), "")?)
    }

    /// Replaces who has ended, and wakes who has slept long enough.
    pub(crate) fn tend(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            if let Some(status) = member.process.ended()? {
                self.note_end(index, status);
                self.replace(index)?;
                continue;
            }
            if member.starved_until.is_some_and(|until| until <= Instant::now()) {
                self.feed(index)?;
            }
            let member = &mut self.members[index];
            if let Some(until) = member.paused_until {
                if until <= Instant::now() {
                    self.wake(index)?;
                }
            } else if member.told.is_some_and(|told| told.elapsed() > ORDERLY) {
                self.unwell.push(format!("{} did not end within {ORDERLY:?} of SIGTERM", member.ledger_name()));
                self.kill_one(index)?;
            }
        }
        Ok(())
    }

    /// One that was not told to end, and had no deadly command to run, has crashed.
    fn note_end(&mut self, index: usize, status: ExitStatus) {
        let member = &self.members[index];
        let process = member.ledger_name();
        // Whoever gets no memory is ended by its allocator, or cannot enlarge its stack.
        let starved = member.starved_until.is_some() && status.signal() == Some(Signal::SEGV.as_raw());
        let aborted = starved || status.signal() == Some(Signal::ABORT.as_raw());
        let is_unsettled = status.code() == Some(UNSETTLED);
        let is_unstarted = status.code() == Some(UNSTARTED) && member.was_starved;
        let in_order = is_unstarted || member.told.is_some() && (status.success() || is_unsettled);
        if !in_order && !aborted {
            self.unwell.push(format!("{process} ended by itself: {status}"));
        }
        self.ledger.note(if in_order { Entry::Left { process } } else { Entry::Died { process, aborted } });
    }

    fn wake(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        if member.paused_until.take().is_some() {
            member.process.signal(Signal::CONT)?;
            // The time that it slept does not count.
            member.told = member.told.map(|_| Instant::now());
            self.ledger.note(Entry::Resumed { process: member.ledger_name() });
        }
        Ok(())
    }

    /// Anyone gets no more memory than it has for a while: allocations fail, which ends it, and so do new threads and
    /// mapped files, which must not.
    pub(crate) fn starve(&mut self) -> Result<()> {
        let index = self.draw();
        let time = Duration::from_millis(self.random.u64(2_000..8_000));
        let member = &mut self.members[index];
        if member.paused_until.is_none() && member.starved_until.is_none() && member.listens(&self.plan) {
            let pages = fs::read_to_string(format!("/proc/{}/statm", member.process.pid()))?;
            // One that has ended by itself just now has no memory.
            let pages: u64 = pages.split_whitespace().next().context("no size")?.parse()?;
            if pages > 0 {
                self.ledger.note(Entry::Starved { process: member.ledger_name() });
                member.limit_memory(Some(pages * u64::try_from(page_size())?))?;
                member.starved_until = Some(Instant::now() + time);
                member.was_starved = true;
                self.ledger.note(Entry::Fault { name: STARVED.to_owned() });
            }
        }
        Ok(())
    }

    fn feed(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        // One that has ended did so without memory.
        if member.starved_until.is_some() && member.process.ended()?.is_none() {
            member.limit_memory(None)?;
            member.starved_until = None;
            self.ledger.note(Entry::Fed { process: member.ledger_name() });
        }
        Ok(())
    }

    /// `kill -9` of anyone but those that sleep or end: they are to be seen waking and ending.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let index = self.draw_worker();
        let member = &self.members[index];
        if member.paused_until.is_none() && member.told.is_none() {
            let name = if member.name.starts_with("worker") { KILL } else { KILL_OF_PRODUCER };
            self.kill_one(index)?;
            self.ledger.note(Entry::Fault { name: name.to_owned() });
        }
        Ok(())
    }

    fn kill_one(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        self.ledger.note(Entry::Died { process: member.ledger_name(), aborted: false });
        member.process.signal(Signal::KILL)?;
        member.process.wait(Duration::from_secs(30))?;
        self.replace(index)
    }

    /// Wakes and feeds everyone, and watches from now on who begins to run something.
    pub(crate) fn watch(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            self.wake(index)?;
            self.feed(index)?;
            let length = fs::metadata(self.members[index].ledger(&self.plan)).map_or(0, |ledger| ledger.len());
            self.members[index].watched = (Instant::now(), length);
        }
        Ok(())
    }

    /// The workers that have begun to run nothing since they are watched, and for how long.
    pub(crate) fn idle(&self) -> Vec<(String, Duration)> {
        let workers = self.members.iter().filter(|member| member.name.starts_with("worker"));
        let idle = workers.filter(|member| {
            let since = usize::try_from(member.watched.1).unwrap_or(usize::MAX);
            let ledger = fs::read(member.ledger(&self.plan)).unwrap_or_default();
            !String::from_utf8_lossy(ledger.get(since..).unwrap_or_default()).contains(r#""what":"started""#)
        });
        idle.map(|member| (member.ledger_name(), member.watched.0.elapsed())).collect()
    }

    /// A clock that is off already is off by other hours at once.
    pub(crate) fn jump(&mut self) -> Result<()> {
        let shifted: Vec<usize> = (0..self.members.len()).filter(|index| self.members[*index].is_shifted).collect();
        if !shifted.is_empty() {
            let member = &self.members[shifted[self.random.usize(..shifted.len())]];
            let clock = self.plan.folder.join(format!("{}.clock", member.name));
            set_clock(&clock, some_hours(&mut self.random))?;
            self.ledger.note(Entry::Fault { name: JUMP.to_owned() });
        }
        Ok(())
    }

    /// An orderly end, as in a deploy; [`tend`](Self::tend) starts its successor.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let index = self.draw();
        let member = &mut self.members[index];
        if member.paused_until.is_none() && member.told.is_none() && member.listens(&self.plan) {
            member.process.signal(Signal::TERM)?;
            member.told = Some(Instant::now());
            self.ledger.note(Entry::Fault { name: DEPLOY.to_owned() });
        }
        Ok(())
    }

    /// SIGSTOP for longer than the lease.
    pub(crate) fn pause(&mut self) -> Result<()> {
        let index = self.draw_worker();
        let longer = Duration::from_millis(self.random.u64(500..4_000));
        let member = &mut self.members[index];
        if member.paused_until.is_none() {
            self.ledger.note(Entry::Paused { process: member.ledger_name() });
            member.process.signal(Signal::STOP)?;
            member.paused_until = Some(Instant::now() + self.plan.lease + longer);
        }
        Ok(())
    }

    /// Ends all of them in order. Returns those that ended otherwise than they should, now or before.
    pub(crate) fn stop(mut self) -> Result<Vec<String>> {
        for index in 0..self.members.len() {
            self.wake(index)?;
            self.feed(index)?;
            let started = Instant::now();
            let member = &mut self.members[index];
            while !member.listens(&self.plan) && member.process.ended()?.is_none() && started.elapsed() < ORDERLY {
                std::thread::sleep(Duration::from_millis(10));
            }
            member.process.signal(Signal::TERM)?;
            member.told = Some(member.told.unwrap_or_else(Instant::now));
        }
        let until = Instant::now() + ORDERLY;
        for index in 0..self.members.len() {
            let member = &mut self.members[index];
            let process = member.ledger_name();
            match member.process.wait(until.saturating_duration_since(Instant::now()))? {
                Some(status) => {
                    if status.code() == Some(UNSETTLED) {
                        self.unwell.push(format!("{process} could not settle everything, and nothing was in its way"));
                    }
                    self.note_end(index, status);
                }
                None => {
                    self.unwell.push(format!("{process} did not end within {ORDERLY:?} of SIGTERM"));
                    self.ledger.note(Entry::Died { process, aborted: false });
                }
            }
        }
        Ok(self.unwell)
    }
}

/// By half a day at most, and by no less than an hour.
fn some_hours(random: &mut Rng) -> i32 {
    let hours = random.i32(1..=12);
    if random.bool() { hours } else { -hours }
}

/// Renamed into place: whoever reads it meanwhile sees one or the other.
fn set_clock(clock: &Path, hours: i32) -> Result<()> {
    let next = clock.with_extension("next");
    fs::write(&next, format!("{hours:+}h\n"))?;
    Ok(fs::rename(next, clock)?)
}
