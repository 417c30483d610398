//! Completion inside of the handler's own transaction.

use std::sync::Arc;
use std::time::Duration;

use orchestratum_core::{Builder, Context, Orchestrator, Outcome, RetryPolicy, State};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use tokio::sync::Notify;

use crate::harness::{Backend, World, on_every_backend, until};
use crate::rows::number;

async fn begin(connection: &DatabaseConnection) -> DatabaseTransaction {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    connection.begin_with_options(options).await.unwrap()
}

/// A table of the application, to write beside the completion.
async fn effects(world: &World) -> DatabaseConnection {
    let connection = world.connect().await;
    connection.execute_unprepared("CREATE TABLE effects (attempt integer NOT NULL)").await.unwrap();
    connection
}

async fn write_effect(transaction: &DatabaseTransaction, ctx: &Context) {
    let sql = format!("INSERT INTO effects (attempt) VALUES ({})", ctx.attempt());
    transaction.execute_unprepared(&sql).await.unwrap();
}

const EFFECTS: &str = "SELECT count(*) FROM effects";

/// With the key `k`, whose handler takes effect and completes in its own transaction, and commits it in the attempts for
/// which `commits` says so.
async fn completing(builder: Builder, pool: &DatabaseConnection, commits: fn(u32) -> bool) -> Orchestrator {
    let pool = pool.clone();
    let executor = move |(): (), ctx: Context| {
        let pool = pool.clone();
        async move {
            let transaction = begin(&pool).await;
            write_effect(&transaction, &ctx).await;
            ctx.complete_in(&transaction, ()).await?;
            if commits(ctx.attempt()) {
                transaction.commit().await?;
            } else {
                transaction.rollback().await?;
            }
            Ok(())
        }
    };
    builder.executor("k", executor).build().await.unwrap()
}

on_every_backend! {
    async fn the_effect_and_the_completion_commit_together(world) {
        let connection = effects(world).await;
        let pool = connection.clone();
        let orchestrator = world
            .builder()
            .executor("k", move |(): (), ctx: Context| {
                let pool = pool.clone();
                async move {
                    let transaction = begin(&pool).await;
                    write_effect(&transaction, &ctx).await;
                    ctx.complete_in(&transaction, 7).await?;
                    transaction.commit().await?;
                    Ok(0)
                }
            })
            .executor("note", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).on_success(("note", ())).await.unwrap().id();
        // The output is the one given to `complete_in`.
        assert_eq!(orchestrator.wait::<i32>(id).await.unwrap(), Outcome::Completed(7));
        assert_eq!(number(&connection, EFFECTS).await, 1);
        let count = "SELECT count(*) FROM orchestratum_commands WHERE command_key = 'note'";
        assert_eq!(number(&connection, count).await, 1);
        worker.shutdown().await.unwrap();
        assert!(orchestrator.attempts(id).await.unwrap().is_empty());
    }

    async fn a_handler_that_completes_and_does_not_commit_has_failed_its_attempt(world) {
        let connection = effects(world).await;
        let orchestrator = completing(world.builder(), &connection, |attempt| attempt == 2).await;
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        assert_eq!(number(&connection, EFFECTS).await, 1);
        let history = orchestrator.attempts(id).await.unwrap();
        assert_eq!(history.len(), 1);
        assert!(history[0].error.contains("did not commit"), "{}", history[0].error);
        worker.shutdown().await.unwrap();
    }

    /// Its attempt has failed like any other, although the handler said that it had not.
    async fn a_handler_that_completes_and_does_not_commit_waits_before_its_retry(world) {
        let orchestrator = completing(world.builder(), &effects(world).await, |_| false).await;
        let worker = orchestrator.start();
        let wait = Duration::from_secs(3_600);
        let id = orchestrator.append(("k", ())).retry_policy(RetryPolicy::Fixed(wait)).await.unwrap().id();
        until("its attempt has failed", async || !orchestrator.attempts(id).await.unwrap().is_empty()).await;
        worker.shutdown().await.unwrap();
        let command = orchestrator.get(id).await.unwrap().unwrap();
        let history = orchestrator.attempts(id).await.unwrap();
        assert_eq!((command.state, history.len()), (State::Pending, 1));
        assert!(command.run_at.unwrap() >= history[0].ended_at + wait, "{command:?}, {history:?}");
    }

    async fn an_error_after_complete_in_rolls_both_back(world) {
        let connection = effects(world).await;
        let pool = connection.clone();
        let orchestrator = world
            .builder()
            .executor("k", move |(): (), ctx: Context| {
                let pool = pool.clone();
                async move {
                    let transaction = begin(&pool).await;
                    write_effect(&transaction, &ctx).await;
                    ctx.complete_in(&transaction, ()).await?;
                    anyhow::ensure!(ctx.attempt() == 3, "not this time");
                    transaction.commit().await?;
                    Ok(())
                }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        assert_eq!(number(&connection, EFFECTS).await, 1);
        assert_eq!(orchestrator.attempts(id).await.unwrap().len(), 2);
        worker.shutdown().await.unwrap();
    }

    /// On SQLite an open write transaction stalls every writer, as documented; elsewhere it may stay open longer than
    /// the lease, and neither its own command nor another one loses its lease.
    async fn an_open_transaction_delays_no_heartbeat(world) {
        if world.backend == Backend::Sqlite {
            return stalled_writers_go_on(world).await;
        }
        let connection = effects(world).await;
        let (pool, held, release) = (connection.clone(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (holds, released) = (Arc::clone(&held), Arc::clone(&release));
        let enough = Arc::new(Notify::new());
        let extended = Arc::clone(&enough);
        let lease = Duration::from_millis(600);
        let orchestrator = world
            .builder()
            .lease_duration(lease)
            .executor("holds", move |(): (), ctx: Context| {
                let (pool, holds, released) = (pool.clone(), Arc::clone(&holds), Arc::clone(&released));
                async move {
                    let transaction = begin(&pool).await;
                    write_effect(&transaction, &ctx).await;
                    ctx.complete_in(&transaction, ()).await?;
                    holds.notify_one();
                    released.notified().await;
                    transaction.commit().await?;
                    Ok(())
                }
            })
            .executor("waits", move |(): (), ctx: Context| {
                let extended = Arc::clone(&extended);
                async move {
                    tokio::select! {
                        () = ctx.canceled() => Err(anyhow::anyhow!("lost its lease")),
                        () = extended.notified() => Ok(()),
                    }
                }
            })
            .build()
            .await
            .unwrap();
        let workers = [orchestrator.start(), orchestrator.start()];
        let holds = orchestrator.append(("holds", ())).await.unwrap().id();
        held.notified().await;
        let waits = orchestrator.append(("waits", ())).await.unwrap().id();
        let expiry = async || number(&connection, "SELECT min(expires_at) FROM orchestratum_instances").await;
        let four_leases_later = expiry().await + 4 * i64::try_from(lease.as_micros()).unwrap();
        until("both have been extended for four leases", async || expiry().await >= four_leases_later).await;
        enough.notify_one();
        assert_eq!(orchestrator.wait::<()>(waits).await.unwrap(), Outcome::Completed(()));
        assert_eq!(orchestrator.get(holds).await.unwrap().unwrap().state, State::Running);
        release.notify_one();
        assert_eq!(orchestrator.wait::<()>(holds).await.unwrap(), Outcome::Completed(()));
        for id in [holds, waits] {
            assert_eq!(orchestrator.get(id).await.unwrap().unwrap().attempt, 1);
        }
        assert_eq!(number(&connection, EFFECTS).await, 1);
        for worker in workers {
            worker.shutdown().await.unwrap();
        }
    }

    async fn in_process_there_is_nothing_to_complete(world) {
        let orchestrator: Orchestrator = world.client().await;
        let connection = effects(world).await;
        let ctx = Context::in_process(Arc::clone(orchestrator.services()), tokio_util::sync::CancellationToken::new());
        let transaction = begin(&connection).await;
        ctx.complete_in(&transaction, ()).await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!((ctx.command_id(), ctx.attempt()), (None, 1));
    }
}

/// A writer from outside holds the file for longer than the lease; afterwards everything ends, and nothing runs twice
/// to its end.
async fn stalled_writers_go_on(world: &'static World) {
    let connection = effects(world).await;
    let builder = world.builder().lease_duration(Duration::from_millis(600));
    let orchestrator = completing(builder, &connection, |_| true).await;
    let workers = [orchestrator.start(), orchestrator.start()];
    until("both are registered", async || {
        number(&connection, "SELECT count(*) FROM orchestratum_instances").await == 2
    })
    .await;
    let appended = orchestrator.append_all((0..20).map(|_| ("k", ()))).await.unwrap();
    let holder = begin(&connection).await;
    holder.execute_unprepared("INSERT INTO effects (attempt) VALUES (-1)").await.unwrap();
    until("both leases have run out", async || {
        let run_out = "SELECT count(*) FROM orchestratum_instances WHERE expires_at <= unixepoch('subsec') * 1000000";
        number(&connection, run_out).await == 2
    })
    .await;
    holder.rollback().await.unwrap();
    for appended in appended {
        assert_eq!(orchestrator.wait::<()>(appended.id()).await.unwrap(), Outcome::Completed(()));
    }
    until("each effect is there once", async || number(&connection, EFFECTS).await == 20).await;
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
}
