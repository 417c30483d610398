//! The handlers of a program.
//!
//! Three facts that no type expresses:
//!
//! - the order in which handlers register themselves is undefined, so nothing here depends on it: registrations are
//!   sorted, and notification handlers have an explicit order;
//! - a handler in a crate that nothing references is not linked and therefore not found: `use that_crate as _;` links it;
//! - on platforms that `inventory` does not support, nothing registers itself: register explicitly there.
//!
//! What is wrong is an error of `build()`: two handlers of a request, two requests of one name, a missing service.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use orchestratum_core::{Builder, Error, Result, Services};

use crate::behavior::{AnyBehavior, Behavior, Behaviors};
use crate::entry::{Kind, Registration, RequestEntry};
use crate::open_behavior::{AnyOpenBehavior, Open};
use crate::request::Request;

/// The handlers, each with the behaviors around it; empty until the orchestrator is built.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    wired: OnceLock<Wired>,
}

#[derive(Debug)]
struct Wired {
    /// Pipelines and subscribers, by their types.
    parts: Services,
    served: Vec<String>,
}

impl Registry {
    /// A pipeline or the subscribers of a notification.
    pub(crate) fn find<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.wired.get()?.parts.find()
    }

    /// The names of the requests that have a handler here, sorted.
    pub(crate) fn served(&self) -> &[String] {
        self.wired.get().map_or(&[], |wired| &wired.served)
    }

    /// Gives the executors to the builder, and wires the handlers once the services are known.
    pub(crate) fn install(
        mut registrations: Vec<Registration>,
        behaviors: Vec<Added>,
        lists_unhandled: bool,
        mut builder: Builder,
    ) -> Builder {
        let registry = Arc::new(Self::default());
        registrations.sort_by(|one, other| {
            let place = |registration: &Registration| (registration.kind, registration.order, registration.origin);
            place(one).cmp(&place(other))
        });
        let problem = conflict(&registrations);
        if problem.is_none() {
            for registration in &registrations {
                if let Some(executor) = registration.executor {
                    builder = builder.register(executor(&registry, registration.origin));
                }
            }
        }
        builder.shared(Arc::clone(&registry)).require(move |services| {
            if !services.find::<Self>().is_some_and(|last| Arc::ptr_eq(&last, &registry)) {
                return invalid("it is called twice: give all handlers and behaviors to one `.mediator_with(..)`");
            }
            if let Some(problem) = problem {
                return invalid(problem);
            }
            registry.wire(registrations, &behaviors, lists_unhandled, services)
        })
    }

    fn wire(
        &self,
        registrations: Vec<Registration>,
        behaviors: &[Added],
        lists_unhandled: bool,
        services: &Services,
    ) -> Result<()> {
        let (mut parts, mut served, mut handled) = (Services::default(), Vec::new(), Vec::new());
        for registration in registrations {
            if registration.kind == Kind::Request {
                served.push(registration.name.into_owned());
            }
            handled.push(registration.subject);
            (registration.wire)(services, behaviors, &mut parts)?;
        }
        served.sort();
        tracing::info!(
            target: "orchestratum::mediator::start", handlers = handled.len(), requests = served.join(", "), "serves requests"
        );
        if lists_unhandled {
            warn_of_unhandled(&handled, services);
        }
        // Set once: a second registry would be another service.
        let _ = self.wired.set(Wired { parts, served });
        Ok(())
    }
}

/// What is registered twice, if anything; the registrations are sorted.
fn conflict(registrations: &[Registration]) -> Option<String> {
    let (mut by_type, mut by_name) = (BTreeMap::new(), BTreeMap::new());
    for registration in registrations.iter().filter(|registration| registration.kind != Kind::Notification) {
        let Registration { kind, subject, subject_type, name, origin, .. } = registration;
        if let Some(first) = by_type.insert((*kind, *subject), *origin) {
            return Some(format!("request `{name}` has two handlers, {first} and {origin}: remove one"));
        }
        if let Some((first_type, first)) = by_name.insert((*kind, name.as_ref()), (*subject_type, *origin)) {
            return Some(format!(
                "two requests have the name `{name}`: `{first_type}`, handled by {first}, and `{subject_type}`, \
                 handled by {origin}; rename one with `#[request(name = \"..\")]`"
            ));
        }
    }
    None
}

fn warn_of_unhandled(handled: &[TypeId], services: &Services) {
    let requests = inventory::iter::<RequestEntry>.into_iter();
    let unhandled =
        requests.filter(|request| !handled.contains(&(request.subject)()) && !(request.is_remote)(services));
    let mut names: Vec<_> = unhandled.map(|request| (request.name)()).collect();
    if !names.is_empty() {
        names.sort();
        tracing::warn!(
            target: "orchestratum::mediator::unhandled",
            requests = names.join(", "),
            "no handler is linked for these requests: they cannot be sent or appended here. Add `use that_crate as _;` for \
             a crate of handlers, or declare them with `.remote_request::<R>()` if another program runs them"
        );
    }
}

fn invalid<T>(problem: impl Into<String>) -> Result<T> {
    Err(Error::InvalidConfig { option: "mediator".to_owned(), problem: problem.into() })
}

/// A behavior given to the builder.
pub(crate) enum Added {
    /// Around all requests.
    Open(Arc<dyn AnyOpenBehavior>),
    /// Around one request `R`; the parts hold `Behaviors<R>`.
    Typed(Services),
}

impl Added {
    pub(crate) fn typed<R: Request>(behavior: impl Behavior<R>) -> Self {
        let mut one = Services::default();
        one.insert(Arc::new(Behaviors::<R>::new().with(behavior)));
        Self::Typed(one)
    }

    pub(crate) fn for_request<R: Request>(&self) -> Option<Arc<dyn AnyBehavior<R>>> {
        match self {
            Self::Open(behavior) => Some(Arc::new(Open(Arc::clone(behavior)))),
            Self::Typed(one) => one.find::<Behaviors<R>>()?.0.first().cloned(),
        }
    }
}

/// Says among the services that another program runs this request.
pub(crate) struct Remote<R>(PhantomData<fn() -> R>);

impl<R: Request> Remote<R> {
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }

    pub(crate) fn is_declared(services: &Services) -> bool {
        services.find::<Self>().is_some()
    }
}
