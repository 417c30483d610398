//! The handle through which requests are sent, notifications published and streams read, all in process.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use orchestratum_core::{Context, Orchestrator};
use tokio_util::sync::CancellationToken;

use crate::behavior::Pipeline;
use crate::error::{Error, PublishError};
use crate::extract::FromContext;
use crate::notification::{Notification, Subscribers};
use crate::registry::{Registry, Remote};
use crate::request::Request;
use crate::stream::{StreamPipeline, StreamRequest, failed};

/// Runs handlers in process: no database, no retries, no timeout. Cheap to clone.
///
/// From [`orchestrator.mediator()`](MediatorExt::mediator); in a handler as an argument, or from `ctx.mediator()`: then
/// what it sends is canceled together with the handler.
#[derive(Debug, Clone)]
pub struct Mediator {
    /// Where it was taken from: what handlers find in their contexts, and whose end ends them.
    origin: Context,
    /// `None` where the orchestrator was built without a mediator.
    registry: Option<Arc<Registry>>,
}

impl Mediator {
    fn new(origin: Context) -> Self {
        Self { registry: origin.services().find(), origin }
    }

    fn child_token(&self) -> CancellationToken {
        self.origin.cancellation_token().child_token()
    }

    /// Runs the handler of a request, with the behaviors around it, in the caller's task, and returns its response.
    /// Dropping the future drops the handler.
    ///
    /// # Errors
    /// What the handler or a behavior returns. Without a handler [`Error::NoHandler`], found by
    /// [`anyhow::Error::downcast_ref`].
    pub async fn send<R: Request>(&self, request: R) -> anyhow::Result<R::Response> {
        self.send_with(request, self.child_token()).await
    }

    /// Like [`send`](Self::send); the token tells the handler to stop, through [`Context::canceled`].
    ///
    /// # Errors
    /// Like [`send`](Self::send).
    pub async fn send_with<R: Request>(&self, request: R, token: CancellationToken) -> anyhow::Result<R::Response> {
        let Some(pipeline) = self.find::<Pipeline<R>>() else {
            return Err(self.no_handler::<R>().into());
        };
        pipeline.run(request, self.context(token)).await
    }

    /// Runs all handlers of a notification, one after the other in their order, each with a copy. All run, whatever
    /// the others return; without any the notification is heard by nobody.
    ///
    /// # Errors
    /// All failures, with the handlers' names.
    pub async fn publish<N: Notification>(&self, notification: N) -> Result<(), PublishError> {
        match self.find::<Subscribers<N>>() {
            Some(subscribers) => subscribers.publish(&notification, &self.context(self.child_token())).await,
            None => Ok(()),
        }
    }

    /// Like [`publish`](Self::publish), with all handlers at the same time, in the caller's task.
    ///
    /// # Errors
    /// All failures, with the handlers' names.
    pub async fn publish_concurrently<N: Notification>(&self, notification: N) -> Result<(), PublishError> {
        match self.find::<Subscribers<N>>() {
            Some(subscribers) => {
                subscribers.publish_concurrently(&notification, &self.context(self.child_token())).await
            }
            None => Ok(()),
        }
    }

    /// The stream of a stream request. It runs as it is polled. Without a handler its only item is the error.
    pub fn stream<R: StreamRequest>(&self, request: R) -> BoxStream<'static, anyhow::Result<R::Item>> {
        match self.find::<StreamPipeline<R>>() {
            Some(pipeline) => pipeline.0.handle(request, self.context(self.child_token())),
            None => failed(self.not_found(R::name().into_owned()).into()),
        }
    }

    /// The names of the requests that can be sent, sorted.
    #[must_use]
    pub fn requests(&self) -> &[String] {
        self.registry.as_deref().map_or(&[], Registry::served)
    }

    fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.registry.as_ref()?.find()
    }

    fn context(&self, token: CancellationToken) -> Context {
        self.origin.nested(token)
    }

    fn no_handler<R: Request>(&self) -> Error {
        let request = R::name().into_owned();
        if Remote::<R>::is_declared(self.origin.services()) {
            Error::Remote { request }
        } else {
            self.not_found(request)
        }
    }

    fn not_found(&self, request: String) -> Error {
        match &self.registry {
            Some(registry) => Error::NoHandler { request, served: registry.served().to_vec() },
            None => Error::NoMediator { request },
        }
    }
}

impl FromContext for Mediator {
    fn from_context(ctx: &Context) -> anyhow::Result<Self> {
        Ok(ctx.mediator())
    }
}

/// Gives a [`Mediator`] to whoever holds an orchestrator or a context.
pub trait MediatorExt {
    /// The mediator of the handlers that the builder registered.
    fn mediator(&self) -> Mediator;
}

impl MediatorExt for Orchestrator {
    fn mediator(&self) -> Mediator {
        Mediator::new(Context::of(self, CancellationToken::new()))
    }
}

impl MediatorExt for Context {
    fn mediator(&self) -> Mediator {
        Mediator::new(self.nested(self.cancellation_token().clone()))
    }
}
