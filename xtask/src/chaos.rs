//! `cargo xtask chaos`: tries to break the guarantees.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use orchestratum_testbed::{DatabaseServer as _, Kind, Options, PgBouncer, Postgres, install};

use crate::cargo_command;

#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// `model` explores every history of the lease protocol in small worlds, and lets it catch each missing protection:
    /// five minutes and 2 GiB of memory. `pgbouncer` runs the behavioral suite through a pooler in transaction mode.
    /// Everything else goes to the rig with its worker processes and servers: `all`, `workers`, `database`, `network`,
    /// `failover`, `galera`, `disk`, `fleet` or `soak`, and its options, which `--help` lists.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "model | pgbouncer | RIG'S ARGUMENTS")]
    arguments: Vec<String>,
}

/// `false` when a guarantee was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let arguments: Vec<&str> = arguments.arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["model"] => model(),
        ["pgbouncer"] => pgbouncer(),
        [what @ ("model" | "pgbouncer"), ..] => bail!("`{what}` has no options"),
        _ => rig(&arguments),
    }
}

/// The model stands beside the pure files that it uses; its larger worlds want a release build.
fn model() -> Result<bool> {
    let arguments = ["test", "--release", "--package", "orchestratum-core", "--lib", "model::"];
    let options = ["--", "--include-ignored", "--nocapture", "--test-threads=1"];
    cargo(&[&arguments[..], &options[..]].concat(), &[])
}

/// The suite's cases on PostgreSQL, with all orchestrators in poll-only mode behind a pooler.
fn pgbouncer() -> Result<bool> {
    install::ensure(Kind::Postgres)?;
    install::ensure_pooler()?;
    let server = Postgres::start(Options::fast())?;
    let pooler = PgBouncer::start(&server)?;
    let (direct, pooled) = (server.url(Postgres::ADMIN_DATABASE), pooler.url(Postgres::ADMIN_DATABASE));
    let package = ["--package", "orchestratum-core", "--all-features"];
    // The cases' other half; a run of one test program does not build it.
    let build = [&["build"], &package[..], &["--example", "worker_process"]].concat();
    let test = [&["test"], &package[..], &["--test", "behavior", "postgres"]].concat();
    let environment = [
        ("ORCHESTRATUM_TEST_POSTGRES_URL", direct.as_str()),
        ("ORCHESTRATUM_TEST_PGBOUNCER_URL", pooled.as_str()),
        ("ORCHESTRATUM_TEST_REQUIRED", "postgres"),
    ];
    Ok(cargo(&build, &[])? && cargo(&test, &environment)?)
}

fn rig(arguments: &[&str]) -> Result<bool> {
    let mut all = vec!["run", "--release", "--quiet", "--package", "orchestratum-chaos", "--"];
    all.extend(arguments);
    cargo(&all, &[])
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<bool> {
    let mut command = cargo_command(arguments);
    command.envs(environment.iter().copied()).stdin(Stdio::null());
    Ok(command.status().context("cannot run cargo")?.success())
}
