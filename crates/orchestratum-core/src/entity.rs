//! The tables as SeaORM entities, to query and join. Write through the orchestrator only: rows of several tables change
//! together.

/// `orchestratum_overview`: one row a command, with its state. A view: read-only.
pub mod overview {
    use sea_orm::entity::prelude::*;

    /// A command with its state.
    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_overview")]
    #[allow(missing_docs, reason = "the columns are described at the tables that they come from")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub queue: String,
        #[sea_orm(column_name = "command_key")]
        pub key: String,
        pub state: String,
        pub priority: i16,
        pub attempt: i32,
        pub retry_count: i32,
        pub timeout_ms: i64,
        pub unique_key: Option<String>,
        #[sea_orm(column_type = "Text")]
        pub payload: String,
        pub run_at: Option<crate::Timestamp>,
        pub failures: Option<i32>,
        pub losses: Option<i32>,
        pub cancel_requested: Option<bool>,
        pub instance: Option<Uuid>,
        pub created_at: crate::Timestamp,
        pub finished_at: Option<crate::Timestamp>,
        pub duration_ms: Option<i64>,
        #[sea_orm(column_type = "Text", nullable)]
        pub output: Option<String>,
        #[sea_orm(column_type = "Text", nullable)]
        pub error: Option<String>,
    }

    /// None: join by `id`.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `orchestratum_commands`: what was asked; never written again after the append.
pub mod command {
    use sea_orm::entity::prelude::*;

    /// What was asked.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_commands")]
    pub struct Model {
        /// The identity.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        /// The lane.
        #[sea_orm(column_type = "String(StringLen::N(191))")]
        pub queue: String,
        /// The key that routes it.
        #[sea_orm(column_name = "command_key", column_type = "String(StringLen::N(191))")]
        pub key: String,
        /// Larger runs first.
        pub priority: i16,
        /// JSON text.
        #[sea_orm(column_type = "Text")]
        pub payload: String,
        /// How long one attempt may run.
        pub timeout_ms: i64,
        /// Retries after the first attempt.
        pub retry_count: i32,
        /// The waits between attempts, as JSON; null: the orchestrator's.
        #[sea_orm(column_type = "Text", nullable)]
        pub retry_policy: Option<String>,
        /// What to append when it ends, as JSON.
        #[sea_orm(column_type = "Text", nullable)]
        pub follow_ups: Option<String>,
        /// The unique key that it held while it was live.
        #[sea_orm(column_type = "String(StringLen::N(191))", nullable)]
        pub unique_key: Option<String>,
        /// When it was appended, by the database's clock.
        pub created_at: crate::Timestamp,
    }

    /// None: join by `id`.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `orchestratum_live`: one narrow row for each command that has not ended.
pub mod live {
    use sea_orm::entity::prelude::*;

    /// A command that has not ended.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_live")]
    pub struct Model {
        /// The identity.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        /// `pending`, `blocked` or `running`.
        #[sea_orm(column_type = "String(StringLen::N(191))")]
        pub state: String,
        /// The lane, as in the command's row.
        #[sea_orm(column_type = "String(StringLen::N(191))")]
        pub queue: String,
        /// The key, as in the command's row.
        #[sea_orm(column_name = "command_key", column_type = "String(StringLen::N(191))")]
        pub key: String,
        /// The priority, as in the command's row.
        pub priority: i16,
        /// When it is due.
        pub run_at: crate::Timestamp,
        /// The number of the latest attempt: the token of its lease.
        pub attempt: i32,
        /// Attempts that ended with an error, a timeout or a panic.
        pub failures: i32,
        /// Leases lost.
        pub losses: i32,
        /// Who holds the lease; null unless it runs.
        pub instance: Option<Uuid>,
        /// A user wants the running command to stop.
        pub cancel_requested: bool,
        /// At most one live command has it.
        #[sea_orm(column_type = "String(StringLen::N(191))", nullable)]
        pub unique_key: Option<String>,
    }

    /// None: join by `id`.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `orchestratum_ended`: one row for each command that has ended.
pub mod ended {
    use sea_orm::entity::prelude::*;

    /// How a command has ended.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_ended")]
    pub struct Model {
        /// The identity.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        /// `completed`, `failed` or `canceled`.
        #[sea_orm(column_type = "String(StringLen::N(191))")]
        pub state: String,
        /// The number of the last attempt.
        pub attempt: i32,
        /// Who ran it; null if it never ran.
        pub instance: Option<Uuid>,
        /// When it ended, by the database's clock.
        pub finished_at: crate::Timestamp,
        /// How long the last attempt ran.
        pub duration_ms: Option<i64>,
        /// JSON text; null for `()`.
        #[sea_orm(column_type = "Text", nullable)]
        pub output: Option<String>,
        /// Why it failed.
        #[sea_orm(column_type = "Text", nullable)]
        pub error: Option<String>,
    }

    /// None: join by `id`.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `orchestratum_attempts`: one row for each attempt that did not succeed.
pub mod attempt {
    use sea_orm::entity::prelude::*;

    /// An attempt that did not succeed.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_attempts")]
    pub struct Model {
        /// The command.
        #[sea_orm(primary_key, auto_increment = false)]
        pub command_id: Uuid,
        /// The number of the attempt.
        #[sea_orm(primary_key, auto_increment = false)]
        pub attempt: i32,
        /// `error`, `panic`, `timeout` or `lost_lease`.
        #[sea_orm(column_type = "String(StringLen::N(191))")]
        pub kind: String,
        /// What was said.
        #[sea_orm(column_type = "Text")]
        pub error: String,
        /// Who ran it.
        pub instance: Option<Uuid>,
        /// When it ended, by the database's clock.
        pub ended_at: crate::Timestamp,
    }

    /// None: join by `command_id`.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `orchestratum_instances`: running workers, and fenced ones for a few minutes.
pub mod instance {
    use sea_orm::entity::prelude::*;

    /// A worker.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_instances")]
    pub struct Model {
        /// The identity; a worker that was fenced goes on under a new one.
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        /// Host and process, or what the builder was given.
        #[sea_orm(column_type = "String(StringLen::N(191))")]
        pub name: String,
        /// When it registered.
        pub started_at: crate::Timestamp,
        /// When others may fence it, unless it extends.
        pub expires_at: crate::Timestamp,
        /// When others took over what it held.
        pub fenced_at: Option<crate::Timestamp>,
    }

    /// None: join `orchestratum_live` by `instance`.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `orchestratum_queues`: paused queues.
pub mod queue {
    use sea_orm::entity::prelude::*;

    /// A paused queue.
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "orchestratum_queues")]
    pub struct Model {
        /// The name.
        #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(191))")]
        pub name: String,
        /// Since when.
        pub paused_at: crate::Timestamp,
    }

    /// None: join by the name of the queue.
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}
