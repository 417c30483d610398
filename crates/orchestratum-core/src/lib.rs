//! Persistent background commands on SeaORM.
//!
//! An application appends a *command* to its own database, in its own transaction if it likes; a *worker* claims it
//! under a fenced lease and runs it in the background, at least once, with retries and a timeout, on one process or on
//! fifty machines.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use orchestratum_core::{Context, Orchestrator};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Greeting {
//!     name: String,
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     let orchestrator = Orchestrator::builder()
//!         .database("sqlite://app.db?mode=rwc")
//!         .migrate()
//!         .executor("greet", |greeting: Greeting, _: Context| async move {
//!             println!("hello, {}", greeting.name);
//!             Ok(())
//!         })
//!         .build()
//!         .await?;
//!     let worker = orchestrator.start();
//!     let id = orchestrator.append(("greet", Greeting { name: "Ada".into() })).delay(Duration::from_secs(1)).await?.id();
//!     orchestrator.wait::<()>(id).await?;
//!     worker.shutdown().await?;
//!     Ok(())
//! }
//! ```
//!
//! What it does not do: it is no message broker, and no handler runs exactly once; only what a handler writes through
//! [`Context::complete_in`] takes effect exactly once.

mod append;
mod appender;
mod builder;
mod command;
mod config;
mod context;
mod engine;
pub mod entity;
mod error;
mod executor;
mod inspect;
mod instance_id;
mod instant;
mod notifier;
mod orchestrator;
mod outcome;
mod resolve;
mod retry;
mod services;
mod state;
mod store;
mod verdict;

pub use append::{Append, AppendAll, Appended};
pub use builder::Builder;
pub use command::{Command, CommandId, IntoCommand};
pub use config::{DEFAULT_QUEUE, MAX_KEY_BYTES};
pub use context::Context;
pub use engine::worker::{Worker, shutdown_signal};
pub use error::{Error, Result};
pub use executor::{Defaults, Executor, decode};
pub use inspect::{AttemptInfo, CommandInfo, Count, Filter, Order, Outcome, Page, QueueStats, Stats};
pub use instance_id::InstanceId;
pub use instant::Timestamp;
pub use orchestrator::Orchestrator;
pub use outcome::AttemptKind;
pub use retry::{MAX_RETRY_DELAY, RetryPolicy};
pub use services::Services;
pub use state::{Event, IllegalTransition, State};
pub use store::operate::Canceled;
pub use verdict::Verdict;

/// What crates built on this one need and applications do not.
#[doc(hidden)]
pub mod internal {
    pub use crate::context::write_output;
    pub use crate::orchestrator::missing_service;
}

#[cfg(test)]
mod model;

/// The suite's, for the cases that look behind the public interface.
#[cfg(test)]
#[path = "../tests/behavior/harness.rs"]
#[allow(dead_code, unused_macros, reason = "the suite uses more of it")]
mod harness;
