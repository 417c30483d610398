//! Short cuts of the cases.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestratum_core::{Builder, CommandId, Context, Orchestrator, RetryPolicy, State};
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

/// An orchestrator that notes which numbers have run.
pub(crate) async fn noting(builder: Builder) -> (Orchestrator, Arc<Mutex<Vec<u32>>>) {
    let ran = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ran);
    let orchestrator = builder
        .executor("note", move |number: u32, _: Context| {
            seen.lock().unwrap().push(number);
            async move { Ok(()) }
        })
        .build()
        .await
        .unwrap();
    (orchestrator, ran)
}

/// Which numbers have run, each once.
pub(crate) fn distinct(ran: &Mutex<Vec<u32>>) -> Vec<u32> {
    let mut ran = ran.lock().unwrap().clone();
    ran.sort_unstable();
    ran.dedup();
    ran
}
