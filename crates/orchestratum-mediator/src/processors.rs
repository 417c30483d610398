//! The common kinds of behaviors: before a handler, after it, and when it fails.

use orchestratum_core::Context;

use crate::behavior::{Behavior, Next};
use crate::request::Request;

/// Runs before the handler; an error keeps the handler from running. Added as [`Before`].
pub trait PreProcessor<R: Request>: Send + Sync + 'static {
    /// Looks at the request.
    fn process(&self, request: &R, ctx: &Context) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Runs after a handler that succeeded; an error becomes the result. Added as [`After`].
pub trait PostProcessor<R: Request>: Send + Sync + 'static {
    /// Looks at the request and its response, and may change the response.
    fn process(
        &self,
        request: &R,
        response: &mut R::Response,
        ctx: &Context,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Runs when the handler fails, and may answer in its place. Added as [`Recover`].
pub trait ErrorHandler<R: Request>: Send + Sync + 'static {
    /// Returns a response, or the error, or another one. What kind of error it is tells
    /// [`anyhow::Error::downcast_ref`].
    fn recover(
        &self,
        request: &R,
        error: anyhow::Error,
        ctx: &Context,
    ) -> impl Future<Output = anyhow::Result<R::Response>> + Send;
}

/// Runs when the handler fails, and leaves the error as it is. Added as [`OnError`].
pub trait ErrorAction<R: Request>: Send + Sync + 'static {
    /// Looks at the error.
    fn act(&self, request: &R, error: &anyhow::Error, ctx: &Context) -> impl Future<Output = ()> + Send;
}

/// A [`PreProcessor`] as a behavior: `.behavior_for::<SendEmail>(Before(Audit))`.
#[derive(Debug, Clone, Copy)]
pub struct Before<P>(pub P);

impl<R: Request, P: PreProcessor<R>> Behavior<R> for Before<P> {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        self.0.process(&request, &ctx).await?;
        next.run(request, ctx).await
    }
}

/// A [`PostProcessor`] as a behavior. It keeps a copy of the request.
#[derive(Debug, Clone, Copy)]
pub struct After<P>(pub P);

impl<R: Request + Clone, P: PostProcessor<R>> Behavior<R> for After<P> {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        let mut response = next.run(request.clone(), ctx.clone()).await?;
        self.0.process(&request, &mut response, &ctx).await?;
        Ok(response)
    }
}

/// An [`ErrorHandler`] as a behavior. It keeps a copy of the request.
#[derive(Debug, Clone, Copy)]
pub struct Recover<H>(pub H);

impl<R: Request + Clone, H: ErrorHandler<R>> Behavior<R> for Recover<H> {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        match next.run(request.clone(), ctx.clone()).await {
            Ok(response) => Ok(response),
            Err(error) => self.0.recover(&request, error, &ctx).await,
        }
    }
}

/// An [`ErrorAction`] as a behavior. It keeps a copy of the request.
#[derive(Debug, Clone, Copy)]
pub struct OnError<A>(pub A);

impl<R: Request + Clone, A: ErrorAction<R>> Behavior<R> for OnError<A> {
    async fn handle(&self, request: R, ctx: Context, next: Next<'_, R>) -> anyhow::Result<R::Response> {
        let result = next.run(request.clone(), ctx.clone()).await;
        if let Err(error) = &result {
            self.0.act(&request, error, &ctx).await;
        }
        result
    }
}
