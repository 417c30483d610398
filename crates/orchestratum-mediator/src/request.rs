//! Requests: typed commands.

use orchestratum_core::{Command, Defaults, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::behavior::Behaviors;
use crate::follow_ups::Endings;
use crate::named::Named;

/// A command with a type: its fields are the payload, its handler answers with the response.
///
/// Derive it; see the macro of the same name for the options. The same type is sent with
/// [`Mediator::send`](crate::Mediator::send), which runs its handler now and in this process, or appended with
/// [`Orchestrator::append`](orchestratum_core::Orchestrator::append), which runs it durably and in the background. Its
/// [name](Named::name) is the key of the command, and its response becomes the command's output.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a request",
    label = "not a request",
    note = "a handler takes its request first: add `#[derive(Serialize, Deserialize, Request)]` to that type"
)]
pub trait Request: Named + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the handler answers.
    type Response: Serialize + DeserializeOwned + Send + 'static;

    /// What a command gets when its append does not say otherwise.
    #[must_use]
    fn defaults() -> Defaults {
        Defaults::default()
    }

    /// The behaviors of this request alone. They run inside of those given to the builder, the first outermost.
    fn behaviors() -> Behaviors<Self> {
        Behaviors::new()
    }

    /// How its follow-ups are computed; `None` without any.
    #[doc(hidden)]
    fn endings() -> Option<Endings<Self>> {
        None
    }
}

/// The command of a request: its name, its payload, its defaults, and what is appended when it fails or is canceled.
///
/// # Errors
/// [`orchestratum_core::Error::Serialization`], for the request or for one of its follow-ups.
pub fn command<R: Request>(request: &R) -> Result<Command> {
    let mut command = Command::new(R::name(), request)?;
    let Defaults { timeout, retry_count, retry_policy, queue, priority } = R::defaults();
    if let Some(timeout) = timeout {
        command = command.timeout(timeout);
    }
    if let Some(retry_count) = retry_count {
        command = command.retry_count(retry_count);
    }
    if let Some(retry_policy) = retry_policy {
        command = command.retry_policy(retry_policy);
    }
    if let Some(queue) = queue {
        command = command.queue(queue);
    }
    if let Some(priority) = priority {
        command = command.priority(priority);
    }
    match R::endings() {
        Some(endings) => endings.add_to(command, request),
        None => Ok(command),
    }
}
