//! Commands appended because another one ended.

use std::time::Duration;

use anyhow::anyhow;
use orchestratum_core::{Command, Context, Executor, Filter, Orchestrator, Order, Page, State, entity};
use sea_orm::EntityTrait;

use crate::harness::{Backend, World, on_every_backend};
use crate::rows::number;

async fn orchestrator(world: &World) -> Orchestrator {
    world
        .builder()
        .default_retry_count(0)
        .executor("ok", |(): (), _: Context| async move { Ok(()) })
        .executor("bad", |(): (), _: Context| async move { Err::<(), _>(anyhow!("no")) })
        .executor("note", |_: String, _: Context| async move { Ok(()) })
        .register(
            Executor::new("sum", |numbers: Vec<u32>, _: Context| async move { Ok(numbers.iter().sum::<u32>()) })
                .on_success(|payload, output| {
                    let numbers: Vec<u32> = serde_json::from_str(payload)?;
                    let sum: u32 = serde_json::from_str(output)?;
                    Ok(vec![Command::new("note", &format!("{} numbers make {sum}", numbers.len()))?])
                }),
        )
        .build()
        .await
        .unwrap()
}

fn note(text: &str) -> (&'static str, String) {
    ("note", text.to_owned())
}

/// The payloads of the notes, in the order of their appends.
async fn notes(orchestrator: &Orchestrator) -> Vec<String> {
    let page = Page::default().order(Order::OldestFirst);
    let notes = orchestrator.list(Filter::all().key("note"), page).await.unwrap();
    notes.iter().map(|note| serde_json::from_str(&note.payload).unwrap()).collect()
}

on_every_backend! {
    async fn each_ending_appends_its_own_follow_up(world) {
        let orchestrator = orchestrator(world).await;
        let worker = orchestrator.start();
        for key in ["ok", "bad"] {
            let append = orchestrator.append((key, ())).on_success(note("yes")).on_failure(note("no"));
            orchestrator.wait::<()>(append.await.unwrap().id()).await.unwrap();
        }
        assert_eq!(notes(&orchestrator).await, ["yes", "no"]);
        worker.shutdown().await.unwrap();
    }

    /// On PostgreSQL alone: elsewhere another process finds it by polling.
    async fn a_follow_up_that_only_another_process_can_run_is_announced_to_it(world) {
        if world.backend != Backend::Postgres {
            return;
        }
        let builder = || world.builder().polling_interval(Duration::from_secs(3600));
        let ok = |(): (), _: Context| async move { Ok(()) };
        let first = builder().executor("first", ok).remote("second").build().await.unwrap();
        let second = builder().executor("second", ok).build().await.unwrap();
        let workers = [first.start(), second.start()];
        // So that the look around with which a worker begins is over.
        let id = second.append(("second", ())).await.unwrap().id();
        second.wait::<()>(id).await.unwrap();
        for _ in 0..10 {
            let id = first.append(("first", ())).on_success(("second", ())).await.unwrap().id();
            first.wait::<()>(id).await.unwrap();
            let of_this = Filter::all().key("second");
            let page = Page::default().order(Order::NewestFirst).limit(1);
            let follow_up = second.list(of_this, page).await.unwrap()[0].id;
            second.wait::<()>(follow_up).await.unwrap();
        }
        for worker in workers {
            worker.shutdown().await.unwrap();
        }
    }

    async fn a_canceled_command_appends_what_a_failed_one_would_unless_told_otherwise(world) {
        let orchestrator = orchestrator(world).await;
        let later = Duration::from_secs(3600);
        let appends = [
            orchestrator.append(("ok", ())).delay(later).on_failure(note("failed")),
            orchestrator.append(("ok", ())).delay(later).on_failure(note("failed")).on_cancel(note("canceled")),
            orchestrator.append(("ok", ())).delay(later).on_failure(note("failed")).nothing_on_cancel(),
        ];
        for append in appends {
            let id = append.await.unwrap().id();
            orchestrator.cancel(id).await.unwrap();
        }
        assert_eq!(notes(&orchestrator).await, ["failed", "canceled"]);
    }

    async fn a_follow_up_may_have_follow_ups_and_options(world) {
        let orchestrator = orchestrator(world).await;
        let worker = orchestrator.start();
        let last = Command::new("note", &"third").unwrap().priority(7).delay(Duration::from_secs(3600));
        let second = Command::new("note", &"second").unwrap().on_success(last);
        let id = orchestrator.append(("ok", ())).on_success(second).await.unwrap().id();
        orchestrator.wait::<()>(id).await.unwrap();
        let second = orchestrator.list(Filter::all().key("note"), Page::default()).await.unwrap();
        orchestrator.wait::<()>(second.last().unwrap().id).await.unwrap();
        let all = orchestrator.list(Filter::all().key("note").state(State::Pending), Page::default()).await.unwrap();
        assert_eq!((all.len(), all[0].priority, all[0].payload.as_str()), (1, 7, "\"third\""));
        worker.shutdown().await.unwrap();
    }

    async fn a_follow_up_can_be_computed_from_the_output(world) {
        let orchestrator = orchestrator(world).await;
        let worker = orchestrator.start();
        let id = orchestrator.append(("sum", vec![1, 2, 3])).on_success(note("static")).await.unwrap().id();
        orchestrator.wait::<u32>(id).await.unwrap();
        assert_eq!(notes(&orchestrator).await, ["static", "3 numbers make 6"]);
        worker.shutdown().await.unwrap();
    }

    async fn a_follow_up_of_an_unknown_key_is_refused_at_append(world) {
        let orchestrator = orchestrator(world).await;
        let error = orchestrator.append(("ok", ())).on_failure(("nobody", ())).await.unwrap_err();
        assert!(error.to_string().contains("`nobody`"), "{error}");
    }

    async fn endless_follow_ups_are_refused(world) {
        let orchestrator = orchestrator(world).await;
        let chain = (0..20).fold(Command::new("ok", &()).unwrap(), |inner, _| {
            Command::new("ok", &()).unwrap().on_success(inner)
        });
        assert!(orchestrator.append(chain).await.unwrap_err().to_string().contains("16 deep"));
    }

    /// Guarantee 11, for many commands that end at once.
    async fn follow_ups_are_appended_exactly_once(world) {
        let orchestrator = orchestrator(world).await;
        let commands = (0..300).map(|n| Command::new("ok", &()).unwrap().on_success(Command::new("note", &n.to_string()).unwrap()));
        let appended = orchestrator.append_all(commands).await.unwrap();
        let workers = [orchestrator.start(), orchestrator.start()];
        for appended in appended {
            orchestrator.wait::<()>(appended.id()).await.unwrap();
        }
        let connection = world.connect().await;
        let count = "SELECT count(*) FROM orchestratum_commands WHERE command_key = 'note'";
        assert_eq!(number(&connection, count).await, 300);
        for worker in workers {
            worker.shutdown().await.unwrap();
        }
    }

    /// What a cancel appends is what a failure appends: said, not copied at each level.
    async fn a_chain_of_failures_is_stored_once(world) {
        let orchestrator = orchestrator(world).await;
        let chain = (0..15).fold(Command::new("ok", &()).unwrap(), |inner, _| {
            Command::new("ok", &()).unwrap().on_failure(inner)
        });
        let id = orchestrator.append(chain).await.unwrap().id();
        let stored = entity::command::Entity::find_by_id(id.as_uuid()).one(&world.connect().await).await.unwrap();
        assert!(stored.unwrap().follow_ups.unwrap().len() < 10_000);
    }
}
