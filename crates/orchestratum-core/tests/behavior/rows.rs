//! Short cuts of the cases.

use std::time::Duration;

use orchestratum_core::{Builder, CommandId, Orchestrator, RetryPolicy, State};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};

use crate::harness::{Backend, World};

impl World {
    /// A builder on the world's database that retries at once.
    pub(crate) fn builder(&self) -> Builder {
        let builder = if self.is_pooled() { Orchestrator::builder().poll_only() } else { Orchestrator::builder() };
        builder
            .database(&self.url)
            .default_retry_policy(RetryPolicy::Fixed(Duration::from_millis(1)))
            .polling_interval(Duration::from_millis(200))
    }

    /// Sixteen bytes, given in hexadecimal, as SQL.
    pub(crate) fn bytes(&self, hexadecimal: &str) -> String {
        match self.backend {
            Backend::Postgres => format!("'{hexadecimal}'"),
            Backend::Sqlite | Backend::Mariadb => format!("x'{hexadecimal}'"),
        }
    }

    /// An orchestrator that only appends and inspects.
    pub(crate) async fn client(&self) -> Orchestrator {
        self.builder().client_only().build().await.unwrap()
    }
}

/// The state of a command.
pub(crate) async fn state(orchestrator: &Orchestrator, id: CommandId) -> State {
    orchestrator.get(id).await.unwrap().expect("the command exists").state
}

/// One number from the database.
pub(crate) async fn number(connection: &DatabaseConnection, sql: &str) -> i64 {
    let statement = Statement::from_string(connection.get_database_backend(), sql);
    let row = connection.query_one_raw(statement).await.unwrap().expect("a count is a row");
    row.try_get_by_index(0).unwrap()
}
