//! Retries, verdicts, timeouts, panics, and handlers that block.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use orchestratum_core::{AttemptKind, Command, Context, Executor, Filter, Outcome, Page, RetryPolicy, State, Verdict};
use tokio::sync::Notify;

use crate::harness::{on_every_backend, until};

on_every_backend! {
    async fn a_failing_command_is_retried_and_then_fails_with_its_history(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), ctx: Context| async move {
                Err::<(), _>(anyhow!("attempt {}", ctx.attempt()).context("sending"))
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).retry_count(2).await.unwrap().id();
        let outcome = orchestrator.wait::<()>(id).await.unwrap();
        assert_eq!(outcome, Outcome::Failed("sending: attempt 3".to_owned()));
        let history = orchestrator.attempts(id).await.unwrap();
        let lines: Vec<_> = history.iter().map(|line| (line.attempt, line.kind, line.error.as_str())).collect();
        assert_eq!(
            lines,
            [
                (1, AttemptKind::Error, "sending: attempt 1"),
                (2, AttemptKind::Error, "sending: attempt 2"),
                (3, AttemptKind::Error, "sending: attempt 3"),
            ]
        );
        assert!(history.iter().all(|line| line.instance.is_some()));
        worker.shutdown().await.unwrap();
    }

    async fn a_retry_may_succeed(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), ctx: Context| async move {
                if ctx.attempt() < 3 { Err(anyhow!("not yet")) } else { Ok(ctx.retries_left()) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).retry_count(5).await.unwrap().id();
        assert_eq!(orchestrator.wait::<u32>(id).await.unwrap().completed(), Some(3));
        assert_eq!(orchestrator.attempts(id).await.unwrap().len(), 2);
        worker.shutdown().await.unwrap();
    }

    async fn a_handler_can_fail_for_good(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), _: Context| async move {
                Err::<(), _>(anyhow::Error::from(Verdict::fail("no such customer")).context("charging"))
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).retry_count(9).await.unwrap().id();
        let outcome = orchestrator.wait::<()>(id).await.unwrap();
        assert_eq!(outcome, Outcome::Failed("charging: no such customer".to_owned()));
        assert_eq!(orchestrator.get(id).await.unwrap().unwrap().attempt, 1);
        worker.shutdown().await.unwrap();
    }

    async fn a_snooze_uses_up_no_retry_and_leaves_no_line(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), ctx: Context| async move {
                if ctx.attempt() < 4 { Err(Verdict::snooze(Duration::from_millis(5)).into()) } else { Ok(ctx.attempt()) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).retry_count(0).await.unwrap().id();
        assert_eq!(orchestrator.wait::<u32>(id).await.unwrap().completed(), Some(4));
        assert!(orchestrator.attempts(id).await.unwrap().is_empty());
        worker.shutdown().await.unwrap();
    }

    async fn a_handler_can_choose_its_own_wait(world) {
        let orchestrator = world
            .builder()
            // Were the policy asked, the case would time out.
            .default_retry_policy(RetryPolicy::Fixed(Duration::from_secs(3600)))
            .executor("k", |(): (), ctx: Context| async move {
                if ctx.attempt() == 1 {
                    return Err(Verdict::retry_after(Duration::from_millis(3), "too many requests")).context("calling");
                }
                Ok(())
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        assert!(orchestrator.attempts(id).await.unwrap()[0].error.starts_with("calling: too many requests"));
        worker.shutdown().await.unwrap();
    }

    async fn the_wait_comes_from_the_key_then_the_command_then_the_orchestrator(world) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let hour = RetryPolicy::Fixed(Duration::from_secs(3600));
        let orchestrator = world
            .builder()
            .default_retry_policy(hour.clone())
            .register(
                Executor::new("own", |(): (), _: Context| async move { Err::<(), _>(anyhow!("no")) }).retry_delay(
                    move |used| {
                        seen.lock().unwrap().push(used);
                        Duration::ZERO
                    },
                ),
            )
            .executor("plain", |(): (), _: Context| async move { Err::<(), _>(anyhow!("no")) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let own = orchestrator.append(("own", ())).retry_count(2).await.unwrap().id();
        let soon = RetryPolicy::Fixed(Duration::ZERO);
        let plain = orchestrator.append(("plain", ())).retry_count(2).retry_policy(soon).await.unwrap().id();
        for id in [own, plain] {
            assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Failed("no".to_owned()));
        }
        assert!(asked.lock().unwrap().starts_with(&[0]));
        worker.shutdown().await.unwrap();
    }

    async fn a_command_past_its_timeout_is_stopped_and_retried(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), ctx: Context| async move {
                if ctx.attempt() == 1 { std::future::pending().await } else { Ok(()) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).timeout(Duration::from_millis(50)).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        assert_eq!(orchestrator.attempts(id).await.unwrap()[0].kind, AttemptKind::Timeout);
        worker.shutdown().await.unwrap();
    }

    async fn a_panic_while_a_lock_is_held_ends_its_attempt_only(world) {
        let lock = Arc::new(Mutex::new(0));
        let held = Arc::clone(&lock);
        let orchestrator = world
            .builder()
            .executor("panics", move |(): (), _: Context| {
                let lock = Arc::clone(&held);
                async move {
                    let _guard = lock.lock();
                    if true {
                        panic!("boom {}", 7);
                    }
                    Ok(())
                }
            })
            .executor("fine", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let panics = orchestrator.append(("panics", ())).retry_count(1).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(panics).await.unwrap(), Outcome::Failed("panicked: boom 7".to_owned()));
        let kinds: Vec<_> = orchestrator.attempts(panics).await.unwrap().iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [AttemptKind::Panic, AttemptKind::Panic]);
        let fine = orchestrator.append(("fine", ())).await.unwrap().id();
        assert_eq!(orchestrator.wait::<()>(fine).await.unwrap(), Outcome::Completed(()));
        worker.shutdown().await.unwrap();
    }

    /// Two handlers block both threads of the runtime: the engine's own threads must end their attempts.
    async fn handlers_that_block_every_thread_do_not_stall_the_engine(world) {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let blocked = Arc::new(Mutex::new(blocked));
        let orchestrator = world
            .builder()
            .lease_duration(Duration::from_secs(1))
            .executor("blocks", move |(): (), _: Context| {
                let blocked = Arc::clone(&blocked);
                async move {
                    let _ = blocked.lock().unwrap().recv();
                    Ok(())
                }
            })
            .build()
            .await
            .unwrap();
        let commands = (0..4).map(|_| {
            Command::new("blocks", &()).unwrap().timeout(Duration::from_millis(100)).retry_count(0)
        });
        let appended = orchestrator.append_all(commands).await.unwrap();
        let started = Arc::new(Notify::new());
        let ready = Arc::clone(&started);
        // From here on the runtime of the case cannot be relied on: look from a thread of its own.
        let outcomes = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let elsewhere = world.client().await;
                ready.notify_one();
                until("two commands have timed out", async || {
                    let failed = elsewhere.list(Filter::all().state(State::Failed), Page::default()).await.unwrap();
                    failed.len() >= 2
                })
                .await;
                drop(release);
                let mut outcomes = Vec::new();
                for appended in appended {
                    outcomes.push(elsewhere.wait::<()>(appended.id()).await.unwrap());
                }
                outcomes
            })
        });
        started.notified().await;
        let worker = orchestrator.start();
        let outcomes = outcomes.await.unwrap();
        let timed_out = Outcome::Failed("ran past its timeout".to_owned());
        assert!(outcomes.iter().filter(|outcome| **outcome == timed_out).count() >= 2, "{outcomes:?}");
        worker.shutdown().await.unwrap();
    }

    async fn an_output_over_the_limit_fails_and_says_so(world) {
        let orchestrator = world
            .builder()
            .payload_limit(100)
            .executor("k", |(): (), _: Context| async move { Ok("x".repeat(200)) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        let Outcome::Failed(error) = orchestrator.wait::<String>(id).await.unwrap() else { panic!("it must fail") };
        assert!(error.contains("202 bytes"), "{error}");
        assert_eq!(orchestrator.get(id).await.unwrap().unwrap().state, State::Failed);
        worker.shutdown().await.unwrap();
    }

    /// Cut within a character, and with what PostgreSQL stores in no text.
    async fn a_long_error_is_cut_to_sixteen_kibibytes(world) {
        let orchestrator = world
            .builder()
            .executor("k", |text: String, _: Context| async move { Err::<(), _>(anyhow!(text.repeat(100_000))) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        for (text, stored) in [("\u{20ac}", "\u{20ac}".repeat(5_461)), ("\0", "\u{fffd}".repeat(5_461))] {
            let id = orchestrator.append(("k", text)).retry_count(0).await.unwrap().id();
            let Outcome::Failed(error) = orchestrator.wait::<()>(id).await.unwrap() else { panic!("it must fail") };
            assert!(error == stored, "{} bytes: {}", error.len(), error.chars().take(3).collect::<String>());
            assert_eq!(orchestrator.attempts(id).await.unwrap()[0].error.len(), stored.len());
        }
        worker.shutdown().await.unwrap();
    }

    async fn a_panic_while_follow_ups_are_computed_ends_its_attempt_and_strands_nothing(world) {
        let orchestrator = world
            .builder()
            .register(
                Executor::new("k", |(): (), _: Context| async move { Ok(7) })
                    .on_success(|_, output| panic!("cannot make anything of {output}")),
            )
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).retry_count(1).await.unwrap().id();
        let outcome = orchestrator.wait::<i32>(id).await.unwrap();
        assert_eq!(outcome, Outcome::Failed("panicked: cannot make anything of 7".to_owned()));
        assert_eq!(orchestrator.attempts(id).await.unwrap().len(), 2);
        worker.shutdown().await.unwrap();
    }
}
