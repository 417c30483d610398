//! How a worker ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use orchestratum_core::{Context, Outcome, State};
use tokio::sync::Notify;

use crate::harness::{on_every_backend, until};
use crate::rows::{number, state};

on_every_backend! {
    async fn a_shutdown_lets_running_commands_finish(world) {
        let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (started, gone) = (Arc::clone(&running), Arc::clone(&go));
        let orchestrator = world
            .builder()
            .executor("k", move |(): (), _: Context| {
                let (started, gone) = (Arc::clone(&started), Arc::clone(&gone));
                async move {
                    started.notify_one();
                    gone.notified().await;
                    Ok(7)
                }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        running.notified().await;
        let shutdown = tokio::spawn(worker.shutdown());
        go.notify_one();
        shutdown.await.unwrap().unwrap();
        assert_eq!(orchestrator.outcome::<i32>(id).await.unwrap(), Outcome::Completed(7));
        let connection = world.connect().await;
        assert_eq!(number(&connection, "SELECT count(*) FROM orchestratum_instances").await, 0);
    }

    /// What an append is about to lease is something that a worker holds: if it took its instance out of the table
    /// meanwhile, nobody would ever take the command back.
    async fn a_worker_that_stops_while_commands_are_appended_strands_none(world) {
        let builder = || world.builder().polling_interval(Duration::from_millis(50));
        let orchestrator = builder().executor("k", |(): (), _: Context| async move { Ok(()) }).build().await.unwrap();
        let connection = world.connect().await;
        let mut count = 0;
        for burst in 1..20_i64 {
            let worker = orchestrator.start();
            // The first one finds the worker asleep, the last ones find it gone.
            let appends = (0..40).map(|_| async { orchestrator.append(("k", ())).await.unwrap() });
            let stop = async {
                while number(&connection, "SELECT count(*) FROM orchestratum_commands").await < count + burst % 5 {
                    tokio::task::yield_now().await;
                }
                worker.shutdown().await.unwrap();
            };
            tokio::join!(futures_util::future::join_all(appends), stop);
            count += 40;
        }
        let worker = orchestrator.start();
        until("all have completed", async || {
            number(&connection, "SELECT count(*) FROM orchestratum_ended WHERE state = 'completed'").await == 40 * 19
        })
        .await;
        assert_eq!(number(&connection, "SELECT count(*) FROM orchestratum_attempts").await, 0, "no lease was lost");
        worker.shutdown().await.unwrap();
    }

    async fn what_is_left_after_the_grace_period_is_given_back_without_using_up_a_retry(world) {
        let running = Arc::new(Notify::new());
        let started = Arc::clone(&running);
        let orchestrator = world
            .builder()
            .shutdown_grace(Duration::ZERO)
            .executor("polite", move |(): (), ctx: Context| {
                let started = Arc::clone(&started);
                async move {
                    started.notify_one();
                    ctx.canceled().await;
                    Err::<(), _>(anyhow!("interrupted"))
                }
            })
            .executor("deaf", |(): (), _: Context| async move {
                std::future::pending::<()>().await;
                Ok(())
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let deaf = orchestrator.append(("deaf", ())).retry_count(0).await.unwrap().id();
        until("it runs", async || state(&orchestrator, deaf).await == State::Running).await;
        let polite = orchestrator.append(("polite", ())).retry_count(0).await.unwrap().id();
        running.notified().await;
        worker.shutdown().await.unwrap();
        for id in [deaf, polite] {
            let info = orchestrator.get(id).await.unwrap().unwrap();
            assert_eq!((info.state, info.attempt, info.failures, info.losses), (State::Pending, 1, 0, 0));
            assert!(orchestrator.attempts(id).await.unwrap().is_empty());
        }
    }

    async fn what_waited_for_a_slot_is_given_back_at_once(world) {
        let (running, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (started, gone) = (Arc::clone(&running), Arc::clone(&go));
        let orchestrator = world
            .builder()
            .concurrency(1)
            .executor("k", move |(): (), _: Context| {
                let (started, gone) = (Arc::clone(&started), Arc::clone(&gone));
                async move {
                    started.notify_one();
                    gone.notified().await;
                    Ok(())
                }
            })
            .build()
            .await
            .unwrap();
        let appended = orchestrator.append_all((0..10).map(|_| ("k", ()))).await.unwrap();
        let worker = orchestrator.start();
        running.notified().await;
        let shutdown = tokio::spawn(worker.shutdown());
        go.notify_waiters();
        go.notify_one();
        shutdown.await.unwrap().unwrap();
        let mut ended = 0;
        for appended in &appended {
            let info = orchestrator.get(appended.id()).await.unwrap().unwrap();
            ended += usize::from(info.state == State::Completed);
            assert_ne!(info.state, State::Running);
        }
        assert!((1..=2).contains(&ended), "{ended} have run");
    }

    async fn dropping_the_worker_stops_it_and_gives_everything_back(world) {
        let running = Arc::new(Notify::new());
        let started = Arc::clone(&running);
        let canceled = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&canceled);
        let orchestrator = world
            .builder()
            .executor("k", move |(): (), ctx: Context| {
                let (started, told) = (Arc::clone(&started), Arc::clone(&told));
                async move {
                    started.notify_one();
                    ctx.canceled().await;
                    told.store(true, Ordering::SeqCst);
                    Err::<(), _>(anyhow!("interrupted"))
                }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        running.notified().await;
        drop(worker);
        until("it is pending again", async || state(&orchestrator, id).await == State::Pending).await;
        assert!(canceled.load(Ordering::SeqCst));
        assert_eq!(orchestrator.get(id).await.unwrap().unwrap().failures, 0);
    }

    async fn an_idle_worker_shuts_down_and_another_one_starts(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        for _ in 0..3 {
            let worker = orchestrator.start();
            worker.shutdown().await.unwrap();
        }
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        worker.shutdown().await.unwrap();
    }

    /// Nobody is left to run handlers: the worker ends instead of claiming for ever.
    async fn a_worker_ends_with_the_runtime_that_started_it(world) {
        let client = world.client().await;
        let builder = world.builder();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let orchestrator = runtime.block_on(async {
                builder.executor("k", |(): (), _: Context| async move { Ok(()) }).build().await.unwrap()
            });
            runtime.block_on(async { orchestrator.start().detach() });
        })
        .join()
        .unwrap();
        let id = client.append(("k", ())).await.unwrap().id();
        let connection = world.connect().await;
        let instances = "SELECT count(*) FROM orchestratum_instances";
        until("the worker is gone", async || {
            state(&client, id).await == State::Pending && number(&connection, instances).await == 0
        })
        .await;
        assert_eq!(client.get(id).await.unwrap().unwrap().failures, 0);
    }
}
