//! The mediator's part of the orchestrator's builder.

use std::any::{TypeId, type_name};
use std::fmt;
use std::panic::Location;

use orchestratum_core::{Builder, Context};

use crate::behavior::Behavior;
use crate::entry::{Entry, Origin, Registration};
use crate::extract::FromServices;
use crate::handler::{FunctionHandler, Handler};
use crate::notification::{Notification, NotificationHandler};
use crate::open_behavior::OpenBehavior;
use crate::registry::{Added, Registry, Remote};
use crate::request::Request;
use crate::stream::{StreamHandler, StreamRequest};

/// Adds the mediator to [`Builder`].
pub trait MediatorBuilder: Sized {
    /// Registers all handlers that are linked into this program: those with `#[handler]`, `#[notification_handler]` and
    /// `#[stream_handler]`.
    ///
    /// `build()` refuses two handlers of one request, two requests of one name, and a service that a handler needs and
    /// the builder was not given. It logs which requests are served, and which have no handler.
    #[must_use]
    fn mediator(self) -> Self {
        self.mediator_with(|mediator| mediator)
    }

    /// Like [`mediator`](Self::mediator), with behaviors, explicit handlers, or fewer of the linked ones.
    #[must_use]
    fn mediator_with(self, setup: impl FnOnce(MediatorSetup) -> MediatorSetup) -> Self;

    /// A request that another program runs: it may be appended here.
    #[must_use]
    fn remote_request<R: Request>(self) -> Self;
}

impl MediatorBuilder for Builder {
    fn mediator_with(self, setup: impl FnOnce(MediatorSetup) -> MediatorSetup) -> Self {
        let setup = setup(MediatorSetup::new());
        let MediatorSetup { auto, only, mut registrations, behaviors } = setup;
        if auto {
            let linked = inventory::iter::<Entry>.into_iter();
            let wanted = linked.filter(|entry| only.as_ref().is_none_or(|only| only.contains(&entry.subject())));
            registrations.extend(wanted.map(Entry::registration));
        }
        Registry::install(registrations, behaviors, auto && only.is_none(), self)
    }

    fn remote_request<R: Request>(self) -> Self {
        self.remote(R::name()).service(Remote::<R>::new())
    }
}

/// What the mediator is made of.
#[must_use = "it is returned from the closure that got it"]
pub struct MediatorSetup {
    auto: bool,
    only: Option<Vec<TypeId>>,
    registrations: Vec<Registration>,
    behaviors: Vec<Added>,
}

impl MediatorSetup {
    const fn new() -> Self {
        Self { auto: true, only: None, registrations: Vec::new(), behaviors: Vec::new() }
    }

    /// A behavior around all requests, inside of the behaviors added before it.
    pub fn behavior(mut self, behavior: impl OpenBehavior) -> Self {
        self.behaviors.push(Added::Open(std::sync::Arc::new(behavior)));
        self
    }

    /// A behavior around one request, inside of the behaviors added before it.
    pub fn behavior_for<R: Request>(mut self, behavior: impl Behavior<R>) -> Self {
        self.behaviors.push(Added::typed(behavior));
        self
    }

    /// Registers the type `H` as the handler of `R`; for types without `#[handler]`.
    #[track_caller]
    pub fn handler<R: Request, H: Handler<R> + FromServices>(mut self) -> Self {
        self.registrations.push(Registration::request::<R, H>(here::<H>(), H::from_services));
        self
    }

    /// Registers a closure as the handler of a request: `.handler_fn(|request: GetUser, ctx| async move { .. })`.
    #[track_caller]
    pub fn handler_fn<R, F, Fut>(mut self, function: F) -> Self
    where
        R: Request,
        F: Fn(R, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<R::Response>> + Send,
    {
        let create = |_: &_, _: &_| Ok(FunctionHandler(function));
        self.registrations.push(Registration::request::<R, _>(here::<F>(), create));
        self
    }

    /// Registers the type `H` as a handler of the notification `N`; a smaller order runs earlier.
    #[track_caller]
    pub fn notification_handler<N: Notification, H: NotificationHandler<N> + FromServices>(
        mut self,
        order: i32,
    ) -> Self {
        self.registrations.push(Registration::notification::<N, H>(here::<H>(), order));
        self
    }

    /// Registers the type `H` as the handler of the stream request `R`.
    #[track_caller]
    pub fn stream_handler<R: StreamRequest, H: StreamHandler<R> + FromServices>(mut self) -> Self {
        self.registrations.push(Registration::stream::<R, H>(here::<H>()));
        self
    }

    /// Registers nothing but what is given here.
    pub const fn without_auto_registration(mut self) -> Self {
        self.auto = false;
        self
    }

    /// Of the linked handlers, registers those of the request, notification or stream request `T` only; call it again
    /// for more. For tests and for programs that run a part of what they are linked with.
    pub fn only<T: 'static>(mut self) -> Self {
        self.only.get_or_insert_default().push(TypeId::of::<T>());
        self
    }
}

#[track_caller]
fn here<H>() -> Origin {
    let location = Location::caller();
    Origin { name: type_name::<H>(), file: location.file(), line: location.line() }
}

impl fmt::Debug for MediatorSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediatorSetup")
            .field("auto", &self.auto)
            .field("handlers", &self.registrations.iter().map(|one| one.origin.to_string()).collect::<Vec<_>>())
            .field("behaviors", &self.behaviors.len())
            .finish_non_exhaustive()
    }
}
