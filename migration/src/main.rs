//! `cargo run -p orchestratum-migration -- up|down|status|fresh|sql`, against `DATABASE_URL`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line speaks to its user")]

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand, ValueEnum};
use orchestratum_migration::{self as migration, Dialect, SchemaState, VERSION};
use sea_orm_migration::sea_orm::{ConnectOptions, Database, DatabaseConnection};

#[derive(Parser)]
#[command(about = "Creates, removes and shows the database schema of Orchestratum")]
struct Arguments {
    /// The database, e.g. `sqlite://app.db?mode=rwc`, `postgres://user@host/app`, `mysql://user@host/app`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Apply what is missing.
    Up,
    /// Remove the schema and every command in it; needs --yes.
    Down(Confirmation),
    /// Show the migrations; exit status 1 when the schema does not fit this program.
    Status,
    /// Remove the schema and every command in it, then create it anew; needs --yes.
    Fresh(Confirmation),
    /// Print the schema as an SQL script.
    Sql { database: Kind },
}

#[derive(clap::Args)]
struct Confirmation {
    /// Yes, delete all commands.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Sqlite,
    Postgres,
    Mariadb,
    Mysql,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    if let Action::Sql { database } = arguments.action {
        let dialect = match database {
            Kind::Sqlite => Dialect::Sqlite,
            Kind::Postgres => Dialect::Postgres,
            Kind::Mariadb => Dialect::MariaDb,
            Kind::Mysql => Dialect::MySql,
        };
        print!("{}", migration::sql(dialect));
        return Ok(());
    }
    let url = arguments.database_url.context("set DATABASE_URL or give --database-url")?;
    // SeaORM knows one name for both.
    let url = url.strip_prefix("mariadb:").map(|rest| format!("mysql:{rest}")).unwrap_or(url);
    let mut options = ConnectOptions::new(&url);
    options.sqlx_logging(false).max_connections(1);
    // SeaORM repeats an address that it cannot read, with the password.
    let connection = Database::connect(options).await.map_err(|error| {
        anyhow!("the database cannot be reached: {}", error.to_string().replace(&url, "the address given"))
    })?;
    match arguments.action {
        Action::Up => migration::up(&connection).await?,
        Action::Down(confirmation) => {
            confirmation.require()?;
            migration::down(&connection).await?;
        }
        Action::Fresh(confirmation) => {
            confirmation.require()?;
            migration::fresh(&connection).await?;
        }
        Action::Status | Action::Sql { .. } => return show_status(&connection).await,
    }
    println!("done");
    Ok(())
}

impl Confirmation {
    fn require(&self) -> Result<()> {
        if !self.yes {
            bail!("this deletes all commands, also those that have not run: add --yes");
        }
        Ok(())
    }
}

async fn show_status(connection: &DatabaseConnection) -> Result<()> {
    for (name, applied) in migration::status(connection).await? {
        println!("{name}: {}", if applied { "applied" } else { "pending" });
    }
    match migration::check(connection).await? {
        SchemaState::Current => println!("schema version {VERSION}: current"),
        SchemaState::Behind { found: None } => bail!("no schema: run `up`"),
        SchemaState::Behind { found: Some(found) } => {
            bail!("schema version {found} is behind {VERSION}: run `up`")
        }
        SchemaState::Ahead { found } => {
            bail!("schema version {found} is ahead of this program's {VERSION}")
        }
    }
    Ok(())
}
