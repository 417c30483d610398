//! What the macros submit: handlers and requests, each with the functions that know its types.

use std::any::{TypeId, type_name};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use orchestratum_core::internal::write_output;
use orchestratum_core::{Executor, Result, Services, decode};

use crate::behavior::Pipeline;
use crate::extract::FromServices;
use crate::handler::Handler;
use crate::notification::{Notification, NotificationHandler, Subscribers};
use crate::registry::{Added, Registry, Remote};
use crate::request::Request;
use crate::stream::{StreamHandler, StreamPipeline, StreamRequest};

/// Where a handler stands, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({}:{})", self.name, self.file, self.line)
    }
}

/// A handler that registers itself.
#[derive(Debug)]
pub struct Entry {
    origin: Origin,
    order: i32,
    subject: fn() -> TypeId,
    register: fn(Origin, i32) -> Registration,
}

inventory::collect!(Entry);

impl Entry {
    /// The handler of a request.
    #[must_use]
    pub const fn request<R: Request, H: Handler<R> + FromServices>(
        name: &'static str,
        file: &'static str,
        line: u32,
    ) -> Self {
        Self {
            origin: Origin { name, file, line },
            order: 0,
            subject: TypeId::of::<R>,
            register: |origin, _| Registration::request::<R, H>(origin, H::from_services),
        }
    }

    /// A handler of a notification.
    #[must_use]
    pub const fn notification<N: Notification, H: NotificationHandler<N> + FromServices>(
        order: i32,
        name: &'static str,
        file: &'static str,
        line: u32,
    ) -> Self {
        Self {
            origin: Origin { name, file, line },
            order,
            subject: TypeId::of::<N>,
            register: Registration::notification::<N, H>,
        }
    }

    /// The handler of a stream request.
    #[must_use]
    pub const fn stream<R: StreamRequest, H: StreamHandler<R> + FromServices>(
        name: &'static str,
        file: &'static str,
        line: u32,
    ) -> Self {
        Self {
            origin: Origin { name, file, line },
            order: 0,
            subject: TypeId::of::<R>,
            register: |origin, _| Registration::stream::<R, H>(origin),
        }
    }

    /// The type that it handles.
    pub(crate) fn subject(&self) -> TypeId {
        (self.subject)()
    }

    pub(crate) fn registration(&self) -> Registration {
        (self.register)(self.origin, self.order)
    }
}

/// A request that lists itself, so that a start can tell which have no handler.
#[derive(Debug)]
pub struct RequestEntry {
    pub(crate) name: fn() -> Cow<'static, str>,
    pub(crate) subject: fn() -> TypeId,
    pub(crate) is_remote: fn(&Services) -> bool,
}

inventory::collect!(RequestEntry);

impl RequestEntry {
    /// The entry of a type.
    #[must_use]
    pub const fn new<R: Request>() -> Self {
        Self { name: R::name, subject: TypeId::of::<R>, is_remote: Remote::<R>::is_declared }
    }
}

/// What a handler is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Request,
    Stream,
    Notification,
}

/// Makes a handler from the services and puts it, with the behaviors around it, into the registry's parts.
type Wire = Box<dyn FnOnce(&Services, &[Added], &mut Services) -> Result<()> + Send>;

/// One handler, on its way into the registry.
pub(crate) struct Registration {
    pub(crate) kind: Kind,
    pub(crate) subject: TypeId,
    pub(crate) subject_type: &'static str,
    /// The request's name; nothing for a notification.
    pub(crate) name: Cow<'static, str>,
    pub(crate) order: i32,
    pub(crate) origin: Origin,
    pub(crate) executor: Option<fn(&Arc<Registry>, Origin) -> Executor>,
    pub(crate) wire: Wire,
}

impl Registration {
    /// A handler of a request, made by `create` once the services are known.
    pub(crate) fn request<R: Request, H: Handler<R>>(
        origin: Origin,
        create: impl FnOnce(&Services, &str) -> Result<H> + Send + 'static,
    ) -> Self {
        Self {
            kind: Kind::Request,
            subject: TypeId::of::<R>(),
            subject_type: type_name::<R>(),
            name: R::name(),
            order: 0,
            origin,
            executor: Some(executor::<R>),
            wire: Box::new(move |services, added, parts| {
                let wanted_by = format!("handler {origin}");
                H::require(services, &wanted_by)?;
                let handler = Box::new(create(services, &wanted_by)?);
                let mut behaviors: Vec<_> = added.iter().filter_map(Added::for_request::<R>).collect();
                behaviors.extend(R::behaviors().0);
                parts.insert(Arc::new(Pipeline::<R> { behaviors, handler }));
                Ok(())
            }),
        }
    }

    pub(crate) fn notification<N: Notification, H: NotificationHandler<N> + FromServices>(
        origin: Origin,
        order: i32,
    ) -> Self {
        Self {
            kind: Kind::Notification,
            subject: TypeId::of::<N>(),
            subject_type: type_name::<N>(),
            name: Cow::Borrowed(""),
            order,
            origin,
            executor: None,
            wire: Box::new(move |services, _, parts| {
                let wanted_by = format!("handler {origin}");
                H::require(services, &wanted_by)?;
                let handler = H::from_services(services, &wanted_by)?;
                let before = parts.find::<Subscribers<N>>();
                let subscribers = before.as_deref().unwrap_or(&Subscribers::new()).with(origin, handler);
                parts.insert(Arc::new(subscribers));
                Ok(())
            }),
        }
    }

    pub(crate) fn stream<R: StreamRequest, H: StreamHandler<R> + FromServices>(origin: Origin) -> Self {
        Self {
            kind: Kind::Stream,
            subject: TypeId::of::<R>(),
            subject_type: type_name::<R>(),
            name: R::name(),
            order: 0,
            origin,
            executor: None,
            wire: Box::new(move |services, _, parts| {
                let wanted_by = format!("handler {origin}");
                H::require(services, &wanted_by)?;
                let handler = Box::new(H::from_services(services, &wanted_by)?);
                parts.insert(Arc::new(StreamPipeline::<R>(handler)));
                Ok(())
            }),
        }
    }
}

/// The executor of a request: decodes the payload, runs the handler with the behaviors around it, writes the output.
fn executor<R: Request>(registry: &Arc<Registry>, origin: Origin) -> Executor {
    let registry = Arc::clone(registry);
    let executor = Executor::from_json(R::name(), format!("handler {origin}"), move |payload, ctx| {
        let pipeline = registry.find::<Pipeline<R>>();
        Box::pin(async move {
            let Some(pipeline) = pipeline else {
                anyhow::bail!("the handler of `{}` is not wired", R::name());
            };
            let request = decode::<R>(&payload)?;
            let response = pipeline.run(request, ctx).await?;
            Ok(write_output(&R::name(), &response)?)
        })
    });
    let executor = executor.defaults(R::defaults());
    match R::endings() {
        Some(endings) => executor.on_success(move |payload, output| endings.on_success(payload, output)),
        None => executor,
    }
}
