//! Requests whose answer is a stream.

use futures_util::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use orchestratum_core::{Context, Result, Services};

use crate::named::Named;

/// A request that is answered by a stream of items, in process. `#[derive(StreamRequest)] #[request(item = T)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a stream request",
    label = "not a stream request",
    note = "a stream handler takes its request first: add `#[derive(StreamRequest)]` and `#[request(item = ..)]` to that type"
)]
pub trait StreamRequest: Named + Send + 'static {
    /// What the stream is made of.
    type Item: Send + 'static;
}

/// The code that answers a stream request; there is exactly one for each request in a program.
///
/// The stream runs as its reader polls it, in the reader's task, and may outlive the handler's reference: what it needs
/// of the handler's fields, it clones.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer the stream request `{R}`",
    label = "no `StreamHandler<{R}>` for it"
)]
pub trait StreamHandler<R: StreamRequest>: Send + Sync + 'static {
    /// Makes the stream. Its reader may stop at any item; dropping the stream ends it.
    fn handle(&self, request: R, ctx: Context) -> impl Stream<Item = anyhow::Result<R::Item>> + Send + 'static;

    /// What the macro asks of the services beside what the handler's fields do.
    #[doc(hidden)]
    fn require(services: &Services, wanted_by: &str) -> Result<()> {
        let _ = (services, wanted_by);
        Ok(())
    }
}

/// A handler whose type is forgotten.
pub(crate) trait AnyStreamHandler<R: StreamRequest>: Send + Sync {
    fn handle(&self, request: R, ctx: Context) -> BoxStream<'static, anyhow::Result<R::Item>>;
}

impl<R: StreamRequest, H: StreamHandler<R>> AnyStreamHandler<R> for H {
    fn handle(&self, request: R, ctx: Context) -> BoxStream<'static, anyhow::Result<R::Item>> {
        StreamHandler::handle(self, request, ctx).boxed()
    }
}

/// The handler of a stream request.
pub(crate) struct StreamPipeline<R: StreamRequest>(pub(crate) Box<dyn AnyStreamHandler<R>>);

/// The stream that `open` makes, or the error that it returns as the only item.
pub fn open_stream<S, T>(
    open: impl FnOnce() -> anyhow::Result<S> + Send + 'static,
) -> impl Stream<Item = anyhow::Result<T>> + Send + 'static
where
    S: Stream<Item = anyhow::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    stream::once(async move { open() }).try_flatten()
}

/// One error.
pub(crate) fn failed<T: Send + 'static>(error: anyhow::Error) -> BoxStream<'static, anyhow::Result<T>> {
    stream::once(std::future::ready(Err(error))).boxed()
}
