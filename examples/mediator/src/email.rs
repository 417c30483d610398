//! A generic request: one handler for every template.

use orchestratum_mediator::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(crate) trait Template: Named + Serialize + DeserializeOwned + Send + Sync + 'static {
    fn subject(&self, to: &str) -> String;
}

/// Its name is stored with the commands: `send_email<welcome>`.
#[derive(Serialize, Deserialize, Named)]
pub(crate) struct Welcome;

impl Template for Welcome {
    fn subject(&self, to: &str) -> String {
        format!("Welcome, {to}")
    }
}

#[derive(Serialize, Deserialize, Named)]
pub(crate) struct Invoice {
    pub(crate) cents: u32,
}

impl Template for Invoice {
    fn subject(&self, to: &str) -> String {
        format!("{to} owes {}.{:02}", self.cents / 100, self.cents % 100)
    }
}

#[derive(Serialize, Deserialize, Request)]
#[request(response = String, timeout = "1m", retries = 5, queue = "mail")]
pub(crate) struct SendEmailCommand<T> {
    pub(crate) to: String,
    pub(crate) template: T,
}

/// A generic handler lists what it handles: each is registered under its own name.
#[handler(SendEmailCommand<Welcome>, SendEmailCommand<Invoice>)]
async fn send_email<T: Template>(command: SendEmailCommand<T>) -> anyhow::Result<String> {
    Ok(command.template.subject(&command.to))
}
