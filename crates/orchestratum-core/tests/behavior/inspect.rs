//! List, stats, purge, entities, and misuse at start.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use orchestratum_core::{CommandId, Context, Error, Filter, Orchestrator, Order, Page, State, entity};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter};
use time::OffsetDateTime;

use crate::harness::{Backend, on_every_backend, skip, until};
use crate::rows::number;

/// What statements, patterns, collations and lengths stumble over, or anything.
fn hostile_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[aA%_'\"\\\\ ]{0,4}",
        "[a-zéЖ🦀\u{0}\u{feff}\u{200d}]{1,6}",
        "(' OR '1'='1|\\$1|\\?|:a|;--|/\\*|\\{\\}|NULL|0){1,3}",
        "[aé]{180,200}",
        any::<String>(),
    ]
}

async fn list(orchestrator: &Orchestrator, filter: Filter) -> Vec<CommandId> {
    let page = Page::default().limit(1_000);
    orchestrator.list(filter, page).await.unwrap().into_iter().map(|command| command.id).collect()
}

on_every_backend! {
    async fn a_list_is_filtered_sorted_and_read_in_pages(world) {
        let orchestrator = world.client().await;
        let mut ids = Vec::new();
        for number in 0..25 {
            let key = if number % 5 == 0 { "five" } else { "other" };
            ids.push(orchestrator.append((key, number)).queue(format!("q{}", number % 2)).await.unwrap().id());
        }
        orchestrator.cancel(ids[3]).await.unwrap();
        let mut seen = Vec::new();
        let mut page = Page::default().limit(10).order(Order::OldestFirst);
        loop {
            let commands = orchestrator.list(Filter::all(), page).await.unwrap();
            let Some(last) = commands.last() else { break };
            page = page.after(last.id);
            seen.extend(commands.into_iter().map(|command| command.id));
        }
        assert_eq!(seen, ids);
        let newest = orchestrator.list(Filter::all(), Page::default().limit(1)).await.unwrap();
        assert_eq!(newest[0].id, ids[24]);
        let count = async |filter| orchestrator.list(filter, Page::default()).await.unwrap().len();
        assert_eq!(count(Filter::all().key("five")).await, 5);
        assert_eq!(count(Filter::all().key("five").key("other").queue("q1")).await, 12);
        assert_eq!(count(Filter::all().state(State::Canceled)).await, 1);
        assert_eq!(count(Filter::all().state(State::Pending)).await, 24);
        assert_eq!(count(Filter::all().state(State::Pending).state(State::Canceled)).await, 25);
        assert_eq!((count(Filter::live()).await, count(Filter::ended()).await), (24, 1));
        assert_eq!(orchestrator.count(Filter::live().key("five")).await.unwrap().value, 5);
        assert_eq!(orchestrator.count(Filter::all()).await.unwrap().value, 25);
        let middle = orchestrator.get(ids[12]).await.unwrap().unwrap().created_at;
        let (from, before) = (Filter::all().created_from(middle), Filter::all().created_before(middle));
        assert_eq!(count(from).await + count(before).await, 25);
    }

    /// Texts and instants drawn at random, the same in each run; `PROPTEST_CASES` draws more of them.
    async fn whatever_is_appended_is_found_by_exactly_its_own_names_or_was_refused(world) {
        let (orchestrator, mut runner) = (world.client().await, TestRunner::deterministic());
        let mut appended: Vec<(CommandId, [String; 2])> = Vec::new();
        for _ in 0..runner.config().cases / 4 {
            let drawn = (hostile_text(), hostile_text(), hostile_text(), any::<i64>());
            let (key, queue, payload, instant) = drawn.new_tree(&mut runner).unwrap().current();
            match orchestrator.append((key.clone(), payload.clone())).queue(&queue).unique(format!("{key}{queue}")).await {
                Ok(command) => {
                    let found = orchestrator.get(command.id()).await.unwrap().unwrap();
                    assert_eq!((&found.key, &found.queue), (&key, &queue));
                    assert_eq!(serde_json::from_str::<String>(&found.payload).unwrap(), payload);
                    if command.is_new() {
                        appended.push((command.id(), [key, queue]));
                    }
                }
                Err(Error::InvalidCommand { option, .. }) => {
                    assert!(["key", "queue", "unique"].contains(&option), "{option}");
                    // Also as a filter it is data.
                    assert!(list(&orchestrator, Filter::all().key(&key).queue(&queue)).await.is_empty(), "{key:?}");
                }
                Err(error) => panic!("{key:?}, {queue:?}: {error}"),
            }
            let instant = OffsetDateTime::from_unix_timestamp(instant % 253_402_300_799).unwrap();
            let halves = [Filter::all().created_before(instant), Filter::all().created_from(instant)];
            let [before, from] = [&halves[0], &halves[1]].map(|half| list(&orchestrator, half.clone()));
            assert_eq!(before.await.len() + from.await.len(), appended.len(), "{instant}");
        }
        assert!(appended.len() > 10);
        for (_, [key, queue]) in &appended {
            let mut found = list(&orchestrator, Filter::all().key(key).queue(queue)).await;
            let wanted = appended.iter().filter(|(_, names)| names == &[key.as_str(), queue]);
            let mut wanted: Vec<CommandId> = wanted.map(|(id, _)| *id).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "{key:?}, {queue:?}");
        }
    }

    async fn stats_count_what_there_is(world) {
        let orchestrator = world.client().await;
        let _ = orchestrator.append_all((0..3).map(|n| ("k", n))).await.unwrap();
        let _ = orchestrator.append(("k", 9)).delay(Duration::from_secs(3600)).await.unwrap();
        let canceled = orchestrator.append(("k", 10)).queue("mail").await.unwrap().id();
        orchestrator.cancel(canceled).await.unwrap();
        let stats = orchestrator.stats().await.unwrap();
        let queue = &stats.queues[0];
        assert_eq!((queue.queue.as_str(), queue.due, queue.scheduled, queue.running), ("default", 3, 1, 0));
        assert_eq!((stats.queues.len(), stats.canceled.value, stats.completed.value), (1, 1, 0));
    }

    async fn a_purge_removes_old_ended_commands_with_their_history(world) {
        let orchestrator = world
            .builder()
            .default_retry_count(1)
            .executor("ok", |(): (), _: Context| async move { Ok(()) })
            .executor("bad", |(): (), _: Context| async move { Err::<(), _>(anyhow!("no")) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        for key in ["ok", "bad", "ok"] {
            let id = orchestrator.append((key, ())).await.unwrap().id();
            orchestrator.wait::<()>(id).await.unwrap();
        }
        let _ = orchestrator.append(("ok", ())).delay(Duration::from_secs(3600)).await.unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(orchestrator.purge(&[State::Completed, State::Failed], hour).await.unwrap(), 0);
        assert_eq!(orchestrator.purge(&[State::Pending], Duration::ZERO).await.unwrap(), 0);
        until("the completed ones are old enough", async || {
            orchestrator.purge(&[State::Completed], Duration::ZERO).await.unwrap();
            orchestrator.stats().await.unwrap().completed.value == 0
        })
        .await;
        let connection = world.connect().await;
        assert_eq!(number(&connection, "SELECT count(*) FROM orchestratum_commands").await, 2);
        until("the failed one is old enough", async || {
            orchestrator.purge(&[State::Failed], Duration::ZERO).await.unwrap() == 1
        })
        .await;
        for (table, left) in [("commands", 1), ("live", 1), ("ended", 0), ("attempts", 0)] {
            let count = number(&connection, &format!("SELECT count(*) FROM orchestratum_{table}")).await;
            assert_eq!(count, left, "{table}");
        }
        worker.shutdown().await.unwrap();
    }

    async fn two_purges_at_once_count_each_command_once(world) {
        let orchestrator = world.client().await;
        for appended in orchestrator.append_all((0..100).map(|number| ("k", number))).await.unwrap() {
            orchestrator.cancel(appended.id()).await.unwrap();
        }
        let count = AtomicUsize::new(0);
        until("all of them are old enough", async || {
            let purge = || orchestrator.purge(&[State::Canceled], Duration::ZERO);
            let (one, other) = tokio::join!(purge(), purge());
            count.fetch_add(one.unwrap() + other.unwrap(), Ordering::Relaxed);
            orchestrator.stats().await.unwrap().canceled.value == 0
        })
        .await;
        assert_eq!(count.into_inner(), 100);
    }

    async fn commands_can_be_queried_as_entities(world) {
        let orchestrator = world.client().await;
        let id = orchestrator.append(("k", 7)).priority(3).await.unwrap().id();
        let canceled = orchestrator.append(("k", 8)).await.unwrap().id();
        orchestrator.cancel(canceled).await.unwrap();
        let connection = world.connect().await;
        let pending = entity::overview::Entity::find()
            .filter(entity::overview::Column::State.eq("pending"))
            .all(&connection)
            .await
            .unwrap();
        assert_eq!((pending.len(), pending[0].id, pending[0].priority), (1, id.as_uuid(), 3));
        let command = entity::command::Entity::find_by_id(canceled.as_uuid()).one(&connection).await.unwrap();
        assert_eq!(command.unwrap().payload, "8");
        let ended = entity::ended::Entity::find().all(&connection).await.unwrap();
        assert_eq!((ended.len(), ended[0].state.as_str()), (1, "canceled"));
        assert_eq!(entity::live::Entity::find().all(&connection).await.unwrap().len(), 1);
        assert!(entity::attempt::Entity::find().all(&connection).await.unwrap().is_empty());
        assert!(entity::instance::Entity::find().all(&connection).await.unwrap().is_empty());
        assert!(entity::queue::Entity::find().all(&connection).await.unwrap().is_empty());
    }

    async fn an_output_of_another_type_is_an_error_that_names_the_command(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), _: Context| async move { Ok("text") })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        let error = orchestrator.wait::<u32>(id).await.unwrap_err();
        assert!(matches!(error, Error::Output { id: named, .. } if named == id));
        worker.shutdown().await.unwrap();
    }

    async fn a_schema_behind_or_ahead_is_refused_with_what_to_do(world) {
        let connection = world.connect().await;
        let build = async || world.builder().client_only().build().await.unwrap_err();
        connection.execute_unprepared("UPDATE orchestratum_schema SET version = 99").await.unwrap();
        assert!(matches!(build().await, Error::SchemaAhead { found: 99, .. }));
        connection.execute_unprepared("UPDATE orchestratum_schema SET version = 0").await.unwrap();
        assert!(matches!(build().await, Error::SchemaBehind { found: Some(0), .. }));
        orchestratum_migration::down(&connection).await.unwrap();
        let error = build().await;
        assert!(matches!(error, Error::SchemaBehind { found: None, .. }));
        assert!(error.to_string().contains("cargo run -p orchestratum-migration -- up"), "{error}");
        world.builder().client_only().migrate().build().await.unwrap();
    }

    async fn an_unreachable_database_is_an_error_at_build(world) {
        let (url, reason) = match world.backend {
            Backend::Sqlite => ("sqlite:///nonexistent/folder/app.db?mode=rwc", "its folder must exist"),
            Backend::Postgres => ("postgres://nobody@127.0.0.1:1/app", "refused"),
            Backend::Mariadb => ("mysql://nobody@127.0.0.1:1/app", "refused"),
        };
        let error = Orchestrator::builder().database(url).client_only().build().await.unwrap_err();
        assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.is_transient());
    }

    async fn nonsense_at_build_names_what_to_change(world) {
        let twice = world
            .builder()
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap_err();
        assert!(twice.to_string().contains("key `k` is registered twice"), "{twice}");
        let empty = world.builder().executor("", |(): (), _: Context| async move { Ok(()) }).build().await.unwrap_err();
        assert!(empty.to_string().contains("it is empty"), "{empty}");
        let empty = world.builder().remote("").build().await.unwrap_err();
        assert!(empty.to_string().starts_with("invalid `remote`"), "{empty}");
        let memory = Orchestrator::builder().database("sqlite::memory:").build().await.unwrap_err();
        assert!(memory.to_string().contains("use a file"), "{memory}");
        let nothing = Orchestrator::builder().build().await.unwrap_err();
        assert!(nothing.to_string().contains(".database(url)"), "{nothing}");
        let missing = world
            .builder()
            .require(|services| services.get::<String>("handler `greet`").map(drop))
            .build()
            .await
            .unwrap_err();
        assert!(matches!(missing, Error::MissingService { .. }), "{missing}");
    }

    async fn without_session_state_everything_works_all_the_same(world) {
        let orchestrator = world
            .builder()
            .poll_only()
            .executor("k", |number: u32, ctx: Context| async move {
                if ctx.attempt() == 1 { Err(anyhow!("once more")) } else { Ok(number) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let appended = orchestrator.append_all((0..50_u32).map(|n| ("k", n))).await.unwrap();
        for (number, appended) in std::iter::zip(0.., appended) {
            assert_eq!(orchestrator.wait::<u32>(appended.id()).await.unwrap().completed(), Some(number));
        }
        let unique = orchestrator.append(("k", 1)).unique("u").delay(Duration::from_secs(9)).await.unwrap();
        orchestrator.cancel(unique.id()).await.unwrap();
        orchestrator.retry(unique.id()).await.unwrap();
        worker.shutdown().await.unwrap();
    }

    /// The application's pool lends where it leads: the schema too, which SeaORM sets on each new connection.
    async fn a_pool_of_the_application_is_enough(world) {
        if world.is_pooled() {
            return skip("an application's pool keeps statements, which a pooler in transaction mode forgets");
        }
        let mut options = sea_orm::ConnectOptions::new(&world.url);
        options.sqlx_logging(false).max_connections(2);
        if world.backend == Backend::Postgres {
            world.connect().await.execute_unprepared("CREATE SCHEMA tenant").await.unwrap();
            options.set_schema_search_path("tenant");
        }
        let pool = sea_orm::Database::connect(options).await.unwrap();
        let orchestrator = Orchestrator::builder()
            .connection(pool)
            .migrate()
            .executor("k", |(): (), _: Context| async move { Ok(7) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        assert_eq!(orchestrator.wait::<i32>(id).await.unwrap().completed(), Some(7));
        worker.shutdown().await.unwrap();
        let schema = if world.backend == Backend::Postgres { "tenant." } else { "" };
        let count = format!("SELECT count(*) FROM {schema}orchestratum_ended");
        assert_eq!(number(&world.connect().await, &count).await, 1);
    }
}
