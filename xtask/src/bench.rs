//! `cargo xtask bench`: Orchestratum beside its peers and beside the hand-written ceiling, on private durable servers.
//!
//! Programs take turns, each run gets a fresh database, and everything is measured from outside: what ran how often
//! from the programs' ledgers, bytes and statements from the server, processor time and memory from the system.

mod database;
mod measurement;
mod process;
mod programs;
mod scenarios;
mod table;

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use database::Kind;
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
    /// How often each measurement is repeated.
    #[arg(long, value_name = "N")]
    runs: Option<u32>,
    /// Where to write the measurements, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures and prints; `false` when ours or `raw` did not run every command exactly once.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let plan = Plan::new(arguments.quick, arguments.runs);
    let wanted = programs::wanted(arguments.against.as_deref(), arguments.quick)?;
    let kinds = if arguments.database.is_empty() { Kind::ALL.to_vec() } else { arguments.database.clone() };
    let programs: Vec<Program> = wanted
        .into_iter()
        .filter(|program| program.databases.iter().any(|kind| kinds.contains(kind)))
        .filter_map(|program| program.build())
        .collect();
    let mut measurements = Vec::new();
    for kind in kinds {
        let database = database::Database::start(kind)?;
        let programs: Vec<Program> =
            programs.iter().filter(|program| program.databases.contains(&kind)).cloned().collect();
        let mut bench = Bench { database: &database, programs, plan, measurements: Vec::new() };
        for scenario in scenarios::wanted(&arguments.scenarios, arguments.quick) {
            bench.run(scenario)?;
        }
        measurements.append(&mut bench.measurements);
    }
    println!("\n{}", table::render(&measurements));
    if let Some(path) = &arguments.json {
        let mut file = BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
        for measurement in &measurements {
            writeln!(file, "{}", measurement.to_json())?;
        }
        file.flush()?;
    }
    let broken = measurements.iter().find(|m| m.metric == "wrong" && m.value > 0.0 && programs::is_judged(&m.program));
    if let Some(broken) = broken {
        println!("FAILED: {} did not run every command exactly once", broken.program);
    }
    Ok(broken.is_none())
}
