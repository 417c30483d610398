//! Executors: async functions under a key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::Command;
use crate::config::{invalid, name_problem};
use crate::context::{Context, write_output};
use crate::error::{Error, Result};
use crate::retry::{RetryDelay, RetryPolicy};
use crate::verdict::Verdict;

/// Runs one attempt: the payload and the output are JSON text.
type Run = dyn Fn(Arc<str>, Context) -> BoxFuture<'static, anyhow::Result<Option<String>>> + Send + Sync;

/// Computes follow-ups from the payload and the output, both as JSON text.
type OnSuccess = dyn Fn(&str, &str) -> anyhow::Result<Vec<Command>> + Send + Sync;

/// A function under a key, with the defaults of the commands that it runs.
#[derive(Clone)]
#[must_use = "an executor runs nothing until it is given to the builder"]
pub struct Executor {
    pub(crate) key: String,
    /// Where it comes from, for messages about duplicates.
    pub(crate) origin: String,
    pub(crate) run: Arc<Run>,
    pub(crate) on_success: Option<Arc<OnSuccess>>,
    pub(crate) defaults: Defaults,
    pub(crate) retry_delay: Option<RetryDelay>,
}

/// What a command gets when its append does not say otherwise. What is `None` here comes from the orchestrator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Defaults {
    /// How long one attempt may run.
    pub timeout: Option<Duration>,
    /// Retries after the first attempt.
    pub retry_count: Option<u32>,
    /// The waits between attempts.
    pub retry_policy: Option<RetryPolicy>,
    /// The lane to run in.
    pub queue: Option<String>,
    /// Larger runs first.
    pub priority: Option<i16>,
}

impl Executor {
    /// An executor from a function of the decoded payload and the context. A payload that cannot be decoded is parked
    /// as failed, with the reason, and stays as it is.
    #[track_caller]
    pub fn new<P, O, F, Fut>(key: impl Into<String>, function: F) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(P, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<O>> + Send + 'static,
    {
        let function = Arc::new(function);
        let here = std::panic::Location::caller();
        Self::from_json(key, format!("{}:{}", here.file(), here.line()), move |payload, context| {
            let function = Arc::clone(&function);
            Box::pin(async move {
                let payload = decode(&payload)?;
                let key = context.key().to_owned();
                let output = function(payload, context).await?;
                Ok(write_output(&key, &output)?)
            })
        })
    }

    /// An executor from a function of the payload's JSON text, which returns the output's; `origin` tells a reader of
    /// an error message where it comes from.
    pub fn from_json(
        key: impl Into<String>,
        origin: impl Into<String>,
        run: impl Fn(Arc<str>, Context) -> BoxFuture<'static, anyhow::Result<Option<String>>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            key: key.into(),
            origin: origin.into(),
            run: Arc::new(run),
            on_success: None,
            defaults: Defaults::default(),
            retry_delay: None,
        }
    }

    /// Sets the defaults of the commands under this key.
    pub fn defaults(mut self, defaults: Defaults) -> Self {
        self.defaults = defaults;
        self
    }

    /// Computes the wait before a retry from the number of retries used before it, instead of a policy.
    pub fn retry_delay(mut self, delay: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.retry_delay = Some(RetryDelay(Arc::new(delay)));
        self
    }

    /// Computes follow-ups from the payload and the output, both JSON text, when a command completes.
    pub fn on_success(
        mut self,
        follow_ups: impl Fn(&str, &str) -> anyhow::Result<Vec<Command>> + Send + Sync + 'static,
    ) -> Self {
        self.on_success = Some(Arc::new(follow_ups));
        self
    }
}

/// Decodes a payload; trying again would not help, so the failure is for good.
///
/// # Errors
/// [`Verdict::Fail`] with what JSON says.
pub fn decode<P: DeserializeOwned>(payload: &str) -> anyhow::Result<P> {
    serde_json::from_str(payload)
        .map_err(|error| Verdict::fail(format!("the payload cannot be decoded: {error}")).into())
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("key", &self.key).field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// The executors of this program, and the keys that it may append because others run them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    executors: BTreeMap<String, Arc<Executor>>,
    remote: BTreeSet<String>,
    client_only: bool,
}

impl Registry {
    pub(crate) fn new(executors: Vec<Executor>, remote: BTreeSet<String>, client_only: bool) -> Result<Self> {
        if let Some(problem) = remote.iter().find_map(|key| name_problem(key)) {
            return invalid("remote", problem);
        }
        let mut registry = Self { executors: BTreeMap::new(), remote, client_only };
        for executor in executors {
            if let Some(problem) = name_problem(&executor.key) {
                return invalid("executor", problem);
            }
            let origin = executor.origin.clone();
            let key = executor.key.clone();
            if let Some(first) = registry.executors.insert(key.clone(), Arc::new(executor)) {
                return invalid(
                    "executor",
                    format!("key `{key}` is registered twice: by {} and by {origin}", first.origin),
                );
            }
        }
        Ok(registry)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<Executor>> {
        self.executors.get(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.executors.keys().map(String::as_str)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.executors.is_empty()
    }

    pub(crate) fn check_appendable(&self, key: &str) -> Result<()> {
        if self.client_only || self.executors.contains_key(key) || self.remote.contains(key) {
            Ok(())
        } else {
            Err(Error::UnknownKey { key: key.to_owned(), known: self.keys().map(str::to_owned).collect() })
        }
    }
}
