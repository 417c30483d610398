//! `cargo xtask chaos`: tries to break the guarantees.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use crate::cargo_command;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Explore every history of the lease protocol in small worlds, and let it catch each missing protection. Takes ten
    /// minutes and 6 GiB of memory.
    Model,
}

/// `false` when a guarantee was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    match arguments.what {
        What::Model => model(),
    }
}

/// The model stands beside the pure files that it uses; its larger worlds want a release build.
fn model() -> Result<bool> {
    let arguments = ["test", "--release", "--package", "orchestratum-core", "--lib", "model::"];
    let options = ["--", "--include-ignored", "--nocapture", "--test-threads=1"];
    let mut command = cargo_command(&[&arguments[..], &options[..]].concat());
    Ok(command.stdin(Stdio::null()).status().context("cannot run cargo")?.success())
}
