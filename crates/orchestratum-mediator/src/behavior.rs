//! Behaviors: code around handlers.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use orchestratum_core::Context;

use crate::handler::AnyHandler;
use crate::request::Request;

/// Code around the handler of a request, both when the request is sent and when it runs durably: it may look at the
/// request, change it, refuse it, call what is inside of it, and look at the response. There is none around
/// notifications and streams.
///
/// Given to the builder, `mediator_with(|m| m.behavior_for::<SendEmail>(Validation))`, or to one request,
/// `#[request(behaviors(Validation))]`. The first one added is the outermost. For behaviors around all requests see
/// [`OpenBehavior`](crate::OpenBehavior).
///
/// ```
/// use orchestratum_mediator::prelude::*;
///
/// trait Validate {
///     fn validate(&self) -> anyhow::Result<()>;
/// }
///
/// struct Validation;
///
/// impl<R: Request + Validate> Behavior<R> for Validation {
///     async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
///         request.validate()?;
///         next.run(request, ctx).await
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a behavior of `{R}`",
    label = "no `Behavior<{R}>` for it",
    note = "if `{Self}` implements `Behavior` for some requests only, `{R}` does not have what it asks for"
)]
pub trait Behavior<R: Request>: Send + Sync + 'static {
    /// Runs around everything inside of it. Without a call of [`Next::run`] the handler does not run.
    fn handle(
        &self,
        request: R,
        ctx: Context,
        next: Next<'_, R>,
    ) -> impl Future<Output = anyhow::Result<R::Response>> + Send;
}

/// What is inside of a behavior: further behaviors and the handler. A copy may run it again.
pub struct Next<'a, R: Request> {
    behaviors: &'a [Arc<dyn AnyBehavior<R>>],
    handler: &'a dyn AnyHandler<R>,
}

impl<'a, R: Request> Next<'a, R> {
    /// Runs it.
    ///
    /// # Errors
    /// What the handler or a behavior inside returns.
    #[must_use = "nothing runs until it is awaited"]
    pub fn run(self, request: R, ctx: Context) -> BoxFuture<'a, anyhow::Result<R::Response>> {
        match self.behaviors.split_first() {
            Some((first, behaviors)) => first.handle(request, ctx, Self { behaviors, handler: self.handler }),
            None => self.handler.handle(request, ctx),
        }
    }
}

impl<R: Request> Clone for Next<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: Request> Copy for Next<'_, R> {}

impl<R: Request> fmt::Debug for Next<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Next({} behaviors)", self.behaviors.len())
    }
}

/// The behaviors of one request, the first outermost.
pub struct Behaviors<R: Request>(pub(crate) Vec<Arc<dyn AnyBehavior<R>>>);

impl<R: Request> Behaviors<R> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one inside of those before it.
    #[must_use]
    pub fn with(mut self, behavior: impl Behavior<R>) -> Self {
        self.0.push(Arc::new(behavior));
        self
    }
}

impl<R: Request> Default for Behaviors<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Request> fmt::Debug for Behaviors<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Behaviors({})", self.0.len())
    }
}

/// A behavior whose type is forgotten.
pub(crate) trait AnyBehavior<R: Request>: Send + Sync {
    fn handle<'a>(&'a self, request: R, ctx: Context, next: Next<'a, R>) -> BoxFuture<'a, anyhow::Result<R::Response>>;
}

impl<R: Request, B: Behavior<R>> AnyBehavior<R> for B {
    fn handle<'a>(&'a self, request: R, ctx: Context, next: Next<'a, R>) -> BoxFuture<'a, anyhow::Result<R::Response>> {
        Box::pin(Behavior::handle(self, request, ctx, next))
    }
}

/// The handler of a request with the behaviors around it.
pub(crate) struct Pipeline<R: Request> {
    pub(crate) behaviors: Vec<Arc<dyn AnyBehavior<R>>>,
    pub(crate) handler: Box<dyn AnyHandler<R>>,
}

impl<R: Request> Pipeline<R> {
    pub(crate) fn run(&self, request: R, ctx: Context) -> BoxFuture<'_, anyhow::Result<R::Response>> {
        Next { behaviors: &self.behaviors, handler: &*self.handler }.run(request, ctx)
    }
}
