//! PgBouncer in front of a private PostgreSQL.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::account::Account;
use crate::folder::Folder;
use crate::host::Host;
use crate::install;
use crate::local::{Local, Recipe};
use crate::ports::Port;
use crate::postgres::Postgres;
use crate::server::DatabaseServer as _;

/// A pooler in transaction mode; it stops when the value is dropped.
///
/// Every transaction may meet another connection of the server. What it leaves behind there (prepared statements above
/// all) is thrown away after each, which poolers before 1.21 must be told to do.
#[derive(Debug)]
pub struct PgBouncer {
    host: Host,
}

impl PgBouncer {
    /// Starts one before `server`, for all of its databases.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start, the message quoting its log.
    pub fn start(server: &Postgres) -> Result<Self> {
        let program = install::pooler().context("PgBouncer is not installed: `apt-get install pgbouncer`")?;
        let port = Port::reserve()?;
        let folder = Folder::create("pgbouncer", Account::for_server(&["postgres"])?, None)?;
        let settings = folder.path().join("pgbouncer.ini");
        fs::write(&settings, ini(server.port(), port.number())).context("cannot write the pooler's settings")?;
        let number = port.number();
        let recipe = Recipe {
            program,
            arguments: vec![settings.into()],
            stop: Signal::TERM,
            stop_immediate: Signal::QUIT,
            is_ready: Box::new(move |_| TcpStream::connect((Ipv4Addr::LOCALHOST, number)).is_ok()),
        };
        Ok(Self { host: Local::start_new(recipe, folder, port)?.into() })
    }

    /// The URL of one database of the server, through the pooler.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.host.port())
    }
}

fn ini(server: u16, port: u16) -> String {
    format!(
        "[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_reset_query = DEALLOCATE ALL
server_reset_query_always = 1
ignore_startup_parameters = extra_float_digits
max_client_conn = 2000
default_pool_size = 5
"
    )
}
