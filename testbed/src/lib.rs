//! Private PostgreSQL and MariaDB servers for tests, chaos and benchmarks.
//!
//! Each server has a temporary folder and a free loopback port of its own, so that any number of them run beside each
//! other and beside the machine's own databases. None outlives its owner: it stops when its value is dropped, and a
//! watchdog stops it and removes its folder when the owner's process ends in any other way, `kill -9` included
//! ([`process`] says how).
//!
//! ```no_run
//! use orchestratum_testbed::{DatabaseServer, Options, Postgres};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut server = Postgres::start(Options::default())?;
//! server.create_database("orders")?;
//! println!("{}", server.url("orders"));
//! server.kill()?; // what loss of the process looks like
//! server.start_again()?;
//! # Ok(())
//! # }
//! ```
//!
//! Starting a server never installs anything; [`install::ensure`] does, and only `cargo xtask` calls it.

mod account;
mod container;
mod folder;
mod galera;
mod haproxy;
mod host;
pub mod install;
mod local;
mod mariadb;
mod pgbouncer;
mod ports;
mod postgres;
pub mod process;
mod server;
mod tree;

pub use galera::Galera;
pub use haproxy::HaProxy;
pub use host::Host;
pub use install::{Kind, Source, required};
pub use mariadb::MariaDb;
pub use pgbouncer::PgBouncer;
pub use ports::Port;
pub use postgres::Postgres;
pub use server::{DatabaseServer, Options};
pub use tree::{descendants, is_alive};
