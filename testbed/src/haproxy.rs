//! HAProxy in front of a PostgreSQL and its standby.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::account::Account;
use crate::folder::Folder;
use crate::host::Host;
use crate::install;
use crate::local::{Local, Recipe};
use crate::ports::Port;

/// A balancer that leads to whichever of two servers says that it is the primary; it stops when the value is dropped.
#[derive(Debug)]
pub struct HaProxy {
    host: Host,
    admin: PathBuf,
}

/// The places for servers; the second is used while the first is not the primary.
const PLACES: [&str; 2] = ["a", "b"];

/// Succeeds on a primary. HAProxy says which server it asks about.
const IS_PRIMARY: &str = "#!/bin/sh
psql --no-psqlrc --tuples-only --no-align \
    --dbname \"postgres://postgres@$HAPROXY_SERVER_ADDR:$HAPROXY_SERVER_PORT/postgres?connect_timeout=2\" \
    --command 'SELECT NOT pg_is_in_recovery()' | grep --quiet t
";

impl HaProxy {
    /// Starts one that knows the server on this port; [`point`](Self::point) tells it of another one.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not start, the message quoting its log.
    pub fn start(server: u16) -> Result<Self> {
        let program = install::balancer().context("HAProxy is not installed: `apt-get install haproxy`")?;
        let port = Port::reserve()?;
        let folder = Folder::create("haproxy", Account::for_server(&["postgres"])?, None)?;
        let [settings, check, admin] = ["haproxy.cfg", "is-primary", "admin"].map(|name| folder.path().join(name));
        fs::write(&check, IS_PRIMARY).context("cannot write the balancer's check")?;
        fs::set_permissions(&check, Permissions::from_mode(0o755))?;
        fs::write(&settings, cfg(port.number(), server, &check, &admin)).context("cannot write its settings")?;
        let number = port.number();
        let recipe = Recipe {
            program,
            arguments: vec!["-db".into(), "-f".into(), settings.into()],
            stop: Signal::USR1,
            stop_immediate: Signal::TERM,
            is_ready: Box::new(move |_| TcpStream::connect((Ipv4Addr::LOCALHOST, number)).is_ok()),
        };
        Ok(Self { host: Local::start_new(recipe, folder, port)?.into(), admin })
    }

    /// Says that a place (0 or 1) is taken by the server on this port.
    ///
    /// # Errors
    ///
    /// When the balancer is gone or refuses.
    pub fn point(&self, place: usize, server: u16) -> Result<()> {
        let name = PLACES[place % PLACES.len()];
        let mut admin = UnixStream::connect(&self.admin).context("the balancer does not listen")?;
        writeln!(admin, "set server postgres/{name} addr 127.0.0.1 port {server}")?;
        let mut answer = String::new();
        admin.read_to_string(&mut answer)?;
        let is_done = answer.contains("changed") || answer.contains("no need to change");
        ensure!(is_done, "the balancer answers: {}", answer.trim());
        Ok(())
    }

    /// The port that leads to the primary.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.host.port()
    }

    /// The URL of one database of the primary, through the balancer.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port())
    }
}

fn cfg(port: u16, server: u16, check: &Path, admin: &Path) -> String {
    let [first, second] = PLACES;
    format!(
        "global
    external-check
    insecure-fork-wanted
    stats socket {} level admin
defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen postgres
    bind 127.0.0.1:{port}
    option external-check
    external-check path \"/usr/local/bin:/usr/bin:/bin\"
    external-check command {}
    default-server inter 1s fall 2 rise 1 on-marked-down shutdown-sessions
    server {first} 127.0.0.1:{server} check
    server {second} 127.0.0.1:{server} check backup
",
        admin.display(),
        check.display(),
    )
}
