//! The settings of an orchestrator: every default with its reason, every nonsense with its message.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::retry::RetryPolicy;

/// The longest span that any option takes: beyond it a typo is likelier than an intention.
pub(crate) const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The longest key, queue name and unique key, in bytes: what an index holds on every database.
pub const MAX_KEY_BYTES: usize = 191;

/// The lane of commands that name none.
pub const DEFAULT_QUEUE: &str = "default";

/// Settings, checked as a whole by `Config::validate`.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// How long one attempt may run. 5 min: long enough for a slow mail server, short enough to free a slot the same day.
    pub(crate) default_timeout: Duration,
    /// Retries after the first attempt. 3.
    pub(crate) default_retry_count: u32,
    /// The waits between attempts.
    pub(crate) default_retry_policy: RetryPolicy,
    /// The floor under wake-ups: how often an idle worker asks. 1 s: one cheap statement a second.
    pub(crate) polling_interval: Duration,
    /// How long an instance may be silent before others take over its commands. 30 s: longer than a failover or a
    /// garbage-collecting neighbor, shorter than a user's patience.
    pub(crate) lease_duration: Duration,
    /// How often an instance extends its lease. A third of the lease: two heartbeats may fail.
    pub(crate) heartbeat_interval: Option<Duration>,
    /// How many commands one claim takes at most. 500: beyond it a claim gains little, and a crash returns more.
    pub(crate) claim_batch: usize,
    /// How many commands of one queue run at a time in this process. 100: handlers mostly wait.
    pub(crate) default_concurrency: usize,
    /// Concurrency of single queues.
    pub(crate) concurrency: BTreeMap<String, usize>,
    /// The queues served; `None` serves all.
    pub(crate) queues: Option<Vec<String>>,
    /// Lost leases that a command is allowed; the next one parks it as failed. 5: enough for bad deploys, few enough for
    /// a command that kills its process.
    pub(crate) max_lost_leases: u32,
    /// How long completed and canceled commands are kept; `None` for ever. 1 day.
    pub(crate) keep_completed: Option<Duration>,
    /// How long failed commands are kept; `None` for ever. 30 days: somebody should look at them.
    pub(crate) keep_failed: Option<Duration>,
    /// The largest payload and the largest output, in bytes of JSON. 1 MiB: larger things belong into an object store.
    pub(crate) payload_limit: usize,
    /// How long `shutdown` lets running commands finish. 25 s: process managers usually kill after 30.
    pub(crate) shutdown_grace: Duration,
    /// Connections of the engine, beside the heartbeat's. 4: two claims and two completions at a time, and now and then a
    /// survey between them.
    pub(crate) engine_connections: u32,
    /// Whether to do without `LISTEN` and cached prepared statements, behind a transaction pooler.
    pub(crate) poll_only: bool,
    /// The name under which the instance shows itself; host and process id by default.
    pub(crate) instance_name: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            default_timeout: Duration::from_secs(300),
            default_retry_count: 3,
            default_retry_policy: RetryPolicy::default(),
            polling_interval: Duration::from_secs(1),
            lease_duration: Duration::from_secs(30),
            heartbeat_interval: None,
            claim_batch: 500,
            default_concurrency: 100,
            concurrency: BTreeMap::new(),
            queues: None,
            max_lost_leases: 5,
            keep_completed: Some(DAY),
            keep_failed: Some(30 * DAY),
            payload_limit: 1024 * 1024,
            shutdown_grace: Duration::from_secs(25),
            engine_connections: 4,
            poll_only: false,
            instance_name: None,
        }
    }
}

impl Config {
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval.unwrap_or(self.lease_duration / 3)
    }

    /// How long before the lease's end the instance stops trusting it: a tenth, for the way to the database and back.
    pub(crate) fn lease_margin(&self) -> Duration {
        self.lease_duration / 10
    }

    /// Claims pause while more endings than this wait for the database: what has run ahead of it runs again after a
    /// crash.
    pub(crate) const fn most_unsettled(&self) -> usize {
        self.claim_batch.saturating_mul(4)
    }

    pub(crate) fn concurrency_of(&self, queue: &str) -> usize {
        self.concurrency.get(queue).copied().unwrap_or(self.default_concurrency)
    }

    pub(crate) fn serves(&self, queue: &str) -> bool {
        self.queues.as_ref().is_none_or(|queues| queues.iter().any(|served| served == queue))
    }

    pub(crate) fn validate(&self) -> Result<()> {
        span("default_timeout", self.default_timeout, Duration::from_millis(1))?;
        span("polling_interval", self.polling_interval, Duration::from_millis(1))?;
        // Below this a heartbeat competes with the work it protects.
        span("lease_duration", self.lease_duration, Duration::from_millis(300))?;
        span("heartbeat_interval", self.heartbeat_interval(), Duration::from_millis(10))?;
        span("shutdown_grace", self.shutdown_grace, Duration::ZERO)?;
        for (option, kept) in [("keep_completed", self.keep_completed), ("keep_failed", self.keep_failed)] {
            if let Some(kept) = kept {
                span(option, kept, Duration::from_millis(1))?;
            }
        }
        if self.heartbeat_interval() * 2 > self.lease_duration {
            let (beat, lease) = (self.heartbeat_interval(), self.lease_duration);
            return invalid(
                "heartbeat_interval",
                format!("{beat:?} leaves no second chance within a lease of {lease:?}: at most half of it"),
            );
        }
        if let Some(problem) = self.default_retry_policy.problem() {
            return invalid("default_retry_policy", problem);
        }
        if i32::try_from(self.default_retry_count).is_err() {
            return invalid("default_retry_count", format!("{} is more than {}", self.default_retry_count, i32::MAX));
        }
        at_least_one("claim_batch", self.claim_batch)?;
        at_least_one("payload_limit", self.payload_limit)?;
        at_least_one("concurrency", self.default_concurrency)?;
        if self.claim_batch > 10_000 {
            return invalid("claim_batch", format!("{} is more than 10000", self.claim_batch));
        }
        if self.engine_connections == 0 {
            return invalid("engine_connections", "0 connections cannot claim anything");
        }
        if let Some(name) = self.instance_name.as_deref().filter(|name| name.is_empty() || name.contains('\0')) {
            return invalid("instance_name", format!("{name:?} is empty or contains a NUL character"));
        }
        for (queue, concurrency) in &self.concurrency {
            name("queue", queue)?;
            at_least_one("queue_concurrency", *concurrency)?;
            if !self.serves(queue) {
                return invalid("queue_concurrency", format!("queue `{queue}` is not among the queues served"));
            }
        }
        match &self.queues {
            Some(queues) if queues.is_empty() => invalid("queues", "an empty list serves nothing"),
            Some(queues) => queues.iter().try_for_each(|queue| name("queues", queue)),
            None => Ok(()),
        }
    }
}

fn span(option: &str, value: Duration, least: Duration) -> Result<()> {
    if value < least {
        invalid(option, format!("{value:?} is less than {least:?}"))
    } else if value > LONGEST {
        invalid(option, format!("{value:?} is more than 100 years"))
    } else {
        Ok(())
    }
}

fn at_least_one(option: &str, value: usize) -> Result<()> {
    if value == 0 { invalid(option, "0 is less than 1") } else { Ok(()) }
}

fn name(option: &str, value: &str) -> Result<()> {
    match name_problem(value) {
        Some(problem) => invalid(option, problem),
        None => Ok(()),
    }
}

pub(crate) fn invalid<T>(option: impl Into<String>, problem: impl Into<String>) -> Result<T> {
    Err(Error::InvalidConfig { option: option.into(), problem: problem.into() })
}

/// What is wrong with a key, a queue's name or a unique key, if anything.
pub(crate) fn name_problem(value: &str) -> Option<String> {
    if value.is_empty() {
        Some("it is empty".to_owned())
    } else if value.len() > MAX_KEY_BYTES {
        let start: String = value.chars().take(20).collect();
        Some(format!("`{start}…` has {} bytes, more than {MAX_KEY_BYTES}", value.len()))
    } else if value.contains('\0') {
        Some(format!("{value:?} contains a NUL character, which PostgreSQL cannot store"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn nonsense_is_named_with_its_option() {
        for (option, message) in [
            ("default_timeout", problem(|c| c.default_timeout = Duration::ZERO)),
            ("default_timeout", problem(|c| c.default_timeout = Duration::MAX)),
            ("polling_interval", problem(|c| c.polling_interval = Duration::ZERO)),
            ("lease_duration", problem(|c| c.lease_duration = Duration::from_millis(5))),
            ("heartbeat_interval", problem(|c| c.heartbeat_interval = Some(Duration::from_secs(20)))),
            ("claim_batch", problem(|c| c.claim_batch = 0)),
            ("concurrency", problem(|c| c.default_concurrency = 0)),
            ("payload_limit", problem(|c| c.payload_limit = 0)),
            ("instance_name", problem(|c| c.instance_name = Some("a\0b".to_owned()))),
            ("queues", problem(|c| c.queues = Some(Vec::new()))),
            ("queues", problem(|c| c.queues = Some(vec![String::new()]))),
            ("keep_failed", problem(|c| c.keep_failed = Some(Duration::ZERO))),
            ("default_retry_count", problem(|c| c.default_retry_count = u32::MAX)),
            ("default_retry_policy", problem(|c| c.default_retry_policy = RetryPolicy::Fixed(Duration::MAX))),
        ] {
            assert!(message.starts_with(&format!("invalid `{option}`: ")), "{message}");
        }
    }

    #[test]
    fn names_are_bounded_and_printable_by_every_database() {
        assert_eq!(name_problem("send-email"), None);
        assert_eq!(name_problem(&"k".repeat(MAX_KEY_BYTES)), None);
        for bad in ["", "a\0b", &"k".repeat(10_000)] {
            assert!(name_problem(bad).is_some());
        }
    }
}
