//! Typed requests for Orchestratum, with handlers that register themselves.
//!
//! One attribute makes a function the handler of a request. The request is then *sent*, which runs the handler now and
//! in this process, or *appended*, which runs it durably in the background.
//!
//! ```no_run
//! use orchestratum_core::Orchestrator;
//! use orchestratum_mediator::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! struct EmailService;
//!
//! impl EmailService {
//!     async fn send(&self, to: &str) -> anyhow::Result<()> {
//!         println!("to {to}");
//!         Ok(())
//!     }
//! }
//!
//! #[derive(Serialize, Deserialize, Request)]
//! #[request(timeout = "10m", retries = 5)]
//! struct SendEmailCommand {
//!     to: String,
//! }
//!
//! #[handler]
//! async fn send_email(command: SendEmailCommand, emails: Service<EmailService>) -> anyhow::Result<()> {
//!     emails.send(&command.to).await
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     let orchestrator = Orchestrator::builder()
//!         .database("sqlite://app.db?mode=rwc")
//!         .migrate()
//!         .service(EmailService)
//!         .mediator()
//!         .build()
//!         .await?;
//!     let worker = orchestrator.start();
//!     orchestrator.mediator().send(SendEmailCommand { to: "ada@example.org".into() }).await?;
//!     let id = orchestrator.append(SendEmailCommand { to: "ada@example.org".into() }).await?.id();
//!     orchestrator.wait::<()>(id).await?;
//!     worker.shutdown().await?;
//!     Ok(())
//! }
//! ```
//!
//! A handler in a crate that nothing references is not linked: write `use that_crate as _;` in the program.
//!
//! Where to look: [`Request`] and [`Handler`] are what most programs need; [`Behavior`] and [`OpenBehavior`] run around
//! handlers; [`FollowUps`] are commands that a request appends when it ends; [`Notification`] and [`StreamRequest`] are
//! the other two kinds of things to handle; [`MediatorBuilder`] puts it all into the builder, and [`Mediator`] runs it.

// The macros name this crate by its name, in its own tests too.
#[cfg(test)]
extern crate self as orchestratum_mediator;

mod behavior;
mod builder;
mod entry;
mod error;
mod extract;
mod follow_ups;
mod handler;
mod mediator;
mod named;
mod notification;
mod open_behavior;
mod processors;
mod registry;
mod request;
mod stream;

pub use behavior::{Behavior, Behaviors, Next};
pub use builder::{MediatorBuilder, MediatorSetup};
pub use error::{Error, PublishError, PublishFailure};
pub use extract::{FromContext, FromServices, Service};
pub use follow_ups::{Commands, FollowUps};
pub use handler::Handler;
pub use mediator::{Mediator, MediatorExt};
pub use named::Named;
pub use notification::{Notification, NotificationHandler};
pub use open_behavior::{AnyRequest, AnyResponse, OpenBehavior, OpenNext};
pub use orchestratum_core::{
    AttemptInfo, Canceled, Command, CommandId, CommandInfo, Context, Count, Defaults, Filter, IntoCommand,
    Orchestrator, Order, Outcome, Page, RetryPolicy, Services, State, Stats, Verdict, Worker, shutdown_signal,
};
pub use orchestratum_macros::{
    FromServices, Named, Notification, Request, StreamRequest, handler, notification_handler, stream_handler,
};
pub use processors::{After, Before, ErrorAction, ErrorHandler, OnError, PostProcessor, PreProcessor, Recover};
pub use request::Request;
pub use stream::{StreamHandler, StreamRequest};
pub use tokio_util::sync::CancellationToken;

/// Everything that handlers and the programs around them name.
pub mod prelude {
    pub use crate::{
        After, AnyRequest, AnyResponse, Before, Behavior, Behaviors, CancellationToken, Command, CommandId, Commands,
        Context, Defaults, ErrorAction, ErrorHandler, FollowUps, FromContext, FromServices, Handler, IntoCommand,
        Mediator, MediatorBuilder, MediatorExt, Named, Next, Notification, NotificationHandler, OnError, OpenBehavior,
        OpenNext, Orchestrator, Outcome, PostProcessor, PreProcessor, Recover, Request, RetryPolicy, Service,
        StreamHandler, StreamRequest, Verdict, Worker, handler, notification_handler, stream_handler,
    };
}

/// What the macros write; no part of the API.
#[doc(hidden)]
pub mod macro_support {
    pub use crate::entry::{Entry, RequestEntry};
    pub use crate::follow_ups::Endings;
    pub use crate::handler::Returned;
    pub use crate::named::generic_name;
    pub use crate::request::command;
    pub use crate::stream::open_stream;
    pub use anyhow;
    pub use futures_util::stream::Stream;
    pub use inventory;
    pub use orchestratum_core::Result as CoreResult;
    pub use serde;
}
