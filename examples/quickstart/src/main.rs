//! Sends e-mails in the background. Kill it in the middle and run it again: it sends what was left.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

mod mailer;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use orchestratum_core::{Context, Filter, Orchestrator, Outcome, Page, State};
use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

use crate::mailer::Mailer;

#[derive(Parser)]
#[command(about = "Sends e-mails in the background. Kill it in the middle and run it again: it sends what was left.")]
struct Arguments {
    /// How many e-mails to append.
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// Lets each e-mail take this many milliseconds, so that there is time to kill the process.
    #[arg(long, default_value_t = 0)]
    slow: u64,
    /// Where the outbox and the SQLite file are.
    #[arg(long, env = "QUICKSTART_FOLDER", default_value = "quickstart-data")]
    folder: PathBuf,
    /// PostgreSQL or MariaDB instead of the SQLite file.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    /// A mail server instead of the outbox: `smtp://localhost:1025`, `smtps://user:password@host`.
    #[arg(long, env = "SMTP_URL", hide_env_values = true)]
    smtp_url: Option<String>,
}

/// One way: the payload of commands with a key, here `send-email`.
#[derive(Serialize, Deserialize)]
struct EmailData {
    to: String,
    subject: String,
    body: String,
}

/// The other way: a request, whose handler registers itself.
#[derive(Serialize, Deserialize, Request)]
#[request(timeout = "1m", queue = "mail")]
struct SendEmailCommand {
    to: String,
    subject: String,
    body: String,
}

#[handler]
async fn send_email(command: SendEmailCommand, mailer: Service<Mailer>, ctx: Context) -> anyhow::Result<()> {
    mailer.send(&ctx, &command.to, &command.subject, command.body).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { count, slow, folder, database_url, smtp_url } = Arguments::parse();
    let outbox = folder.join("outbox");
    std::fs::create_dir_all(&outbox).with_context(|| format!("cannot create {}", outbox.display()))?;
    let mailer = match smtp_url {
        Some(url) => Mailer::smtp(&url)?,
        None => Mailer::outbox(outbox),
    };

    let orchestrator = Orchestrator::builder()
        .database(database_url.unwrap_or_else(|| format!("sqlite://{}/app.db?mode=rwc", folder.display())))
        .migrate()
        .service(mailer.slowed_by(Duration::from_millis(slow)))
        .executor("send-email", |data: EmailData, ctx: Context| async move {
            ctx.service::<Mailer>()?.send(&ctx, &data.to, &data.subject, data.body).await
        })
        .mediator()
        .queue_concurrency("mail", 4)
        // What a killed process was sending waits for the end of its lease. The default of 30 s forgives a slow network
        // more; here somebody watches the second run.
        .lease_duration(Duration::from_secs(5))
        .build()
        .await?;

    let mut ids = unfinished(&orchestrator).await?;
    if ids.is_empty() {
        ids = append(&orchestrator, count).await?;
        println!("appended {count} e-mails");
    } else {
        println!("an earlier run left {} e-mails: sending them", ids.len());
    }

    let worker = orchestrator.start();
    let mut completed = 0;
    for id in &ids {
        match orchestrator.wait::<()>(*id).await? {
            Outcome::Completed(()) => completed += 1,
            other => println!("{id}: {other:?}"),
        }
    }
    worker.shutdown().await?;
    let (all, left) = (ids.len(), unfinished(&orchestrator).await?.len());
    println!("{completed} of {all} commands are completed, {left} are left");
    anyhow::ensure!(completed == all, "some e-mails could not be sent");
    Ok(())
}

async fn append(orchestrator: &Orchestrator, count: usize) -> anyhow::Result<Vec<CommandId>> {
    let mut ids = Vec::new();
    for number in 1..=count {
        let (to, body) = (format!("user{number}@example.org"), format!("Dear user {number},\n\nit works.\n"));
        let appended = if number % 2 == 1 {
            let subject = format!("Welcome, user {number}");
            orchestrator.append(("send-email", EmailData { to, subject, body })).queue("mail").await?
        } else {
            let subject = format!("Invoice {number}");
            orchestrator.append(SendEmailCommand { to, subject, body }).await?
        };
        ids.push(appended.id());
    }
    Ok(ids)
}

/// The e-mails that are still to be sent, page by page.
async fn unfinished(orchestrator: &Orchestrator) -> anyhow::Result<Vec<CommandId>> {
    let live = Filter::all().queue("mail").state(State::Pending).state(State::Running);
    let mut ids: Vec<CommandId> = Vec::new();
    loop {
        let page = Page::default().limit(1_000);
        let page = ids.last().map_or(page, |last| page.after(*last));
        let commands = orchestrator.list(live.clone(), page).await?;
        if commands.is_empty() {
            return Ok(ids);
        }
        ids.extend(commands.iter().map(|command| command.id));
    }
}
