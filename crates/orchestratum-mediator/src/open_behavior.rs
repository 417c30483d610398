//! Behaviors around all requests, which know none of their types.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use orchestratum_core::Context;

use crate::behavior::{Behavior, Next};
use crate::error::Error;
use crate::request::Request;

/// Code around every handler, both when a request is sent and when it runs durably: logging, timing, tracing.
///
/// Given to the builder: `mediator_with(|m| m.behavior(Timing))`. The same shape as [`Behavior`], with the types of
/// request and response forgotten.
///
/// ```
/// use orchestratum_mediator::prelude::*;
///
/// struct Timing;
///
/// impl OpenBehavior for Timing {
///     async fn handle(&self, request: AnyRequest, ctx: Context, next: OpenNext<'_>) -> anyhow::Result<AnyResponse> {
///         let (name, start) = (request.name().to_owned(), std::time::Instant::now());
///         let response = next.run(request, ctx).await;
///         println!("{name}: {:?}, {}", start.elapsed(), if response.is_ok() { "ok" } else { "failed" });
///         response
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a behavior around all requests",
    label = "no `OpenBehavior` for it",
    note = "a behavior of one request is given with `.behavior_for::<R>(..)` or `#[request(behaviors(..))]`"
)]
pub trait OpenBehavior: Send + Sync + 'static {
    /// Runs around everything inside of it. Without a call of [`OpenNext::run`] the handler does not run.
    fn handle(
        &self,
        request: AnyRequest,
        ctx: Context,
        next: OpenNext<'_>,
    ) -> impl Future<Output = anyhow::Result<AnyResponse>> + Send;
}

/// A request of any type.
pub struct AnyRequest {
    value: Box<dyn Erased>,
}

impl AnyRequest {
    fn new<R: Request>(request: R) -> Self {
        Self { value: Box::new(request) }
    }

    /// Its name: the key, when it runs durably.
    #[must_use]
    pub fn name(&self) -> Cow<'static, str> {
        self.value.name()
    }

    /// Its payload as JSON text.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        self.value.to_json()
    }

    /// The request, if it is of this type.
    #[must_use]
    pub fn downcast_ref<R: Request>(&self) -> Option<&R> {
        self.value.as_any().downcast_ref()
    }
}

impl fmt::Debug for AnyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AnyRequest").field(&self.name()).finish()
    }
}

/// A response of any type.
pub struct AnyResponse {
    value: Box<dyn Any + Send>,
}

impl AnyResponse {
    /// A response made by the behavior itself, instead of the handler. It must be of the request's response type.
    pub fn new<T: Send + 'static>(response: T) -> Self {
        Self { value: Box::new(response) }
    }

    /// The response, if it is of this type.
    #[must_use]
    pub fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }
}

impl fmt::Debug for AnyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyResponse")
    }
}

/// What is inside of an open behavior: further behaviors and the handler.
pub struct OpenNext<'a> {
    next: Box<dyn AnyNext<'a> + 'a>,
}

impl<'a> OpenNext<'a> {
    /// Runs it.
    ///
    /// # Errors
    /// What the handler or a behavior inside returns; [`Error::WrongType`] when the request is not the one given.
    #[must_use = "nothing runs until it is awaited"]
    pub fn run(self, request: AnyRequest, ctx: Context) -> BoxFuture<'a, anyhow::Result<AnyResponse>> {
        self.next.run(request, ctx)
    }
}

impl fmt::Debug for OpenNext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenNext")
    }
}

/// An open behavior as one of a single request.
pub(crate) struct Open(pub(crate) Arc<dyn AnyOpenBehavior>);

impl<R: Request> Behavior<R> for Open {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        let response = self.0.handle(AnyRequest::new(request), ctx, OpenNext { next: Box::new(next) }).await?;
        match response.value.downcast() {
            Ok(response) => Ok(*response),
            Err(_) => Err(wrong_type::<R>("response")),
        }
    }
}

/// An open behavior whose type is forgotten.
pub(crate) trait AnyOpenBehavior: Send + Sync {
    fn handle<'a>(
        &'a self,
        request: AnyRequest,
        ctx: Context,
        next: OpenNext<'a>,
    ) -> BoxFuture<'a, anyhow::Result<AnyResponse>>;
}

impl<B: OpenBehavior> AnyOpenBehavior for B {
    fn handle<'a>(
        &'a self,
        request: AnyRequest,
        ctx: Context,
        next: OpenNext<'a>,
    ) -> BoxFuture<'a, anyhow::Result<AnyResponse>> {
        Box::pin(OpenBehavior::handle(self, request, ctx, next))
    }
}

trait Erased: Send + Sync {
    fn name(&self) -> Cow<'static, str>;
    fn to_json(&self) -> serde_json::Result<String>;
    fn as_any(&self) -> &dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<R: Request> Erased for R {
    fn name(&self) -> Cow<'static, str> {
        R::name()
    }

    fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

trait AnyNext<'a>: Send {
    fn run(self: Box<Self>, request: AnyRequest, ctx: Context) -> BoxFuture<'a, anyhow::Result<AnyResponse>>;
}

impl<'a, R: Request> AnyNext<'a> for Next<'a, R> {
    fn run(self: Box<Self>, request: AnyRequest, ctx: Context) -> BoxFuture<'a, anyhow::Result<AnyResponse>> {
        match request.value.into_any().downcast::<R>() {
            Ok(request) => {
                let response = (*self).run(*request, ctx);
                Box::pin(async move { Ok(AnyResponse::new(response.await?)) })
            }
            Err(_) => Box::pin(std::future::ready(Err(wrong_type::<R>("request")))),
        }
    }
}

fn wrong_type<R: Request>(what: &'static str) -> anyhow::Error {
    Error::WrongType { request: R::name().into_owned(), what }.into()
}
