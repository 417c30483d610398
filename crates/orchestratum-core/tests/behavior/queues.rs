//! Queues, priorities, concurrency.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestratum_core::{Command, Context, Error, State};
use tokio::sync::Barrier;

use crate::harness::{on_every_backend, until};
use crate::rows::state;

on_every_backend! {
    async fn a_larger_priority_runs_first_and_equals_in_order(world) {
        let order = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&order);
        let orchestrator = world
            .builder()
            .concurrency(1)
            .claim_batch(1)
            .executor("k", move |number: i32, _: Context| {
                seen.lock().unwrap().push(number);
                async move { Ok(()) }
            })
            .build()
            .await
            .unwrap();
        let mut ids = Vec::new();
        for (number, priority) in [(1, 0), (2, -5), (3, 9), (4, 0), (5, 9)] {
            ids.push(orchestrator.append(("k", number)).priority(priority).await.unwrap().id());
        }
        let worker = orchestrator.start();
        for id in ids {
            orchestrator.wait::<()>(id).await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [3, 5, 1, 4, 2]);
        worker.shutdown().await.unwrap();
    }

    async fn no_more_than_the_concurrency_of_a_queue_run_at_once(world) {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Each waits for two others: fewer at a time would wait for ever.
        let three = Arc::new(Barrier::new(3));
        let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
        let orchestrator = world
            .builder()
            .concurrency(50)
            .queue_concurrency("narrow", 3)
            .executor("k", move |(): (), _: Context| {
                let (running, peak, three) = (Arc::clone(&running), Arc::clone(&peak), Arc::clone(&three));
                async move {
                    peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    three.wait().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            })
            .build()
            .await
            .unwrap();
        let commands = (0..60).map(|_| Command::new("k", &()).unwrap().queue("narrow"));
        let appended = orchestrator.append_all(commands).await.unwrap();
        let worker = orchestrator.start();
        for appended in appended {
            orchestrator.wait::<()>(appended.id()).await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
        worker.shutdown().await.unwrap();
    }

    async fn a_worker_serves_the_queues_that_it_was_given(world) {
        let mail = world
            .builder()
            .queues(["mail"])
            .executor("k", |(): (), ctx: Context| async move { Ok(ctx.queue().to_owned()) })
            .build()
            .await
            .unwrap();
        let worker = mail.start();
        let other = mail.append(("k", ())).await.unwrap().id();
        let served = mail.append(("k", ())).queue("mail").await.unwrap().id();
        assert_eq!(mail.wait::<String>(served).await.unwrap().completed().as_deref(), Some("mail"));
        assert_eq!(state(&mail, other).await, State::Pending);
        worker.shutdown().await.unwrap();
        let all = world
            .builder()
            .executor("k", |(): (), ctx: Context| async move { Ok(ctx.queue().to_owned()) })
            .build()
            .await
            .unwrap();
        let worker = all.start();
        assert_eq!(all.wait::<String>(other).await.unwrap().completed().as_deref(), Some("default"));
        worker.shutdown().await.unwrap();
    }

    async fn a_paused_queue_waits_until_it_is_resumed(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let (first, second) = tokio::join!(orchestrator.pause("mail"), orchestrator.pause("mail"));
        first.and(second).unwrap();
        let worker = orchestrator.start();
        let paused = orchestrator.append(("k", ())).queue("mail").await.unwrap().id();
        let other = orchestrator.append(("k", ())).await.unwrap().id();
        orchestrator.wait::<()>(other).await.unwrap();
        assert_eq!(state(&orchestrator, paused).await, State::Pending);
        let stats = orchestrator.stats().await.unwrap();
        let mail = stats.queues.iter().find(|queue| queue.queue == "mail").unwrap();
        assert!(mail.paused && mail.due == 1);
        orchestrator.resume("mail").await.unwrap();
        orchestrator.wait::<()>(paused).await.unwrap();
        for impossible in ["", "a\0b"] {
            assert!(matches!(orchestrator.pause(impossible).await, Err(Error::InvalidConfig { .. })));
            assert!(matches!(orchestrator.resume(impossible).await, Err(Error::InvalidConfig { .. })));
        }
        worker.shutdown().await.unwrap();
    }

    async fn a_backlog_of_unknown_keys_does_not_hold_up_known_ones(world) {
        let client = world.client().await;
        let unknown = client.append_all((0..5_000).map(|n| ("unknown", n))).await.unwrap();
        let orchestrator = world
            .builder()
            .executor("known", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("known", ())).await.unwrap().id();
        orchestrator.wait::<()>(id).await.unwrap();
        assert_eq!(state(&orchestrator, unknown[0].id()).await, State::Pending);
        worker.shutdown().await.unwrap();
    }

    async fn two_workers_share_a_backlog_and_run_each_command_once(world) {
        let runs = Arc::new(Mutex::new(vec![0_u32; 2_000]));
        let mut workers = Vec::new();
        let mut orchestrators = Vec::new();
        for _ in 0..2 {
            let seen = Arc::clone(&runs);
            let orchestrator = world
                .builder()
                .claim_batch(100)
                .executor("k", move |number: usize, _: Context| {
                    seen.lock().unwrap()[number] += 1;
                    async move { Ok(()) }
                })
                .build()
                .await
                .unwrap();
            orchestrators.push(orchestrator);
        }
        orchestrators[0].append_all((0..2_000_usize).map(|n| ("k", n))).await.unwrap();
        workers.extend(orchestrators.iter().map(|orchestrator| orchestrator.start()));
        until("all have ended", async || {
            let stats = orchestrators[0].stats().await.unwrap();
            stats.completed.value == 2_000
        })
        .await;
        assert!(runs.lock().unwrap().iter().all(|count| *count == 1));
        for worker in workers {
            worker.shutdown().await.unwrap();
        }
    }

    /// Two of three slots are taken for long: the third must be filled again each time, without a poll.
    async fn a_free_slot_beside_long_running_commands_is_filled_at_once(world) {
        let orchestrator = world
            .builder()
            .concurrency(3)
            .polling_interval(Duration::from_secs(3600))
            .executor("long", |(): (), ctx: Context| async move {
                ctx.canceled().await;
                Err::<(), _>(anyhow::anyhow!("stopped"))
            })
            .executor("short", |(): (), _: Context| async move { Ok(()) })
            .shutdown_grace(Duration::ZERO)
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let long = orchestrator.append_all((0..2).map(|_| ("long", ()))).await.unwrap();
        until("both run", async || {
            state(&orchestrator, long[0].id()).await == State::Running
                && state(&orchestrator, long[1].id()).await == State::Running
        })
        .await;
        let short = orchestrator.append_all((0..30).map(|_| ("short", ()))).await.unwrap();
        for short in short {
            orchestrator.wait::<()>(short.id()).await.unwrap();
        }
        worker.shutdown().await.unwrap();
    }

    /// Each worker of a process hears of every append: one that has no room must not keep the news from another.
    async fn two_workers_of_one_orchestrator_do_not_take_each_others_signals(world) {
        let orchestrator = world
            .builder()
            .concurrency(1)
            .polling_interval(Duration::from_secs(3600))
            .executor("hold", |(): (), ctx: Context| async move {
                ctx.canceled().await;
                Err::<(), _>(anyhow::anyhow!("stopped"))
            })
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .shutdown_grace(Duration::ZERO)
            .build()
            .await
            .unwrap();
        let workers = [orchestrator.start(), orchestrator.start()];
        let hold = orchestrator.append(("hold", ())).await.unwrap().id();
        until("one worker is full", async || state(&orchestrator, hold).await == State::Running).await;
        for _ in 0..20 {
            let id = orchestrator.append(("k", ())).await.unwrap().id();
            orchestrator.wait::<()>(id).await.unwrap();
        }
        for worker in workers {
            worker.shutdown().await.unwrap();
        }
    }
}
