//! Follow-ups that a request computes from its own fields and its output.

use orchestratum_core::{Command, IntoCommand, Result};

use crate::request::Request;

/// What a request appends when it ends, in the transaction that ends it: once, or not at all.
///
/// Declared by `#[request(follow_ups)]` on the request. A request that is sent, and not appended, has no follow-ups.
///
/// ```
/// use orchestratum_mediator::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Request)]
/// #[request(response = u64, follow_ups)]
/// struct PlaceOrder {
///     item: String,
/// }
///
/// #[derive(Serialize, Deserialize, Request)]
/// struct ShipOrder {
///     order: u64,
/// }
///
/// #[derive(Serialize, Deserialize, Request)]
/// struct Apologize {
///     item: String,
/// }
///
/// impl FollowUps for PlaceOrder {
///     fn on_success(&self, order: &u64) -> Commands {
///         Commands::new().then(ShipOrder { order: *order })
///     }
///
///     fn on_failure(&self) -> Commands {
///         Commands::new().then_with(Apologize { item: self.item.clone() }, |command| command.queue("mail"))
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is declared with `follow_ups` and has none",
    label = "`FollowUps` is not implemented for it",
    note = "write `impl FollowUps for {Self}`, or remove `follow_ups` from `#[request(..)]`"
)]
pub trait FollowUps: Request {
    /// Appended when the command completes. Computed by the worker that completes it, each time that it tries to: keep
    /// it free of effects. An error here fails the command.
    fn on_success(&self, output: &Self::Response) -> Commands {
        let _ = output;
        Commands::new()
    }

    /// Appended when the command fails for good. Computed at its append and stored, so that whoever ends the command
    /// can append them.
    fn on_failure(&self) -> Commands {
        Commands::new()
    }

    /// Appended when the command is canceled; what a failure appends, unless this says otherwise. Computed at its
    /// append and stored.
    fn on_cancel(&self) -> Commands {
        self.on_failure()
    }
}

/// Commands in the making. The first that cannot be made is the error of all.
#[derive(Debug)]
#[must_use = "commands do nothing until they are returned"]
pub struct Commands(Result<Vec<Command>>);

impl Commands {
    /// None so far.
    pub const fn new() -> Self {
        Self(Ok(Vec::new()))
    }

    /// Adds a command: a request, a `(key, payload)` pair, or a [`Command`].
    pub fn then(self, command: impl IntoCommand) -> Self {
        self.then_with(command, |command| command)
    }

    /// Adds a command with options of its own: `.then_with(ShipOrder { order }, |command| command.delay(hour))`.
    pub fn then_with(self, command: impl IntoCommand, options: impl FnOnce(Command) -> Command) -> Self {
        Self(self.0.and_then(|mut commands| {
            commands.push(options(command.into_command()?));
            Ok(commands)
        }))
    }

    /// The commands.
    ///
    /// # Errors
    /// [`orchestratum_core::Error::Serialization`] of the first command that could not be written as JSON.
    pub fn into_result(self) -> Result<Vec<Command>> {
        self.0
    }
}

impl Default for Commands {
    fn default() -> Self {
        Self::new()
    }
}

/// The follow-ups of a request type, for code that does not know whether it has any.
#[derive(Debug)]
pub struct Endings<R: Request> {
    success: fn(&R, &R::Response) -> Commands,
    failure: fn(&R) -> Commands,
    cancel: fn(&R) -> Commands,
}

impl<R: FollowUps> Endings<R> {
    /// Those of a type that implements [`FollowUps`].
    #[must_use]
    pub fn of() -> Self {
        Self { success: R::on_success, failure: R::on_failure, cancel: R::on_cancel }
    }
}

impl<R: Request> Endings<R> {
    /// Adds what is known at append.
    pub(crate) fn add_to(&self, mut command: Command, request: &R) -> Result<Command> {
        let failure = (self.failure)(request).into_result()?;
        let cancel = (self.cancel)(request).into_result()?;
        // A command that says nothing about cancellation appends what a failure does, also what is added later.
        if cancel != failure {
            command = cancel.into_iter().fold(command.nothing_on_cancel(), Command::on_cancel);
        }
        Ok(failure.into_iter().fold(command, Command::on_failure))
    }

    /// Computes what is known once the command completes; payload and output are JSON text.
    pub(crate) fn on_success(&self, payload: &str, output: &str) -> anyhow::Result<Vec<Command>> {
        let (request, output) = (serde_json::from_str(payload)?, serde_json::from_str(output)?);
        Ok((self.success)(&request, &output).into_result()?)
    }
}
