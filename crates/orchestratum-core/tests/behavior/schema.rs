//! The migrated schema and the entities say the same; migrations can be repeated, raced and interrupted.

use orchestratum_core::entity;
use orchestratum_migration::{self as migration, Dialect, SchemaState};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, EntityTrait, IdenStatic, Iterable, Statement};

use crate::harness::on_every_backend;
use crate::rows::number;

/// The columns of a table as the database knows them: name and whether it may be null, sorted.
async fn columns(connection: &DatabaseConnection, table: &str) -> Vec<(String, bool)> {
    let backend = connection.get_database_backend();
    let sql = match backend {
        DbBackend::Sqlite => "SELECT name, \"notnull\" = 0 FROM pragma_table_info(?)",
        DbBackend::MySql => {
            "SELECT column_name, is_nullable = 'YES' FROM information_schema.columns
             WHERE table_schema = database() AND table_name = ?"
        }
        _ => {
            "SELECT column_name::text, is_nullable = 'YES' FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1"
        }
    };
    let rows = connection.query_all_raw(Statement::from_sql_and_values(backend, sql, [table.into()])).await.unwrap();
    let mut columns: Vec<(String, bool)> =
        rows.iter().map(|row| (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap())).collect();
    columns.sort();
    columns
}

/// The same of an entity.
fn declared<E: EntityTrait>() -> Vec<(String, bool)> {
    use sea_orm::ColumnTrait;
    let columns = E::Column::iter().map(|column| (column.as_str().to_owned(), column.def().is_null()));
    let mut columns: Vec<_> = columns.collect();
    columns.sort();
    columns
}

on_every_backend! {
    async fn the_migrated_tables_are_the_entities(world) {
        let connection = world.connect().await;
        assert_eq!(columns(&connection, "orchestratum_commands").await, declared::<entity::command::Entity>());
        assert_eq!(columns(&connection, "orchestratum_live").await, declared::<entity::live::Entity>());
        assert_eq!(columns(&connection, "orchestratum_ended").await, declared::<entity::ended::Entity>());
        assert_eq!(columns(&connection, "orchestratum_attempts").await, declared::<entity::attempt::Entity>());
        assert_eq!(columns(&connection, "orchestratum_instances").await, declared::<entity::instance::Entity>());
        assert_eq!(columns(&connection, "orchestratum_queues").await, declared::<entity::queue::Entity>());
        let shown: Vec<_> = columns(&connection, "orchestratum_overview").await.into_iter().map(|(name, _)| name).collect();
        for (name, _) in declared::<entity::overview::Entity>() {
            assert!(shown.contains(&name), "{name}");
        }
    }

    async fn migrations_go_up_and_down_and_up_and_leave_what_is_not_ours(world) {
        let connection = world.connect().await;
        connection.execute_unprepared("CREATE TABLE customers (id integer PRIMARY KEY)").await.unwrap();
        connection.execute_unprepared("INSERT INTO customers (id) VALUES (1)").await.unwrap();
        assert_eq!(migration::check(&connection).await.unwrap(), SchemaState::Current);
        migration::up(&connection).await.unwrap();
        migration::down(&connection).await.unwrap();
        assert_eq!(migration::check(&connection).await.unwrap(), SchemaState::Behind { found: None });
        migration::up(&connection).await.unwrap();
        migration::fresh(&connection).await.unwrap();
        assert_eq!(migration::check(&connection).await.unwrap(), SchemaState::Current);
        assert!(migration::status(&connection).await.unwrap().iter().all(|(_, applied)| *applied));
        assert_eq!(number(&connection, "SELECT count(*) FROM customers").await, 1);
    }

    async fn ten_processes_may_migrate_at_once(world) {
        let connection = world.connect().await;
        migration::down(&connection).await.unwrap();
        let tasks: Vec<_> = (0..10)
            .map(|_| tokio::spawn(async move { migration::up(&world.connect().await).await }))
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert_eq!(migration::check(&connection).await.unwrap(), SchemaState::Current);
        assert_eq!(number(&connection, "SELECT count(*) FROM orchestratum_migrations").await, 1);
    }

    /// Killed after any statement, the next run finishes. Only MariaDB can be left half-way; the others show that it
    /// does no harm.
    async fn a_migration_that_was_killed_half_way_is_finished_by_the_next_run(world) {
        let connection = world.connect().await;
        let script = migration::sql(Dialect::of(&connection).await.unwrap());
        let statements: Vec<&str> = script.split(";\n").filter(|statement| !statement.is_empty()).collect();
        assert!(statements.len() > 8);
        for done in 0..statements.len() {
            migration::down(&connection).await.unwrap();
            for statement in &statements[..done] {
                connection.execute_unprepared(statement).await.unwrap();
            }
            migration::up(&connection).await.unwrap();
            assert_eq!(migration::check(&connection).await.unwrap(), SchemaState::Current, "after {done}");
        }
    }
}
