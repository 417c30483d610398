//! What handlers need besides their payload, found by type.

use std::any::{Any, TypeId, type_name};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// Services by type: one of each, made when the orchestrator is built and shared by all handlers.
#[derive(Clone, Default)]
pub struct Services {
    /// Each value is an `Arc<T>`, under the id of `T`; `T` may be a trait object.
    by_type: HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>,
}

impl Services {
    /// Adds a service, also one behind a trait: `insert::<dyn Mailer>(Arc::new(Smtp::new()))`. A second one of the same
    /// type replaces the first.
    pub fn insert<T: ?Sized + Send + Sync + 'static>(&mut self, service: Arc<T>) {
        self.by_type.insert(TypeId::of::<T>(), (type_name::<T>(), Arc::new(service)));
    }

    /// The service of this type.
    #[must_use]
    pub fn find<T: ?Sized + Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let (_, service) = self.by_type.get(&TypeId::of::<T>())?;
        service.downcast_ref::<Arc<T>>().cloned()
    }

    /// The service of this type.
    ///
    /// # Errors
    /// [`Error::MissingService`], naming the type and `wanted_by`.
    pub fn get<T: ?Sized + Send + Sync + 'static>(&self, wanted_by: &str) -> Result<Arc<T>> {
        self.find().ok_or_else(|| Error::MissingService { service: type_name::<T>(), wanted_by: wanted_by.to_owned() })
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.by_type.values().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    trait Greeter: Send + Sync {
        fn greet(&self) -> &'static str;
    }

    struct Polite;

    impl Greeter for Polite {
        fn greet(&self) -> &'static str {
            "good morning"
        }
    }

    #[test]
    fn a_service_is_found_by_its_own_type_and_behind_a_trait() {
        let mut services = Services::default();
        services.insert(Arc::new(7_u32));
        services.insert::<dyn Greeter>(Arc::new(Polite));
        assert_eq!(*services.find::<u32>().unwrap(), 7);
        assert_eq!(services.find::<dyn Greeter>().unwrap().greet(), "good morning");
    }

    #[test]
    fn a_missing_service_is_named_with_who_wants_it() {
        let error = Services::default().get::<String>("handler `send_email`").unwrap_err();
        assert!(error.to_string().contains("alloc::string::String"), "{error}");
        assert!(error.to_string().contains("send_email"), "{error}");
    }
}
