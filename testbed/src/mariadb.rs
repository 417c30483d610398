//! A private MariaDB server.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use crate::account::Account;
use crate::container::{Container, Image};
use crate::folder::Folder;
use crate::host::Host;
use crate::install::{self, Kind, Source};
use crate::local::{Local, Recipe, path_argument};
use crate::ports::Port;
use crate::server::{DatabaseServer, Options};

/// A private MariaDB server with the user `root` and no password.
#[derive(Debug)]
pub struct MariaDb {
    host: Host,
    /// `None` in a container: its own client is used then.
    client: Option<PathBuf>,
}

impl DatabaseServer for MariaDb {
    const KIND: Kind = Kind::MariaDb;
    const ADMIN_DATABASE: &str = "mysql";

    fn start(options: Options) -> Result<Self> {
        let port = Port::reserve()?;
        match install::locate_or_explain(Self::KIND)? {
            Source::Installed(programs) => {
                let folder = Folder::create("mariadb", Account::for_server(&["mysql"])?, options.place.as_deref())?;
                let data = folder.data();
                let (data_argument, flags) =
                    (path_argument("--datadir=", &data), ["--auth-root-authentication-method=normal"]);
                folder.prepare(
                    &programs.prepare,
                    // `--no-defaults` must come first.
                    ["--no-defaults"].iter().chain(&flags).map(AsRef::as_ref).chain([data_argument.as_os_str()]),
                )?;
                let recipe = recipe(programs.server, &data, port.number(), &options);
                Ok(Self { host: Local::start_new(recipe, folder, port)?.into(), client: Some(programs.client) })
            }
            Source::Docker(docker) => {
                let image = Image {
                    reference: "mariadb:10.11",
                    port: 3306,
                    environment: &["MARIADB_ALLOW_EMPTY_ROOT_PASSWORD=1"],
                    stop_immediate: None,
                    is_ready: |container| greets(container.port()),
                };
                let container = Container::start_new(docker, image, settings(&options), port)?;
                Ok(Self { host: container.into(), client: None })
            }
        }
    }

    fn url(&self, database: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{database}", self.port())
    }

    fn query(&self, database: &str, sql: &str) -> Result<String> {
        let (mut command, port) = match (&self.client, self.host.container()) {
            (Some(client), _) => (Command::new(client), self.port()),
            (None, Some(container)) => (container.exec("mariadb"), 3306),
            (None, None) => (Command::new("mariadb"), self.port()),
        };
        command.args([
            "--no-defaults",
            "--host=127.0.0.1",
            "--protocol=tcp",
            "--user=root",
            "--batch",
            "--skip-column-names",
        ]);
        install::output(command.arg(format!("--port={port}")).args(["--execute", sql, database]))
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }
}

fn recipe(program: PathBuf, data: &Path, port: u16, options: &Options) -> Recipe {
    let mut arguments = vec!["--no-defaults".into(), path_argument("--datadir=", data)];
    // A socket file relative to the data folder: a full path may grow longer than the system allows.
    let places = [
        format!("--port={port}"),
        "--bind-address=127.0.0.1".into(),
        "--socket=socket".into(),
        "--pid-file=pid".into(),
    ];
    arguments.extend(places.map(Into::into));
    arguments.extend(settings(options).into_iter().map(Into::into));
    Recipe {
        program,
        arguments,
        stop: Signal::TERM,
        stop_immediate: Signal::KILL,
        is_ready: Box::new(move |_| greets(port)),
    }
}

/// A flush setting of 2 hands every commit to the operating system, which survives `kill -9`; 0 would not.
fn settings(options: &Options) -> Vec<String> {
    let durability =
        if options.durable { "--innodb-flush-log-at-trx-commit=1" } else { "--innodb-flush-log-at-trx-commit=2" };
    let settings = [durability, "--max-connections=400", "--skip-name-resolve"];
    settings.iter().map(|setting| (*setting).to_owned()).chain(options.extra_args.iter().cloned()).collect()
}

/// Whether a MariaDB greets whoever connects, which it does once recovery is over. The greeting is a packet header of
/// four bytes and the protocol's version, 10.
fn greets(port: u16) -> bool {
    let greeting = || -> std::io::Result<[u8; 5]> {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting)?;
        Ok(greeting)
    };
    greeting().is_ok_and(|greeting| greeting[4] == 10)
}
