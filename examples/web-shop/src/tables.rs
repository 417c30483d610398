//! The shop's own tables, beside those of the orchestrator.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, EntityTrait, Schema, Set};

pub(crate) mod product {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, DeriveEntityModel)]
    #[sea_orm(table_name = "shop_products")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false, column_type = "String(StringLen::N(64))")]
        pub(crate) name: String,
        pub(crate) stock: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

pub(crate) mod order {
    use sea_orm::entity::prelude::*;
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, DeriveEntityModel, Serialize)]
    #[sea_orm(table_name = "shop_orders")]
    pub(crate) struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub(crate) id: Uuid,
        pub(crate) product: String,
        pub(crate) quantity: i32,
        pub(crate) email: String,
        pub(crate) state: State,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, DeriveActiveEnum, Serialize, Deserialize)]
    #[sea_orm(rs_type = "String", db_type = "String(StringLen::N(16))", rename_all = "snake_case")]
    #[serde(rename_all = "snake_case")]
    pub(crate) enum State {
        Received,
        Confirmed,
        SoldOut,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub(crate) enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// Creates what is missing, with five teapots and a hundred cups on stock. A real shop has migrations.
pub(crate) async fn create(database: &DatabaseConnection) -> Result<(), DbErr> {
    let schema = Schema::new(database.get_database_backend());
    database.execute(schema.create_table_from_entity(product::Entity).if_not_exists()).await?;
    database.execute(schema.create_table_from_entity(order::Entity).if_not_exists()).await?;
    let stock = [("teapot", 5), ("cup", 100)];
    let products = stock.map(|(name, stock)| product::ActiveModel { name: Set(name.to_owned()), stock: Set(stock) });
    product::Entity::insert_many(products).on_conflict_do_nothing().exec_without_returning(database).await?;
    Ok(())
}
