//! `cargo xtask bench`: Orchestratum beside its peers and beside the hand-written ceiling, on private durable servers.
//!
//! Programs take turns, each run gets a fresh database, and everything is measured from outside: what ran how often
//! from the programs' ledgers, bytes and statements from the server, processor time and memory from the system.

mod chart;
mod database;
mod kernel;
mod measurement;
mod process;
mod programs;
mod scenarios;
mod table;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use database::Kind;
use measurement::Measurement;
use programs::Program;
use scenarios::{Bench, Plan};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure; everything if not named.
    #[arg(value_enum, value_name = "SCENARIO")]
    scenarios: Vec<scenarios::Scenario>,
    /// The peers to measure beside; all that know the database if not named, `none` for ours and `raw` alone.
    #[arg(long, value_delimiter = ',', value_name = "PEER,…")]
    against: Option<Vec<String>>,
    /// The database; all three if not named.
    #[arg(long, value_enum)]
    database: Vec<Kind>,
    /// Ours and `raw` only, short runs: under five minutes.
    #[arg(long)]
    quick: bool,
    /// Holds four fifths of the flat rate once more while the kernel writes early: sets `vm.dirty_background_bytes` of
    /// this machine for the time being.
    #[arg(long)]
    kernel_writes_early: bool,
    /// Keeps this virtual machine from giving freed memory back to its host while it measures, and fetches all that is
    /// free beforehand.
    #[arg(long)]
    keep_memory: bool,
    /// How often each measurement is repeated.
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Where to write the measurements, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to draw drains and pick-ups.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measure nothing: show what earlier runs have written with `--json`.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    read: Vec<PathBuf>,
}

/// Measures and prints; `false` when ours or `raw` did not run every command exactly once.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut measurements = Vec::new();
    // What was measured before something failed is worth its table.
    let result = if arguments.read.is_empty() {
        measure(arguments, &mut measurements)
    } else {
        read(&arguments.read, &mut measurements)
    };
    println!("\n{}", table::render(&measurements));
    if let Some(path) = &arguments.svg {
        fs::write(path, chart::draw(&measurements)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let broken = measurements.iter().find(|m| m.metric == "wrong" && m.value > 0.0 && programs::is_judged(&m.program));
    if let Some(broken) = broken {
        println!("FAILED: {} did not run every command exactly once", broken.program);
    }
    result?;
    ensure!(!measurements.is_empty(), "nothing was measured");
    Ok(broken.is_none())
}

fn measure(arguments: &Arguments, measurements: &mut Vec<Measurement>) -> Result<()> {
    // Written as they are measured: a run of an hour that is interrupted has not been in vain.
    let mut json = match &arguments.json {
        Some(path) => Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
        None => None,
    };
    let plan = Plan::new(arguments.quick, arguments.kernel_writes_early, arguments.runs);
    let wanted = programs::wanted(arguments.against.as_deref(), arguments.quick)?;
    let kinds = if arguments.database.is_empty() { Kind::ALL.to_vec() } else { arguments.database.clone() };
    let programs: Vec<Program> = wanted
        .into_iter()
        .filter(|program| program.databases.iter().any(|kind| kinds.contains(kind)))
        .filter_map(|program| program.build().transpose())
        .collect::<Result<_>>()?;
    let kept = arguments.keep_memory.then(kernel::KeepsMemory::begin).transpose()?.flatten();
    if arguments.keep_memory && kept.is_none() {
        println!("this machine gives no memory back: --keep-memory changes nothing");
    }
    for kind in kinds {
        let database = database::Database::start(kind)?;
        let programs: Vec<Program> =
            programs.iter().filter(|program| program.databases.contains(&kind)).cloned().collect();
        let mut bench = Bench { database: &database, programs, plan, json: json.as_mut(), measurements: Vec::new() };
        let scenarios = scenarios::wanted(&arguments.scenarios, arguments.quick);
        let result = scenarios.into_iter().try_for_each(|scenario| bench.run(scenario));
        measurements.append(&mut bench.measurements);
        result?;
    }
    Ok(())
}

fn read(files: &[PathBuf], measurements: &mut Vec<Measurement>) -> Result<()> {
    for path in files {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for line in text.lines() {
            measurements.push(serde_json::from_str(line).with_context(|| format!("in {}: {line}", path.display()))?);
        }
    }
    Ok(())
}
