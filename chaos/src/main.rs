//! Tries to break the guarantees: real workers and producers on a real database, faults drawn from a seed, and a checker
//! that compares what the processes wrote down with what the database has.
//!
//! The life of a run: [`rig`] starts a [`database`] and a [`fleet`] of processes, each of which is this program again
//! ([`process`]: the [`load`] that it appends, the [`job`]s that it runs); the [`faults`] go their ways; in the
//! [`aftermath`] everything is let drain in peace, and [`check`] reads the [`ledger`]s.

#![allow(clippy::print_stdout, reason = "a report is what this program is for")]

mod aftermath;
mod cable;
mod check;
mod crowd;
mod database;
mod disk;
mod faults;
mod fleet;
mod job;
mod ledger;
mod load;
mod picture;
mod process;
mod proxy;
mod pulse;
mod rig;
mod soak;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    rig: rig::Arguments,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// One of the processes under attack.
    #[command(hide = true)]
    Process(process::Arguments),
}

fn main() -> Result<ExitCode> {
    let arguments = CommandLine::parse();
    // More threads than cores: some handlers block theirs.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(6).enable_all().build()?;
    let passed = match arguments.role {
        Some(Role::Process(process)) => runtime.block_on(process::run(process)).map(|()| true),
        None => runtime.block_on(rig::run(&arguments.rig)),
    };
    runtime.shutdown_background();
    Ok(if passed? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
