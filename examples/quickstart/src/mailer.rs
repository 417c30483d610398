//! Writes messages into a folder, or sends them to a mail server.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use orchestratum_core::{CommandId, Context};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

pub(crate) struct Mailer {
    transport: Transport,
    slow: Duration,
    sent: AtomicUsize,
}

enum Transport {
    Outbox(PathBuf),
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
}

impl Mailer {
    pub(crate) const fn outbox(folder: PathBuf) -> Self {
        Self::new(Transport::Outbox(folder))
    }

    pub(crate) fn smtp(url: &str) -> anyhow::Result<Self> {
        Ok(Self::new(Transport::Smtp(AsyncSmtpTransport::<Tokio1Executor>::from_url(url)?.build())))
    }

    const fn new(transport: Transport) -> Self {
        Self { transport, slow: Duration::ZERO, sent: AtomicUsize::new(0) }
    }

    pub(crate) const fn slowed_by(mut self, slow: Duration) -> Self {
        self.slow = slow;
        self
    }

    /// Sends one message. A command may run more than once, so the message takes its identity from the command: a second
    /// attempt replaces the file, and a mail server can tell that it has this message already.
    pub(crate) async fn send(&self, ctx: &Context, to: &str, subject: &str, body: String) -> anyhow::Result<()> {
        let id = ctx.command_id().context("e-mails are appended, not sent in process")?;
        let message = Message::builder()
            .message_id(Some(format!("<{id}@example.org>")))
            .from("Quickstart <quickstart@example.org>".parse()?)
            .to(to.parse()?)
            .subject(subject)
            .body(body)?;
        tokio::time::sleep(self.slow).await;
        match &self.transport {
            Transport::Outbox(folder) => write(folder, id, &message.formatted()).await?,
            Transport::Smtp(server) => drop(server.send(message).await?),
        }
        let number = 1 + self.sent.fetch_add(1, Ordering::Relaxed);
        println!("{number:>4}  {to}  {subject}  ({}, attempt {})", ctx.key(), ctx.attempt());
        Ok(())
    }
}

/// Renames at the end, so that a kill leaves no half message behind.
async fn write(folder: &std::path::Path, id: CommandId, message: &[u8]) -> anyhow::Result<()> {
    let unfinished = folder.join(format!("{id}.tmp"));
    let mut file = File::create(&unfinished).await?;
    file.write_all(message).await?;
    // The command completes after this, and a completed command survives loss of power: so must its message.
    file.sync_all().await?;
    fs::rename(unfinished, folder.join(format!("{id}.eml"))).await?;
    Ok(())
}
