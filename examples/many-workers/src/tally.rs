//! Asks the orchestrator's tables, through their SeaORM entities.

use orchestratum_core::entity::{instance, overview};
use sea_orm::{
    ColumnTrait, DatabaseConnection, DbErr, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, Select,
};

pub(crate) struct Tally {
    pub(crate) database: DatabaseConnection,
    pub(crate) queue: String,
}

impl Tally {
    /// Workers that have registered.
    pub(crate) async fn registered_workers(&self) -> Result<u64, DbErr> {
        let ours = instance::Column::Name.starts_with(format!("{}/", self.queue));
        instance::Entity::find().filter(ours).count(&self.database).await
    }

    pub(crate) async fn completed(&self) -> Result<u64, DbErr> {
        self.commands().filter(overview::Column::State.eq("completed")).count(&self.database).await
    }

    /// How many commands each worker completed: its name is the output.
    pub(crate) async fn by_worker(&self) -> Result<Vec<(String, i64)>, DbErr> {
        let counts: Vec<(String, i64)> = self
            .commands()
            .select_only()
            .column(overview::Column::Output)
            .column_as(overview::Column::Id.count(), "count")
            .filter(overview::Column::State.eq("completed"))
            .group_by(overview::Column::Output)
            .order_by_asc(overview::Column::Output)
            .into_tuple()
            .all(&self.database)
            .await?;
        // An output is JSON.
        Ok(counts.into_iter().map(|(name, count)| (name.trim_matches('"').to_owned(), count)).collect())
    }

    /// Commands that needed a second attempt. Nothing fails here, so their first one was lost.
    pub(crate) async fn taken_over(&self) -> Result<u64, DbErr> {
        self.commands().filter(overview::Column::Attempt.gt(1)).count(&self.database).await
    }

    fn commands(&self) -> Select<overview::Entity> {
        overview::Entity::find().filter(overview::Column::Queue.eq(&self.queue))
    }
}
