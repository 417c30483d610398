//! What a handler takes besides its request.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use orchestratum_core::{Context, Orchestrator, Result, Services};
use tokio_util::sync::CancellationToken;

/// An argument of a handler function, after the first.
///
/// Implement it for whatever your handlers take from the services again and again.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    label = "not an argument of a handler",
    note = "after its first argument a handler takes, in any order: `Service<T>`, `Context`, `Orchestrator`, `Mediator`, `CancellationToken`, and what implements `FromContext`"
)]
pub trait FromContext: Sized + Send {
    /// Makes the argument, before the handler is called.
    ///
    /// # Errors
    /// Whatever is missing; the handler is not called then, and its attempt fails with this error.
    fn from_context(ctx: &Context) -> anyhow::Result<Self>;

    /// Checks at `build()` that the argument can be made.
    ///
    /// # Errors
    /// [`orchestratum_core::Error::MissingService`].
    fn require(services: &Services, wanted_by: &str) -> Result<()> {
        let _ = (services, wanted_by);
        Ok(())
    }
}

/// A service given to the builder with `.service(..)` or `.shared(..)`; behaves like a reference to it.
///
/// To call a handler function by hand, make one: `Service(Arc::new(emails))`.
pub struct Service<T: ?Sized>(pub Arc<T>);

impl<T: ?Sized + Send + Sync + 'static> FromContext for Service<T> {
    fn from_context(ctx: &Context) -> anyhow::Result<Self> {
        Ok(Self(ctx.service()?))
    }

    fn require(services: &Services, wanted_by: &str) -> Result<()> {
        services.get::<T>(wanted_by).map(drop)
    }
}

impl FromContext for Context {
    fn from_context(ctx: &Context) -> anyhow::Result<Self> {
        Ok(ctx.clone())
    }
}

impl FromContext for Orchestrator {
    fn from_context(ctx: &Context) -> anyhow::Result<Self> {
        Ok(ctx.orchestrator()?)
    }
}

impl FromContext for CancellationToken {
    fn from_context(ctx: &Context) -> anyhow::Result<Self> {
        Ok(ctx.cancellation_token().clone())
    }
}

impl<T: ?Sized> Deref for Service<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> Clone for Service<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> fmt::Debug for Service<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Service").field(&std::any::type_name::<T>()).finish()
    }
}

/// A handler that is made from the services, once, at `build()`. Derive it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made from the services of the builder",
    label = "not made from services",
    note = "a handler derives `FromServices`; each of its fields is an `Arc<T>`, an `Arc<dyn Trait>`, an `Option<Arc<T>>`, or a struct that itself derives `FromServices`"
)]
pub trait FromServices: Sized + Send + Sync + 'static {
    /// Makes the value; `wanted_by` tells a reader of the error for what.
    ///
    /// # Errors
    /// [`orchestratum_core::Error::MissingService`].
    fn from_services(services: &Services, wanted_by: &str) -> Result<Self>;
}

impl<T: ?Sized + Send + Sync + 'static> FromServices for Arc<T> {
    fn from_services(services: &Services, wanted_by: &str) -> Result<Self> {
        services.get(wanted_by)
    }
}

/// A service that may be missing.
impl<T: ?Sized + Send + Sync + 'static> FromServices for Option<Arc<T>> {
    fn from_services(services: &Services, _: &str) -> Result<Self> {
        Ok(services.find())
    }
}
