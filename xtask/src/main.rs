//! The project's own commands: `cargo xtask test`, `bench`, `chaos` and `ci`. One file per command.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod bench;
mod chaos;
mod ci;
mod report;
mod results;
mod test;
mod watch;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all tests on SQLite, PostgreSQL and MariaDB; servers are installed where possible, started and stopped.
    Test(test::Arguments),
    /// Measure Orchestratum beside its peers and beside the hand-written ceiling.
    Bench(bench::Arguments),
    /// Try to break the guarantees.
    Chaos(chaos::Arguments),
    /// Check formatting, lints, documentation, licences and sources of dependencies, and each database feature alone.
    Ci,
}

fn main() -> ExitCode {
    let verdict = match Arguments::parse().task {
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Chaos(arguments) => chaos::run(&arguments),
        Task::Ci => ci::run(),
    };
    match verdict {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The cargo that runs us, or the one in PATH.
fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The workspace's folder, so that a command works from everywhere inside it.
fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A cargo command in the workspace's folder.
fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.args(arguments).current_dir(workspace());
    command
}
