//! Starts one private database server and keeps it until ctrl-c, to try things on a real server.

#![allow(clippy::print_stdout, reason = "printing the URL is what this program is for")]

use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use orchestratum_testbed::{DatabaseServer, MariaDb, Options, Postgres};

/// Starts a private database server on a free port and keeps it until ctrl-c; its data go with it.
#[derive(Parser)]
struct Arguments {
    /// The kind of server.
    kind: Kind,
    /// Never wait for the disk: faster, and loses data with the power.
    #[arg(long)]
    fast: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Postgres,
    Mariadb,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let options = Options { durable: !arguments.fast, ..Options::default() };
    match arguments.kind {
        Kind::Postgres => keep(Postgres::start(options)?),
        Kind::Mariadb => keep(MariaDb::start(options)?),
    }
}

/// Ctrl-c needs no handler: the server stops when this process is gone, however it went.
fn keep<S: DatabaseServer>(mut server: S) -> Result<()> {
    server.create_database("orchestratum")?;
    println!("{}", server.url("orchestratum"));
    while server.is_running()? {
        thread::sleep(Duration::from_secs(1));
    }
    bail!("{} ended by itself", S::KIND);
}
