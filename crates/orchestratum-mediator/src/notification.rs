//! Notifications: something that has happened, told to whoever wants to know.

use std::any::type_name;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use orchestratum_core::{Context, Result, Services};

use crate::entry::Origin;
use crate::error::{PublishError, PublishFailure};

/// Something to be published to any number of handlers, in process and at once. It is not stored: what must survive a
/// crash is a request that is appended.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a notification",
    label = "not a notification",
    note = "a handler takes its notification first: add `#[derive(Clone, Notification)]` to that type"
)]
pub trait Notification: Clone + Send + Sync + 'static {}

/// Code that hears of a notification.
///
/// Implement it with `async fn handle` and put `#[notification_handler]` on the block, or write an async function with
/// `#[notification_handler]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the notification `{N}`",
    label = "no `NotificationHandler<{N}>` for it"
)]
pub trait NotificationHandler<N: Notification>: Send + Sync + 'static {
    /// Handles a copy of the notification. An error keeps no other handler from running.
    fn handle(&self, notification: N, ctx: Context) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What the macro asks of the services beside what the handler's fields do.
    #[doc(hidden)]
    fn require(services: &Services, wanted_by: &str) -> Result<()> {
        let _ = (services, wanted_by);
        Ok(())
    }
}

/// A handler whose type is forgotten.
trait AnyNotificationHandler<N>: Send + Sync {
    fn handle(&self, notification: N, ctx: Context) -> BoxFuture<'_, anyhow::Result<()>>;
}

impl<N: Notification, H: NotificationHandler<N>> AnyNotificationHandler<N> for H {
    fn handle(&self, notification: N, ctx: Context) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(NotificationHandler::handle(self, notification, ctx))
    }
}

/// All handlers of one notification, in the order in which they run.
pub(crate) struct Subscribers<N> {
    handlers: Vec<(Origin, Arc<dyn AnyNotificationHandler<N>>)>,
}

impl<N: Notification> Subscribers<N> {
    pub(crate) const fn new() -> Self {
        Self { handlers: Vec::new() }
    }

    /// These handlers and one more.
    pub(crate) fn with(&self, origin: Origin, handler: impl NotificationHandler<N>) -> Self {
        let mut handlers = self.handlers.clone();
        handlers.push((origin, Arc::new(handler)));
        Self { handlers }
    }

    pub(crate) async fn publish(&self, notification: &N, ctx: &Context) -> Result<(), PublishError> {
        let mut failures = Vec::new();
        for (origin, handler) in &self.handlers {
            if let Err(error) = handler.handle(notification.clone(), ctx.clone()).await {
                failures.push(PublishFailure { handler: origin.to_string(), error });
            }
        }
        self.result(failures)
    }

    pub(crate) async fn publish_concurrently(&self, notification: &N, ctx: &Context) -> Result<(), PublishError> {
        let running = self.handlers.iter().map(async |(origin, handler)| {
            let error = handler.handle(notification.clone(), ctx.clone()).await.err()?;
            Some(PublishFailure { handler: origin.to_string(), error })
        });
        self.result(join_all(running).await.into_iter().flatten().collect())
    }

    fn result(&self, failures: Vec<PublishFailure>) -> Result<(), PublishError> {
        if failures.is_empty() {
            Ok(())
        } else {
            Err(PublishError { notification: type_name::<N>(), handlers: self.handlers.len(), failures })
        }
    }
}
