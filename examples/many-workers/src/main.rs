//! Several processes work on one database. One of them is killed, and the others finish what it was doing.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod tally;
mod worker;

use std::process::Stdio;
use std::time::Duration;

use clap::Parser;
use orchestratum_core::Orchestrator;
use tokio::process::{Child, Command};

use crate::tally::Tally;

#[derive(Parser)]
#[command(about = "Several processes work on one database. One of them is killed, and the others finish its work.")]
struct Arguments {
    /// How many worker processes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..))]
    workers: u32,
    /// How many commands to append.
    #[arg(long, default_value_t = 300)]
    commands: u32,
    /// PostgreSQL or MariaDB instead of a temporary SQLite file.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// What this process is called, when it is one of the workers.
    #[arg(long, hide = true, requires = "queue")]
    worker: Option<String>,
    /// The queue of this run, so that it meets no other one on a shared database.
    #[arg(long, hide = true)]
    queue: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let arguments = Arguments::parse();
    let url = arguments.database_url.unwrap_or_else(|| format!("sqlite://{}/app.db?mode=rwc", folder.path().display()));
    match (arguments.worker, arguments.queue) {
        (Some(name), Some(queue)) => worker::run(&url, &queue, &name).await,
        _ => lead(&url, arguments.workers, arguments.commands).await,
    }
}

async fn lead(url: &str, workers: u32, commands: u32) -> anyhow::Result<()> {
    // This process runs no commands itself.
    let orchestrator = Orchestrator::builder().database(url).migrate().client_only().build().await?;
    let queue = format!("many-workers-{}", std::process::id());
    let tally = Tally { database: orchestrator.connection().clone(), queue: queue.clone() };

    let names: Vec<String> = (1..=workers).map(|number| format!("worker-{number}")).collect();
    let mut processes = Vec::new();
    for name in &names {
        processes.push(spawn(url, &queue, name)?);
    }
    until(async || Ok(tally.registered_workers().await? >= u64::from(workers))).await?;
    println!("{workers} workers are running");

    let list =
        (1..=commands).map(|number| orchestratum_core::Command::new("work", &number).map(|work| work.queue(&queue)));
    orchestrator.append_all(list.collect::<Result<Vec<_>, _>>()?).await?;
    println!("{commands} commands are appended");

    until(async || Ok(tally.completed().await? >= u64::from(commands / 3))).await?;
    let mut killed = processes.swap_remove(0);
    killed.kill().await?;
    println!("{} is killed after {} commands in all", names[0], tally.completed().await?);

    until(async || Ok(tally.completed().await? == u64::from(commands))).await?;
    println!("all {commands} commands are completed:");
    for (name, count) in tally.by_worker().await? {
        println!("{count:>5} by {name}");
    }
    println!("{:>5} of them were taken over from {}", tally.taken_over().await?, names[0]);
    for mut process in processes {
        // A worker shuts down when nobody holds the other end of its standard input.
        drop(process.stdin.take());
        anyhow::ensure!(process.wait().await?.success(), "a worker ended with an error");
    }
    Ok(())
}

fn spawn(url: &str, queue: &str, name: &str) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--worker", name, "--queue", queue]).env("DATABASE_URL", url);
    Ok(command.stdin(Stdio::piped()).kill_on_drop(true).spawn()?)
}

async fn until(condition: impl AsyncFn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while !condition().await? {
        look.tick().await;
    }
    Ok(())
}
