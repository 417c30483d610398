//! `cargo xtask chaos`: tries to break the guarantees.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::cargo_command;

#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// `model` explores every history of the lease protocol in small worlds, and lets it catch each missing protection:
    /// ten minutes and 6 GiB of memory. Everything else goes to the rig with its worker processes and servers: `workers`,
    /// `database`, `network` or `all`, and its options, which `--help` lists.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "model | RIG'S ARGUMENTS")]
    arguments: Vec<String>,
}

/// `false` when a guarantee was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    if arguments.arguments.first().is_some_and(|first| first == "model") { model() } else { rig(&arguments.arguments) }
}

/// The model stands beside the pure files that it uses; its larger worlds want a release build.
fn model() -> Result<bool> {
    let arguments = ["test", "--release", "--package", "orchestratum-core", "--lib", "model::"];
    let options = ["--", "--include-ignored", "--nocapture", "--test-threads=1"];
    cargo(&[&arguments[..], &options[..]].concat())
}

fn rig(arguments: &[String]) -> Result<bool> {
    let mut all = vec!["run", "--release", "--quiet", "--package", "orchestratum-chaos", "--"];
    all.extend(arguments.iter().map(String::as_str));
    cargo(&all)
}

fn cargo(arguments: &[&str]) -> Result<bool> {
    Ok(cargo_command(arguments).stdin(Stdio::null()).status().context("cannot run cargo")?.success())
}
