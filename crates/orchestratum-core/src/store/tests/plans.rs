//! By which index the databases get at rows, and how many they read.

use std::time::Duration;

use sea_orm::{ConnectionTrait, IsolationLevel, TransactionTrait};

use super::{ENGINE, Table};
use crate::command::FollowUps;
use crate::harness::on_every_backend;
use crate::instant::Timestamp;
use crate::state::State;
use crate::store::Store;
use crate::store::sql::{Columns, Sql};

on_every_backend! {
    async fn a_claim_reads_the_due_index_and_nothing_else(world) {
        let table = Table::new(world).await;
        for _ in 0..3 {
            table.append("q").await;
        }
        let connection = &table.store.connection();
        let transaction = connection.begin().await.unwrap();
        let explain = match world.backend {
            crate::harness::Backend::Sqlite => "EXPLAIN QUERY PLAN ",
            crate::harness::Backend::Postgres => {
                transaction.execute_unprepared("ANALYZE orchestratum_live").await.unwrap();
                // Three rows are cheaper to scan; the question is whether the index can serve the claim.
                transaction.execute_unprepared("SET LOCAL enable_seqscan = off").await.unwrap();
                "EXPLAIN "
            }
            crate::harness::Backend::Mariadb => "EXPLAIN ",
        };
        let claim = table.store.due(table.store.sql(explain), "id", &Table::lane("q"), Timestamp::from_micros(9), 5);
        let plan = plan(&transaction, claim).await;
        transaction.rollback().await.unwrap();
        assert!(plan.contains("ix_orchestratum_live__due"), "{plan}");
        // Both ends of the range are ends of the scan.
        let range = match world.backend {
            crate::harness::Backend::Sqlite => "run_at>? AND run_at<?",
            crate::harness::Backend::Postgres => "(run_at >= LEAST(",
            crate::harness::Backend::Mariadb => " range ",
        };
        let bounds = plan.lines().find(|line| line.contains(range) && !line.contains("Filter"));
        assert!(bounds.is_some(), "{plan}");
        assert!(!plan.to_lowercase().contains("sort") && !plan.contains("TEMP B-TREE"), "{plan}");
    }
}

/// Of PostgreSQL alone, which keeps plans that were made for small tables.
#[test]
fn a_plan_made_while_nothing_waits_does_not_read_the_whole_table() {
    crate::harness::run(crate::harness::Backend::Postgres, async |world| {
        let mut table = Table::new(world).await;
        table.store = table.store.open(ENGINE).await.unwrap();
        let before = reads(&table.store).await;
        // A plan for any value is made after the fifth.
        for round in 0..8 {
            table.in_state(State::Completed, &format!("{round}")).await;
        }
        let after = reads(&table.store).await;
        assert!(after.1 >= before.1 + 16, "{before:?} and {after:?} reads by an index");
        assert_eq!(after.0, before.0, "reads of the whole table");
    });
}

/// Of PostgreSQL alone. What has ended takes up room for as long as somebody holds an old snapshot, and the planner, who
/// has seen no live row in so large a table, would rather collect all that is due than go through it in order.
#[test]
fn a_plan_made_when_all_has_ended_reads_no_more_than_it_claims() {
    crate::harness::run(crate::harness::Backend::Postgres, async |world| {
        let table = Table::new(world).await;
        let engine = table.store.open(ENGINE).await.unwrap();
        let snapshot = world.connect().await;
        let level = Some(IsolationLevel::RepeatableRead);
        let snapshot = snapshot.begin_with_config(level, None).await.unwrap();
        snapshot.execute_unprepared("SELECT FROM orchestratum_live").await.unwrap();
        let many = vec![Table::command("q", FollowUps::default()); 20_000];
        table.store.append(&many).await.unwrap();
        for sql in ["ANALYZE orchestratum_live", "DELETE FROM orchestratum_live", "VACUUM ANALYZE orchestratum_live"] {
            table.store.connection().execute_unprepared(sql).await.unwrap();
        }
        // A plan for any value is made after the fifth, by each connection.
        let claim =
            async || engine.claim(table.instance, &Table::lane("q"), Timestamp::from_micros(0), 10).await.unwrap();
        for _ in 0..20 {
            assert_eq!(claim().await.commands.len(), 0);
        }
        table.store.append(&many[..2_000]).await.unwrap();
        let before = rows_read(&engine).await;
        assert_eq!(claim().await.commands.len(), 10);
        let read = rows_read(&engine).await - before;
        assert!((10..200).contains(&read), "{read} rows read for ten");
        snapshot.rollback().await.unwrap();
    });
}

/// Of SQLite alone, which takes a partial index only for a statement that repeats its condition.
#[test]
fn what_did_not_complete_is_found_by_its_index() {
    crate::harness::run(crate::harness::Backend::Sqlite, async |world| {
        let table = Table::new(world).await;
        let explain = table.store.sql("EXPLAIN QUERY PLAN ");
        let sql = table.store.purgeable(explain, &[State::Failed], Duration::ZERO, None, 5);
        let plan = plan(&table.store.connection(), sql).await;
        assert!(plan.contains("ix_orchestratum_ended__state"), "{plan}");
    });
}

/// How many live rows were reached through an index of the live table.
async fn rows_read(store: &Store) -> i64 {
    store.rows(store.sql("SELECT pg_stat_force_next_flush() IS NULL")).await.unwrap();
    let sql = "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'orchestratum_live'";
    Columns::new(&store.rows(store.sql(sql)).await.unwrap()[0]).take().unwrap()
}

/// How often the live table was read as a whole, and through an index.
async fn reads(store: &Store) -> (i64, i64) {
    store.rows(store.sql("SELECT pg_stat_force_next_flush() IS NULL")).await.unwrap();
    let sql = "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = 'orchestratum_live'";
    let rows = store.rows(store.sql(sql)).await.unwrap();
    let mut columns = Columns::new(&rows[0]);
    (columns.take().unwrap(), columns.take().unwrap())
}

/// The text columns of a plan, row by row.
async fn plan(connection: &impl ConnectionTrait, sql: Sql) -> String {
    let rows = connection.query_all_raw(sql.build()).await.unwrap();
    let cell = |row: &sea_orm::QueryResult, column: &String| row.try_get::<Option<String>>("", column).ok().flatten();
    let line = |row: &sea_orm::QueryResult| {
        row.column_names().iter().filter_map(|column| cell(row, column)).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
