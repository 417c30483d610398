//! Cancel, and an operator's retry.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use orchestratum_core::{Canceled, Context, Error, Outcome, State};
use tokio::sync::Notify;

use crate::harness::on_every_backend;
use crate::rows::state;

on_every_backend! {
    async fn a_waiting_command_is_canceled_at_once(world) {
        let orchestrator = world.client().await;
        let id = orchestrator.append(("k", ())).delay(Duration::from_secs(3600)).await.unwrap().id();
        assert_eq!(orchestrator.cancel(id).await.unwrap(), Canceled::Now);
        assert_eq!(orchestrator.outcome::<()>(id).await.unwrap(), Outcome::Canceled);
        let again = orchestrator.cancel(id).await.unwrap_err();
        assert!(again.to_string().ends_with("the command is canceled, which does not allow cancel"), "{again}");
    }

    async fn a_running_command_is_canceled_once_its_handler_has_stopped(world) {
        let (running, cleaned) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (started, clean) = (Arc::clone(&running), Arc::clone(&cleaned));
        let orchestrator = world
            .builder()
            .heartbeat_interval(Duration::from_millis(100))
            .executor("k", move |(): (), ctx: Context| {
                let (started, clean) = (Arc::clone(&started), Arc::clone(&clean));
                async move {
                    started.notify_one();
                    ctx.canceled().await;
                    // Cleaning up may take its time: the command is running until it is done.
                    clean.notified().await;
                    Err::<(), _>(anyhow!("stopped"))
                }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        running.notified().await;
        // From another process, so to say: a heartbeat or a notification tells the handler.
        assert_eq!(world.client().await.cancel(id).await.unwrap(), Canceled::Requested);
        let info = orchestrator.get(id).await.unwrap().unwrap();
        assert_eq!((info.state, info.cancel_requested), (State::Running, true));
        cleaned.notify_one();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Canceled);
        assert_eq!(orchestrator.get(id).await.unwrap().unwrap().attempt, 1);
        worker.shutdown().await.unwrap();
    }

    async fn a_command_that_completes_in_spite_of_a_cancel_is_completed(world) {
        let running = Arc::new(Notify::new());
        let started = Arc::clone(&running);
        let orchestrator = world
            .builder()
            .executor("k", move |(): (), ctx: Context| {
                let started = Arc::clone(&started);
                async move {
                    started.notify_one();
                    ctx.canceled().await;
                    Ok("done all the same")
                }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        running.notified().await;
        orchestrator.cancel(id).await.unwrap();
        let outcome = orchestrator.wait::<String>(id).await.unwrap();
        assert_eq!(outcome.completed().as_deref(), Some("done all the same"));
        worker.shutdown().await.unwrap();
    }

    async fn an_operator_can_run_an_ended_command_again(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), ctx: Context| async move {
                if ctx.attempt() < 3 { Err(anyhow!("no")) } else { Ok(ctx.attempt()) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).retry_count(1).await.unwrap().id();
        assert_eq!(orchestrator.wait::<u32>(id).await.unwrap(), Outcome::Failed("no".to_owned()));
        orchestrator.retry(id).await.unwrap();
        assert_eq!(orchestrator.wait::<u32>(id).await.unwrap().completed(), Some(3));
        let info = orchestrator.get(id).await.unwrap().unwrap();
        assert_eq!((info.attempt, info.error), (3, None));
        worker.shutdown().await.unwrap();
    }

    async fn a_live_command_cannot_be_retried_and_an_unknown_one_is_told_so(world) {
        let orchestrator = world.client().await;
        let id = orchestrator.append(("k", ())).await.unwrap().id();
        let error = orchestrator.retry(id).await.unwrap_err();
        assert!(error.to_string().ends_with("the command is pending, which does not allow retry"), "{error}");
        let unknown = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert!(matches!(orchestrator.retry(unknown).await, Err(Error::NotFound(_))));
        assert!(matches!(orchestrator.cancel(unknown).await, Err(Error::NotFound(_))));
        assert!(matches!(orchestrator.outcome::<()>(unknown).await, Err(Error::NotFound(_))));
        assert_eq!(orchestrator.get(unknown).await.unwrap(), None);
    }

    async fn a_retry_onto_a_taken_unique_key_is_a_conflict(world) {
        let orchestrator = world.client().await;
        let first = orchestrator.append(("k", ())).unique("one").await.unwrap().id();
        orchestrator.cancel(first).await.unwrap();
        let second = orchestrator.append(("k", ())).unique("one").await.unwrap().id();
        let error = orchestrator.retry(first).await.unwrap_err();
        let Error::UniqueKeyTaken { holder, .. } = &error else { panic!("{error}") };
        assert_eq!(*holder, second);
        assert_eq!(state(&orchestrator, first).await, State::Canceled);
        orchestrator.cancel(second).await.unwrap();
        orchestrator.retry(first).await.unwrap();
        assert!(!orchestrator.append(("k", ())).unique("one").await.unwrap().is_new());
    }
}
