//! Configures an orchestrator.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use orchestratum_migration::{self as migration, SchemaState};
use sea_orm::{DatabaseConnection, TransactionTrait};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::appender::Appender;
use crate::config::{Config, invalid};
use crate::context::Context;
use crate::engine::Shared;
use crate::engine::starter::Starters;
use crate::engine::wake::Wake;
use crate::error::{Error, Result};
use crate::executor::{Executor, Registry};
use crate::notifier::Notifier;
use crate::orchestrator::Orchestrator;
use crate::retry::RetryPolicy;
use crate::services::Services;
use crate::store::Store;
use crate::store::backend::{self, Purpose};

/// A check of the services at [`Builder::build`].
type Requirement = Box<dyn FnOnce(&Services) -> Result<()> + Send>;

/// The settings of an [`Orchestrator`]. Everything that is wrong is said by [`build`](Self::build), naming what to
/// change.
#[must_use = "nothing happens until it is built"]
pub struct Builder {
    config: Config,
    database: Option<Database>,
    services: Services,
    executors: Vec<Executor>,
    remote: BTreeSet<String>,
    client_only: bool,
    migrate: bool,
    requirements: Vec<Requirement>,
}

enum Database {
    Url(String),
    Connection(DatabaseConnection),
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $field:ident;)*) => {
        $($(#[$doc])* pub fn $name(mut self, $name: $type) -> Self {
            self.config.$field = $name;
            self
        })*
    };
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            config: Config::default(),
            database: None,
            services: Services::default(),
            executors: Vec::new(),
            remote: BTreeSet::new(),
            client_only: false,
            migrate: false,
            requirements: Vec::new(),
        }
    }

    /// The database by its address: `sqlite://app.db?mode=rwc`, `postgres://user@host/app`, `mysql://user@host/app`.
    pub fn database(mut self, url: impl Into<String>) -> Self {
        self.database = Some(Database::Url(url.into()));
        self
    }

    /// The database by the application's own pool. Appends and questions go through it, with its settings; the engine
    /// opens a few connections of its own with the same address.
    pub fn connection(mut self, connection: DatabaseConnection) -> Self {
        self.database = Some(Database::Connection(connection));
        self
    }

    /// Brings the schema up to date at [`build`](Self::build). Ten processes may do so at once.
    pub const fn migrate(mut self) -> Self {
        self.migrate = true;
        self
    }

    /// A service that handlers ask for by its type. A second one of the same type replaces the first.
    pub fn service<T: Send + Sync + 'static>(mut self, service: T) -> Self {
        self.services.insert(Arc::new(service));
        self
    }

    /// A service that is shared already, or stands behind a trait: `.shared::<dyn Mailer>(Arc::new(smtp))`.
    pub fn shared<T: ?Sized + Send + Sync + 'static>(mut self, service: Arc<T>) -> Self {
        self.services.insert(service);
        self
    }

    /// An async function under a key; it gets the decoded payload and a [`Context`].
    ///
    /// It runs at least once for each command: write it so that running again does no harm, or finish with
    /// [`Context::complete_in`].
    #[track_caller]
    pub fn executor<P, O, F, Fut>(self, key: impl Into<String>, function: F) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(P, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<O>> + Send + 'static,
    {
        self.register(Executor::new(key, function))
    }

    /// An executor with defaults of its own.
    pub fn register(mut self, executor: Executor) -> Self {
        self.executors.push(executor);
        self
    }

    /// A key that another program runs: it may be appended here, with the options of the append alone, for the other
    /// program's [`Executor::defaults`] are not known here.
    pub fn remote(mut self, key: impl Into<String>) -> Self {
        self.remote.insert(key.into());
        self
    }

    /// For a program that only appends: no key is checked, any may be appended, with the options of the append alone. A
    /// worker that it starts all the same serves what is registered.
    pub const fn client_only(mut self) -> Self {
        self.client_only = true;
        self
    }

    /// A check of the services at [`build`](Self::build), for crates built on this one.
    pub fn require(mut self, requirement: impl FnOnce(&Services) -> Result<()> + Send + 'static) -> Self {
        self.requirements.push(Box::new(requirement));
        self
    }

    options! {
        /// How long one attempt may run, from 1 ms to 100 years. Default 5 minutes.
        default_timeout: Duration => default_timeout;
        /// Retries after the first attempt. Default 3: at most 4 attempts.
        default_retry_count: u32 => default_retry_count;
        /// The waits between attempts. Default 10 s, doubling up to 1 h, each moved by up to 10 %.
        default_retry_policy: RetryPolicy => default_retry_policy;
        /// How often an idle worker asks for work that nobody announced: the floor, wake-ups come sooner. Default 1 s.
        polling_interval: Duration => polling_interval;
        /// How long an instance may be silent before others take over what it runs. Default 30 s, at least 300 ms.
        ///
        /// Too short and a slow network costs attempts; too long and the commands of a dead process wait.
        lease_duration: Duration => lease_duration;
        /// How many commands one claim takes at most, from 1 to 10,000. Default 500.
        claim_batch: usize => claim_batch;
        /// How many commands of each queue run at a time in this process. Default 100.
        concurrency: usize => default_concurrency;
        /// Lost leases that a command is allowed; the next one parks it as failed. Default 5.
        max_lost_leases: u32 => max_lost_leases;
        /// How long completed and canceled commands are kept; `None` keeps them. Default 1 day.
        keep_completed: Option<Duration> => keep_completed;
        /// How long failed commands are kept; `None` keeps them. Default 30 days.
        keep_failed: Option<Duration> => keep_failed;
        /// The largest payload, output, and all follow-ups of a command together, in bytes of JSON each. Default 1 MiB.
        payload_limit: usize => payload_limit;
        /// How long [`Worker::shutdown`](crate::Worker::shutdown) lets running commands finish. Default 25 s.
        shutdown_grace: Duration => shutdown_grace;
        /// Connections of the engine, beside the heartbeat's and the listener's. Default 4; on SQLite always 1.
        engine_connections: u32 => engine_connections;
    }

    /// How often the lease is extended; at most half of it. Default a third.
    pub const fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.config.heartbeat_interval = Some(interval);
        self
    }

    /// How many commands of this queue run at a time in this process.
    pub fn queue_concurrency(mut self, queue: impl Into<String>, concurrency: usize) -> Self {
        self.config.concurrency.insert(queue.into(), concurrency);
        self
    }

    /// Serves these queues only. By default a worker serves all.
    pub fn queues<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.config.queues = Some(queues.into_iter().map(Into::into).collect());
        self
    }

    /// Does without session state: no `LISTEN`, no cached statements, each statement in a transaction of its own. For
    /// PostgreSQL behind a pooler in transaction mode.
    pub const fn poll_only(mut self) -> Self {
        self.config.poll_only = true;
        self
    }

    /// The name under which this instance shows itself to operators. Default host and process id.
    pub fn instance_name(mut self, name: impl Into<String>) -> Self {
        self.config.instance_name = Some(name.into());
        self
    }

    /// Checks everything, connects, and makes the orchestrator.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] and [`Error::MissingService`] naming what to change, [`Error::Unreachable`],
    /// [`Error::SchemaBehind`], [`Error::SchemaAhead`], [`Error::Database`].
    pub async fn build(self) -> Result<Orchestrator> {
        self.config.validate()?;
        // First: they know more about what they registered than the registry does.
        for requirement in self.requirements {
            requirement(&self.services)?;
        }
        let registry = Registry::new(self.executors, self.remote, self.client_only)?;
        let connection = match self.database {
            Some(Database::Url(url)) => backend::connect(&url, Purpose::Application, self.config.poll_only).await?,
            Some(Database::Connection(connection)) => connection,
            None => {
                return invalid("database", "no database: call `.database(url)` or `.connection(pool)`");
            }
        };
        if self.migrate {
            migration::up(&connection).await?;
        }
        // In a transaction, for poolers that hand out a connection a transaction.
        let transaction = connection.begin().await?;
        let schema = migration::check(&transaction).await?;
        transaction.commit().await?;
        match schema {
            SchemaState::Current => {}
            SchemaState::Behind { found } => {
                return Err(Error::SchemaBehind { found, needed: migration::VERSION });
            }
            SchemaState::Ahead { found } => {
                return Err(Error::SchemaAhead { found, known: migration::VERSION });
            }
        }
        let store = Store::new(connection.clone(), self.config.poll_only)?.with_search_path().await?;
        let (wake, starters) = (Arc::new(Wake::default()), Arc::new(Starters::default()));
        let notifier = Notifier::start(store.clone());
        let shared = Arc::new(Shared {
            connection,
            config: self.config,
            registry,
            services: Arc::new(self.services),
            appender: Appender::start(store.clone(), Arc::clone(&wake), Arc::clone(&starters), notifier.clone()),
            notifier,
            store,
            wake,
            starters,
            instances: AtomicUsize::new(1),
        });
        Ok(Orchestrator { shared })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("services", &self.services)
            .field("executors", &self.executors)
            .finish_non_exhaustive()
    }
}
