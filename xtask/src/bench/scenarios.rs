//! What is measured, one file a scenario, and the order of programs and runs.

mod append;
mod backlog;
mod drain;
mod pickup;
mod snapshot;
mod steady;
mod sustained;

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::database::{Database, Fresh};
use super::measurement::{Measurement, unit};
use super::process::Process;
use super::programs::{self, Program};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Appends: one by one, from 64 tasks, many at once, in the caller's transaction.
    Append,
    /// Waiting no-op commands, until all are durably done; 1, 2 and 4 processes.
    Drain,
    /// The highest rate at which the backlog stays flat, then half and four fifths of it.
    Sustained,
    /// From append to start on an idle worker, in the same process and in another one.
    Pickup,
    /// The rate with much waiting, scheduled, unknown or ended beside it.
    Backlog,
    /// Rounds of drains while another session holds an old snapshot.
    Snapshot,
    /// A thousand commands that each await two seconds.
    Long,
    /// What an idle worker costs.
    Idle,
}

pub(crate) fn wanted(named: &[Scenario], quick: bool) -> Vec<Scenario> {
    use Scenario as S;
    match (named, quick) {
        ([], false) => {
            vec![S::Append, S::Drain, S::Sustained, S::Pickup, S::Backlog, S::Snapshot, S::Long, S::Idle]
        }
        ([], true) => vec![S::Append, S::Drain, S::Pickup],
        (named, _) => named.to_vec(),
    }
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) kernel_writes_early: bool,
    pub(crate) runs: u32,
    /// How long a drain should last.
    pub(crate) drain: Duration,
    /// How long a steady rate is held before it counts: connections are opened, caches and tables are empty.
    pub(crate) cold: Duration,
    /// How long a steady rate is held.
    pub(crate) hold: Duration,
    pub(crate) samples: u64,
}

impl Plan {
    pub(crate) fn new(quick: bool, kernel_writes_early: bool, runs: Option<u32>) -> Self {
        let seconds = Duration::from_secs;
        let common = Self {
            quick,
            kernel_writes_early,
            runs: runs.unwrap_or(if quick { 1 } else { 3 }),
            drain: seconds(10),
            cold: seconds(5),
            hold: seconds(60),
            samples: 200,
        };
        if quick {
            Self { drain: seconds(3), cold: seconds(2), hold: seconds(5), samples: 50, ..common }
        } else {
            common
        }
    }
}

pub(crate) struct Bench<'a> {
    pub(crate) database: &'a Database,
    pub(crate) programs: Vec<Program>,
    pub(crate) plan: Plan,
    pub(crate) json: Option<&'a mut File>,
    pub(crate) measurements: Vec<Measurement>,
}

/// A figure of one run.
pub(crate) struct Figure {
    pub(crate) case: String,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
    pub(crate) n: u64,
}

impl Figure {
    pub(crate) fn new(case: impl Into<String>, metric: &'static str, value: f64, n: u64) -> Self {
        Self { case: case.into(), metric, value, n }
    }
}

impl Bench<'_> {
    pub(crate) fn run(&mut self, scenario: Scenario) -> Result<()> {
        let plan = self.plan;
        match scenario {
            Scenario::Append => self.each("append", &|_| true, &|subject, _| append::measure(subject, plan)),
            Scenario::Drain => self.each("drain", &|_| true, &|subject, run| drain::measure(subject, plan, run)),
            Scenario::Sustained => self.once("sustained", &|_| true, &|subject, _| sustained::measure(subject, plan)),
            Scenario::Pickup => self.each("pickup", &|_| true, &|subject, run| pickup::measure(subject, plan, run)),
            Scenario::Backlog => {
                self.once("backlog", &is_ours, &at_defaults(&|subject| backlog::measure(subject, plan)))
            }
            Scenario::Snapshot => self.once("snapshot", &|_| true, &|subject, _| snapshot::measure(subject, plan)),
            Scenario::Long => self.once("long", &is_ours, &at_defaults(&|subject| steady::long(subject))),
            Scenario::Idle => self.once("idle", &is_ours, &at_defaults(&|subject| steady::idle(subject, plan))),
        }
    }

    /// Lets every program and variant take its turn, as often as there are runs.
    fn each(
        &mut self,
        scenario: &'static str,
        wanted: &dyn Fn(&Program) -> bool,
        measure: &dyn Fn(&Subject<'_>, u32) -> Result<Vec<Figure>>,
    ) -> Result<()> {
        for run in 1..=self.plan.runs {
            // Another one is the first each time: the speed of a machine drifts.
            let mut programs = self.programs.clone();
            let first = (run as usize - 1) % programs.len().max(1);
            programs.rotate_left(first);
            for program in programs.iter().filter(|program| wanted(program)) {
                for variant in program.variants {
                    // Most peers are so slow at their defaults that no spread of theirs changes the picture.
                    if run > 1 && *variant == "default" && !programs::is_judged(program.name) {
                        continue;
                    }
                    let subject = Subject { database: self.database, program, variant, version: RefCell::default() };
                    self.note(scenario, &subject, run, measure(&subject, run))?;
                }
            }
        }
        Ok(())
    }

    /// The same, once: for what lasts minutes.
    fn once(
        &mut self,
        scenario: &'static str,
        wanted: &dyn Fn(&Program) -> bool,
        measure: &dyn Fn(&Subject<'_>, u32) -> Result<Vec<Figure>>,
    ) -> Result<()> {
        let runs = std::mem::replace(&mut self.plan.runs, 1);
        let result = self.each(scenario, wanted, measure);
        self.plan.runs = runs;
        result
    }

    fn note(
        &mut self,
        scenario: &'static str,
        subject: &Subject<'_>,
        run: u32,
        figures: Result<Vec<Figure>>,
    ) -> Result<()> {
        let (database, name, variant) = (self.database.kind.name(), subject.program.name, subject.variant);
        let figures = match figures {
            Ok(figures) => figures,
            Err(error) if programs::is_judged(name) => {
                return Err(error.context(format!("{scenario} of {name} ({variant}) on {database}")));
            }
            Err(error) => {
                println!("{database} {scenario}: {name} ({variant}) gave no result: {error:#}");
                vec![Figure::new("", "failed", 1.0, 0)]
            }
        };
        for figure in figures {
            if matches!(figure.metric, "jobs_per_s" | "p50_ms" | "wrong" | "statements_per_min") {
                println!(
                    "{database} {scenario} {}, run {run}: {name} ({variant}) {} {:.2}",
                    figure.case, figure.metric, figure.value
                );
            }
            let measurement = Measurement {
                scenario: scenario.to_owned(),
                case: figure.case,
                database: database.to_owned(),
                program: name.to_owned(),
                variant: variant.to_owned(),
                metric: figure.metric.to_owned(),
                value: figure.value,
                unit: unit(figure.metric).to_owned(),
                n: figure.n,
                run,
                version: subject.version.borrow().clone(),
            };
            if let Some(json) = &mut self.json {
                writeln!(json, "{}", serde_json::to_string(&measurement)?)?;
            }
            self.measurements.push(measurement);
        }
        Ok(())
    }
}

/// What is measured under the settings that most use.
fn at_defaults<'a>(
    measure: &'a dyn Fn(&Subject<'_>) -> Result<Vec<Figure>>,
) -> impl Fn(&Subject<'_>, u32) -> Result<Vec<Figure>> + 'a {
    move |subject, _| if subject.variant == "default" { measure(subject) } else { Ok(Vec::new()) }
}

fn is_ours(program: &Program) -> bool {
    program.name == "orchestratum"
}

/// A program under one of its settings.
pub(crate) struct Subject<'a> {
    pub(crate) database: &'a Database,
    pub(crate) program: &'a Program,
    pub(crate) variant: &'static str,
    /// As the program has told it.
    version: RefCell<String>,
}

impl Subject<'_> {
    /// A fresh database with the program's tables.
    fn set_up(&self) -> Result<Fresh> {
        let fresh = self.database.fresh()?;
        self.perform(&fresh, "set-up", &[])?;
        // What earlier runs have left to be written would be written in the middle of this one.
        rustix::fs::sync();
        Ok(fresh)
    }

    /// Starts the program on a task; it waits for `go`.
    fn start(&self, fresh: &Fresh, task: &str, options: &[(&str, String)]) -> Result<Process> {
        let mut arguments: Vec<String> =
            [task, "--url", &fresh.url, "--variant", self.variant].map(str::to_owned).to_vec();
        for (name, value) in options {
            arguments.extend([format!("--{name}"), value.clone()]);
        }
        let process = Process::start(&self.program.command, &arguments)?;
        self.version.replace(process.version.clone());
        Ok(process)
    }

    /// Lets the program do a task that ends by itself. Returns what it says of it.
    fn perform(&self, fresh: &Fresh, task: &str, options: &[(&str, String)]) -> Result<Value> {
        let mut process = self.start(fresh, task, options)?;
        process.tell("go")?;
        let said = match task {
            "append" => process.hear("appended", Duration::from_secs(600))?,
            "purge" => process.hear("purged", Duration::from_secs(600))?,
            _ => process.hear("done", Duration::from_secs(900))?,
        };
        process.stop()?;
        Ok(said)
    }

    /// Appends commands `from` to `to` the fast way, and lets the server settle.
    fn fill(&self, fresh: &Fresh, from: u64, to: u64) -> Result<()> {
        self.perform(fresh, "append", &[("from", from.to_string()), ("n", to.to_string())])?;
        self.database.settle(fresh)
    }
}
