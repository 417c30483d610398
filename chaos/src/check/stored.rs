//! The commands and what became of them, as the database has them.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use orchestratum_core::entity::{attempt, command, ended, live};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, EntityTrait as _, Statement};
use uuid::Uuid;

use crate::job::{AFTER_FAILURE, AFTER_SUCCESS, DEADLY, FATAL, Job};
use crate::ledger;

/// Lost leases that park a command, as the processes have it by default.
const LOSSES: usize = 5;

/// Clocks of one machine, read one after the other.
pub(super) const SAME_TIME: i128 = 1_000_000_000;

#[derive(Default)]
pub(super) struct Stored {
    pub(super) commands: HashMap<Uuid, Command>,
    /// Rows that belong to no command.
    pub(super) strays: Vec<Uuid>,
    pub(super) orders: HashSet<u64>,
    /// How often each command took effect.
    pub(super) effects: HashMap<Uuid, usize>,
    /// What the monotonic clock said, in nanoseconds, when the database's clock stood at 0: all run on one machine.
    pub(super) epoch: i128,
}

pub(super) struct Command {
    pub(super) row: command::Model,
    pub(super) job: Job,
    pub(super) live: Option<live::Model>,
    pub(super) ended: Option<ended::Model>,
    pub(super) attempts: Vec<attempt::Model>,
}

impl Command {
    pub(super) fn state(&self) -> &str {
        self.ended.as_ref().map_or("live", |ended| &ended.state)
    }

    pub(super) fn attempts_of(&self, kind: &str) -> usize {
        self.attempts.iter().filter(|attempt| attempt.kind == kind).count()
    }

    pub(super) fn has_lost_too_many_leases(&self) -> bool {
        self.attempts_of("lost_lease") > LOSSES + 1
    }

    /// Lost its lease more often than it may.
    pub(super) fn is_parked(&self) -> bool {
        self.state() == "failed" && self.attempts_of("lost_lease") > LOSSES
    }

    pub(super) fn is_deadly(&self) -> bool {
        [DEADLY, FATAL].contains(&self.row.key.as_str())
    }

    /// When it ended, by the database's clock in microseconds.
    pub(super) fn finished_at(&self) -> Option<i64> {
        self.ended.as_ref().map(|ended| ended.finished_at.as_micros())
    }

    pub(super) fn is_follow_up(&self) -> bool {
        [AFTER_SUCCESS, AFTER_FAILURE].contains(&self.row.key.as_str())
    }
}

impl Stored {
    pub(super) async fn read(connection: &DatabaseConnection) -> Result<Self> {
        let mut stored = Self { epoch: epoch(), ..Self::default() };
        for row in command::Entity::find().all(connection).await? {
            let job = serde_json::from_str(&row.payload).context("a payload changed")?;
            let command = Command { row, job, live: None, ended: None, attempts: Vec::new() };
            stored.commands.insert(command.row.id, command);
        }
        for row in live::Entity::find().all(connection).await? {
            stored.at(row.id, |command| command.live = Some(row));
        }
        for row in ended::Entity::find().all(connection).await? {
            stored.at(row.id, |command| command.ended = Some(row));
        }
        for row in attempt::Entity::find().all(connection).await? {
            stored.at(row.command_id, |command| command.attempts.push(row));
        }
        let rows = async |sql: &str| {
            connection.query_all_raw(Statement::from_string(connection.get_database_backend(), sql)).await
        };
        for row in rows("SELECT number FROM chaos_orders").await? {
            stored.orders.insert(u64::try_from(row.try_get_by_index::<i64>(0)?)?);
        }
        stored.effects = effects(connection).await?;
        Ok(stored)
    }

    /// The monotonic clock at a time of the database's, to [`SAME_TIME`].
    pub(super) fn monotonic(&self, micros: i64) -> i128 {
        self.epoch + i128::from(micros) * 1_000
    }

    fn at(&mut self, id: Uuid, add: impl FnOnce(&mut Command)) {
        match self.commands.get_mut(&id) {
            Some(command) => add(command),
            None => self.strays.push(id),
        }
    }

    /// Those that were parked and have never killed a process.
    pub(super) fn parked_innocents(&self) -> impl Iterator<Item = &Command> {
        self.commands.values().filter(|command| command.is_parked() && !command.is_deadly())
    }

    /// How many commands have each number, follow-ups apart.
    pub(super) fn by_number(&self) -> HashMap<u64, usize> {
        let mut by_number = HashMap::new();
        for command in self.commands.values().filter(|command| !command.is_follow_up()) {
            *by_number.entry(command.job.number).or_default() += 1;
        }
        by_number
    }
}

/// How often each command took effect.
pub(super) async fn effects(connection: &DatabaseConnection) -> Result<HashMap<Uuid, usize>> {
    let (sql, mut effects) = ("SELECT command FROM chaos_effects", HashMap::new());
    for row in connection.query_all_raw(Statement::from_string(connection.get_database_backend(), sql)).await? {
        *effects.entry(row.try_get_by_index::<String>(0)?.parse()?).or_default() += 1;
    }
    Ok(effects)
}

fn epoch() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i128::from(ledger::now()) - i128::try_from(since.as_nanos()).unwrap_or_default()
}
