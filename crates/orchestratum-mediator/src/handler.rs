//! Handlers of requests.

use futures_util::future::BoxFuture;
use orchestratum_core::{Context, Result, Services};

use crate::request::Request;

/// The code that handles a request; there is exactly one for each request in a program.
///
/// Implement it with `async fn handle` and put `#[handler]` on the block, or write an async function with `#[handler]`.
///
/// Through `send` it runs once, in the caller's task: dropping the caller's future drops it. Through `append` it runs in
/// a task of its own and **at least once**: after a crash, a timeout or an error it runs again, so running again must do
/// no harm, unless it finishes with [`Context::complete_in`]. When [`Context::canceled`] resolves it should return soon.
/// An error is retried while retries are left; a [`Verdict`](orchestratum_core::Verdict) says otherwise.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle `{R}`",
    label = "no `Handler<{R}>` for it",
    note = "write `#[handler] impl Handler<{R}> for {Self}` with `async fn handle(&self, request: {R}, ctx: Context) -> anyhow::Result<..>`"
)]
pub trait Handler<R: Request>: Send + Sync + 'static {
    /// Handles one request. In process `ctx` has no command, see [`Context::command_id`].
    fn handle(&self, request: R, ctx: Context) -> impl Future<Output = anyhow::Result<R::Response>> + Send;

    /// What the macro asks of the services beside what the handler's fields do.
    #[doc(hidden)]
    fn require(services: &Services, wanted_by: &str) -> Result<()> {
        let _ = (services, wanted_by);
        Ok(())
    }
}

/// A handler whose type is forgotten.
pub(crate) trait AnyHandler<R: Request>: Send + Sync {
    fn handle(&self, request: R, ctx: Context) -> BoxFuture<'_, anyhow::Result<R::Response>>;
}

impl<R: Request, H: Handler<R>> AnyHandler<R> for H {
    fn handle(&self, request: R, ctx: Context) -> BoxFuture<'_, anyhow::Result<R::Response>> {
        Box::pin(Handler::handle(self, request, ctx))
    }
}

/// A handler that is a closure of the request and the context.
pub(crate) struct FunctionHandler<F>(pub(crate) F);

impl<R, F, Fut> Handler<R> for FunctionHandler<F>
where
    R: Request,
    F: Fn(R, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<R::Response>> + Send,
{
    fn handle(&self, request: R, ctx: Context) -> impl Future<Output = anyhow::Result<R::Response>> + Send {
        (self.0)(request, ctx)
    }
}

/// What a handler function returns; the compiler says it in these words when it returns something else.
#[diagnostic::on_unimplemented(
    message = "this handler cannot return `{Self}`",
    label = "it returns `{T}`",
    note = "a handler returns `anyhow::Result<..>` of the request's response, which is `()` without `#[request(response = ..)]`"
)]
pub trait Returned<T> {
    /// The value as it is.
    fn checked(self) -> T;
}

impl<T> Returned<T> for T {
    fn checked(self) -> T {
        self
    }
}
