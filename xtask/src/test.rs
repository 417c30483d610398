//! `cargo xtask test`: all tests, on all three databases, on a machine that has only Rust.
//!
//! Servers are private and stop with this process, however it ends; so does everything that cargo started.

use std::env;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use anyhow::{Context as _, Result};
use orchestratum_testbed::process::held_back;
use orchestratum_testbed::{DatabaseServer, Kind, MariaDb, Options, Postgres, install};

use crate::report::{self, Scope};
use crate::results::Results;
use crate::watch::{self, End};
use crate::{cargo, workspace};

const REQUIRED: &str = "ORCHESTRATUM_TEST_REQUIRED";

/// How long cargo may print nothing. Our longest silent thing is a test that compiles programs, well below two
/// minutes on two slow cores; a test that hangs would otherwise take the whole run's time.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave out PostgreSQL and MariaDB: nothing is installed or started.
    #[arg(long)]
    sqlite: bool,
    /// Run only tests whose name contains this.
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Seconds without any output after which the run is ended as hung.
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE_LIMIT.as_secs(), hide = true)]
    silence: u64,
}

/// Runs the tests; `false` when one failed, hung, or did not run on all databases.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut command = held_back(cargo());
    // `--no-fail-fast`: the table at the end is about all tests, also behind a failed one.
    command.args(["test", "--workspace", "--all-features", "--no-fail-fast"]);
    // Behind the `--`: before it, cargo would not build the examples, which some cases run.
    command.args(arguments.filter.iter().flat_map(|filter| ["--", filter]));
    command.current_dir(workspace());
    if io::stdout().is_terminal() && env::var_os("CARGO_TERM_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always"); // cargo writes into our pipe, and would see no terminal
    }

    let servers = if arguments.sqlite { None } else { Some(Servers::start()?) };
    match &servers {
        Some(servers) => {
            command.env(Postgres::VARIABLE, &servers.postgres.url).env(MariaDb::VARIABLE, &servers.mariadb.url);
            command.env(REQUIRED, report::BACKENDS.join(","));
        }
        None => {
            command.env_remove(Postgres::VARIABLE).env_remove(MariaDb::VARIABLE).env(REQUIRED, "sqlite");
        }
    }

    let mut results = Results::default();
    let end = watch::run(command, Duration::from_secs(arguments.silence), &mut io::stdout(), &mut results)?;
    drop(servers);

    let scope = match (&arguments.filter, arguments.sqlite) {
        (Some(_), _) => Scope::Selected,
        (None, true) => Scope::SqliteOnly,
        (None, false) => Scope::Everything,
    };
    println!("\n{}", report::table(&results, arguments.sqlite));
    let mut problems = report::problems(&results, scope);
    match end {
        End::Succeeded if results.tests().next().is_none() => {
            problems.push("no test has such a name".into());
        }
        End::Succeeded => {}
        End::Failed(status) => problems.push(format!("`cargo test` ended with {status}")),
        End::Hung => problems.push(format!(
            "no output for {} s, so everything was killed; {}",
            arguments.silence,
            results.whereabouts()
        )),
    }
    for problem in &problems {
        eprintln!("FAILED: {problem}");
    }
    if problems.is_empty() {
        println!("all tests passed");
    }
    Ok(problems.is_empty())
}

struct Servers {
    postgres: Database<Postgres>,
    mariadb: Database<MariaDb>,
}

impl Servers {
    fn start() -> Result<Self> {
        if !install::ensure_clock_shifter()? {
            println!("libfaketime is not installed: the cases with wrong clocks are skipped");
        }
        Ok(Self { postgres: Database::start()?, mariadb: Database::start()? })
    }
}

/// The server that the suite uses: a private one, or the one that the variable named already.
struct Database<S> {
    url: String,
    _private: Option<S>,
}

trait TestServer: DatabaseServer {
    /// Where the suite looks for the server; it creates a database per test itself.
    const VARIABLE: &str;
}

impl TestServer for Postgres {
    const VARIABLE: &str = "ORCHESTRATUM_TEST_POSTGRES_URL";
}

impl TestServer for MariaDb {
    const VARIABLE: &str = "ORCHESTRATUM_TEST_MARIADB_URL";
}

impl<S: TestServer> Database<S> {
    fn start() -> Result<Self> {
        let kind: Kind = S::KIND;
        if let Ok(url) = env::var(S::VARIABLE) {
            println!("{kind}: using {} as it is set: {url}", S::VARIABLE);
            return Ok(Self { url, _private: None });
        }
        install::ensure(kind)
            .with_context(|| format!("{kind} is not available (`cargo xtask test --sqlite` does without)"))?;
        let server = S::start(Options::fast()).with_context(|| format!("cannot start {kind}"))?;
        let url = server.url(S::ADMIN_DATABASE);
        println!("{kind}: private server at {url}");
        Ok(Self { url, _private: Some(server) })
    }
}
