//! What can go wrong in the mediator itself.

use std::fmt;

/// What can go wrong before a handler runs, or between behaviors. Inside of the [`anyhow::Error`] of a `send`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No handler of this request is registered in this program.
    #[error(
        "no handler is linked for request `{request}`; this program serves: {}. \
         A handler in a crate that nothing references is not linked: add `use that_crate as _;`",
        list(served)
    )]
    NoHandler {
        /// The request's name.
        request: String,
        /// The requests that this program has handlers for.
        served: Vec<String>,
    },
    /// The request runs in another program: append it instead.
    #[error("request `{request}` is declared with `.remote_request`: another program runs it, so append it instead")]
    Remote {
        /// The request's name.
        request: String,
    },
    /// The orchestrator knows no handlers at all.
    #[error("request `{request}` cannot be sent: the orchestrator was built without `.mediator()`")]
    NoMediator {
        /// The request's name.
        request: String,
    },
    /// An open behavior passed on something that is not of the request it was given.
    #[error("a behavior passed on a {what} that is not of the type that request `{request}` has")]
    WrongType {
        /// The request's name.
        request: String,
        /// `request` or `response`.
        what: &'static str,
    },
}

/// Some handlers of a notification failed; the others ran all the same.
#[derive(Debug, thiserror::Error)]
pub struct PublishError {
    /// The type of the notification.
    pub notification: &'static str,
    /// How many handlers there are.
    pub handlers: usize,
    /// Those that failed, in the order in which they run.
    pub failures: Vec<PublishFailure>,
}

/// One handler that failed.
#[derive(Debug)]
pub struct PublishFailure {
    /// The handler, with the place where it stands.
    pub handler: String,
    /// What it returned.
    pub error: anyhow::Error,
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} handlers of `{}` failed", self.failures.len(), self.handlers, self.notification)?;
        for (at, PublishFailure { handler, error }) in self.failures.iter().enumerate() {
            write!(f, "{} {handler}: {error:#}", if at == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
