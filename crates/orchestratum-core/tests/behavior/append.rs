//! Durable append, atomic append, unique keys, bad input.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestratum_core::{Command, Context, Error, Filter, Page, State, Verdict};
use sea_orm::{ConnectionTrait, SqliteTransactionMode, TransactionOptions, TransactionTrait};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::harness::{Backend, on_every_backend, skip, until};
use crate::rows::{number, state};

fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

on_every_backend! {
    async fn an_appended_command_runs_and_its_output_can_be_read(world) {
        let orchestrator = world
            .builder()
            .executor("double", |number: u32, _: Context| async move { Ok(number * 2) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let appended = orchestrator.append(("double", 21)).await.unwrap();
        assert!(appended.is_new());
        let outcome = orchestrator.wait::<u32>(appended.id()).await.unwrap();
        assert_eq!(outcome.completed(), Some(42));
        let info = orchestrator.get(appended.id()).await.unwrap().unwrap();
        assert_eq!((info.state, info.attempt, info.output.as_deref()), (State::Completed, 1, Some("42")));
        worker.shutdown().await.unwrap();
    }

    async fn a_rolled_back_append_never_runs_and_a_committed_one_does(world) {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&ran);
        let orchestrator = world
            .builder()
            .executor("note", move |number: i64, _: Context| {
                seen.lock().unwrap().push(number);
                async move { Ok(()) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let connection = world.connect().await;
        // In random order, by four writers where writers do not exclude each other.
        let writers: Vec<_> = (0..4_i64)
            .map(|writer| {
                let (orchestrator, connection) = (orchestrator.clone(), connection.clone());
                tokio::spawn(async move {
                    let mut committed = Vec::new();
                    for number in (writer * 2_500)..(writer + 1) * 2_500 {
                        let transaction = connection.begin_with_options(immediate()).await.unwrap();
                        let append = orchestrator.append(("note", number)).within(&transaction);
                        assert!(append.await.unwrap().is_new());
                        if fastrand::bool() {
                            transaction.commit().await.unwrap();
                            committed.push(number);
                        } else {
                            transaction.rollback().await.unwrap();
                        }
                    }
                    committed
                })
            })
            .collect();
        let mut committed = Vec::new();
        for writer in writers {
            committed.extend(writer.await.unwrap());
        }
        until("all committed commands have run", async || ran.lock().unwrap().len() >= committed.len()).await;
        worker.shutdown().await.unwrap();
        let mut ran = ran.lock().unwrap().clone();
        ran.sort_unstable();
        assert_eq!(ran, committed);
        assert_eq!(number(&connection, "SELECT count(*) FROM orchestratum_commands").await, committed.len() as i64);
    }

    async fn a_command_is_invisible_until_its_transaction_commits(world) {
        let ran = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&ran);
        let orchestrator = world
            .builder()
            // Only the wake-up after the commit can be in time.
            .polling_interval(Duration::from_secs(3600))
            .executor("note", move |(): (), _: Context| {
                seen.fetch_add(1, Ordering::SeqCst);
                async move { Ok(()) }
            })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let transaction = orchestrator.begin().await.unwrap();
        let id = orchestrator.append(("note", ())).within(&transaction).await.unwrap().id();
        assert_eq!(orchestrator.get(id).await.unwrap(), None);
        transaction.commit().await.unwrap();
        orchestrator.wait::<()>(id).await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        worker.shutdown().await.unwrap();
    }

    /// Another command of the same lane is claimed while the transaction is open; the look-out must go on.
    async fn a_late_commit_is_found_also_when_its_lane_was_busy_meanwhile(world) {
        if world.backend == Backend::Sqlite {
            // An open write transaction keeps the other command out as well.
            return;
        }
        let orchestrator = world
            .builder()
            .polling_interval(Duration::from_secs(3600))
            .executor("note", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let connection = world.connect().await;
        let transaction = connection.begin().await.unwrap();
        let late = orchestrator.append(("note", ())).within(&transaction).await.unwrap().id();
        for _ in 0..3 {
            let id = orchestrator.append(("note", ())).await.unwrap().id();
            orchestrator.wait::<()>(id).await.unwrap();
        }
        transaction.commit().await.unwrap();
        orchestrator.wait::<()>(late).await.unwrap();
        worker.shutdown().await.unwrap();
    }

    /// The worker still connects when the command is appended, and has looked around before the commit.
    async fn an_append_in_a_transaction_right_after_the_start_is_looked_for(world) {
        let orchestrator = world
            .builder()
            .polling_interval(Duration::from_secs(3600))
            .executor("note", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let transaction = orchestrator.begin().await.unwrap();
        let worker = orchestrator.start();
        let late = orchestrator.append(("note", ())).within(&transaction).await.unwrap().id();
        if world.backend != Backend::Sqlite {
            // Of another lane, so that it announces nothing; an open write transaction of SQLite would keep it out.
            let other = orchestrator.append(("note", ())).priority(1).await.unwrap().id();
            orchestrator.wait::<()>(other).await.unwrap();
        }
        transaction.commit().await.unwrap();
        orchestrator.wait::<()>(late).await.unwrap();
        worker.shutdown().await.unwrap();
    }

    async fn appending_many_is_all_or_none(world) {
        let orchestrator = world
            .builder()
            .executor("note", |_: String, _: Context| async move { Ok(()) })
            .payload_limit(100)
            .build()
            .await
            .unwrap();
        let appended = orchestrator.append_all((0..3_000).map(|n| ("note", n.to_string()))).await.unwrap();
        assert_eq!(appended.len(), 3_000);
        let with_a_bad_one = (0..10).map(|n| ("note", "x".repeat(if n == 9 { 200 } else { 1 })));
        let error = orchestrator.append_all(with_a_bad_one).await.unwrap_err();
        assert!(error.to_string().contains("limit of 100"), "{error}");
        let connection = world.connect().await;
        assert_eq!(number(&connection, "SELECT count(*) FROM orchestratum_live").await, 3_000);
        // Refused by the database, when other statements of the same append have been carried out.
        let refuse = match world.backend {
            Backend::Sqlite => {
                "CREATE TRIGGER refuse BEFORE INSERT ON orchestratum_commands WHEN NEW.payload = '\"refused\"'
                 BEGIN SELECT RAISE(ABORT, 'refused'); END"
            }
            Backend::Postgres | Backend::Mariadb => {
                "ALTER TABLE orchestratum_commands ADD CHECK (payload <> '\"refused\"')"
            }
        };
        connection.execute_unprepared(refuse).await.unwrap();
        let payload = |n: u32, bad: u32| if n == bad { "refused".to_owned() } else { n.to_string() };
        orchestrator.append_all((0..3_000).map(|n| ("note", payload(n, 2_999)))).await.unwrap_err();
        let with_a_unique_one = (0..10).map(|n| {
            let command = Command::new("note", &payload(n, 0)).unwrap();
            if n == 0 { command.unique("one") } else { command }
        });
        orchestrator.append_all(with_a_unique_one).await.unwrap_err();
        for table in ["orchestratum_live", "orchestratum_commands"] {
            assert_eq!(number(&connection, &format!("SELECT count(*) FROM {table}")).await, 3_000);
        }
    }

    async fn many_tasks_that_append_at_once_each_get_their_own_id(world) {
        let orchestrator = world.client().await;
        let tasks: Vec<_> = (0..64)
            .map(|number| {
                let orchestrator = orchestrator.clone();
                tokio::spawn(async move { (number, orchestrator.append(("k", number)).await.unwrap().id()) })
            })
            .collect();
        for task in tasks {
            let (number, id) = task.await.unwrap();
            assert_eq!(orchestrator.get(id).await.unwrap().unwrap().payload, number.to_string());
        }
    }

    async fn a_unique_key_is_held_until_the_command_ends(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .build()
            .await
            .unwrap();
        let first = orchestrator.append(("k", ())).unique("welcome:42").await.unwrap();
        let second = orchestrator.append(("k", ())).unique("welcome:42").await.unwrap();
        assert!(first.is_new() && !second.is_new());
        assert_eq!(first.id(), second.id());
        let other = orchestrator.append(("k", ())).unique("welcome:43").await.unwrap();
        assert!(other.is_new());
        let worker = orchestrator.start();
        orchestrator.wait::<()>(first.id()).await.unwrap();
        let third = orchestrator.append(("k", ())).unique("welcome:42").await.unwrap();
        assert!(third.is_new());
        orchestrator.wait::<()>(third.id()).await.unwrap();
        worker.shutdown().await.unwrap();
    }

    /// In a collation that folds case or pads with blanks, `welcome` would equal `Welcome` and `welcome `.
    async fn unique_keys_are_compared_byte_by_byte(world) {
        let orchestrator = world.client().await;
        for key in ["welcome", "Welcome", "welcome ", "wélcome"] {
            assert!(orchestrator.append(("k", ())).unique(key).await.unwrap().is_new(), "{key:?}");
        }
    }

    async fn an_append_that_waits_for_a_unique_key_holds_up_no_plain_one(world) {
        if world.backend != Backend::Postgres {
            // On SQLite whoever holds a key in an open transaction is the one writer, and holds up everybody. On MariaDB
            // who waits for a key locks the gap before it, where those without a key have theirs.
            return;
        }
        let orchestrator = world.client().await;
        let transaction = orchestrator.begin().await.unwrap();
        let holder = orchestrator.append(("k", 1)).unique("key").within(&transaction).await.unwrap();
        let waits = orchestrator.clone();
        let waits = tokio::spawn(async move { waits.append(("k", 2)).unique("key").await });
        let others = async {
            for number in 0..100 {
                assert!(orchestrator.append(("k", number)).await.unwrap().is_new());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), others).await.expect("none waits for the key of another one");
        assert!(!waits.is_finished());
        transaction.commit().await.unwrap();
        let second = waits.await.unwrap().unwrap();
        assert_eq!((second.id(), second.is_new()), (holder.id(), false));
    }

    async fn one_of_many_racing_appends_wins_a_unique_key(world) {
        let orchestrator = world.client().await;
        let other = world.client().await;
        let tasks: Vec<_> = (0..40)
            .map(|number| {
                let orchestrator = if number % 2 == 0 { orchestrator.clone() } else { other.clone() };
                tokio::spawn(async move { orchestrator.append(("k", number)).unique("one").await.unwrap() })
            })
            .collect();
        let mut winners = 0;
        let mut ids = Vec::new();
        for task in tasks {
            let appended = task.await.unwrap();
            winners += usize::from(appended.is_new());
            ids.push(appended.id());
        }
        ids.dedup();
        assert_eq!((winners, ids.len()), (1, 1));
    }

    async fn a_unique_key_within_one_batch_is_won_once(world) {
        let orchestrator = world.client().await;
        let commands = (0..6).map(|n| Command::new("k", &n).unwrap().unique(if n < 4 { "a" } else { "b" }));
        let appended = orchestrator.append_all(commands).await.unwrap();
        let new: Vec<_> = appended.iter().map(|appended| appended.is_new()).collect();
        assert_eq!(new, [true, false, false, false, true, false]);
        assert_eq!(appended[0].id(), appended[3].id());
    }

    async fn a_delayed_command_is_not_run_early_and_does_not_wait_for_a_poll(world) {
        let orchestrator = world
            .builder()
            .polling_interval(Duration::from_secs(3600))
            .executor("k", |(): (), _: Context| async move { Ok(OffsetDateTime::now_utc().unix_timestamp_nanos() as i64) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("k", ())).delay(Duration::from_millis(400)).await.unwrap().id();
        let due = orchestrator.get(id).await.unwrap().unwrap().run_at.unwrap();
        let ran_at = orchestrator.wait::<i64>(id).await.unwrap().completed().unwrap();
        assert!(i128::from(ran_at) >= due.unix_timestamp_nanos(), "ran before it was due");
        worker.shutdown().await.unwrap();
    }

    /// PostgreSQL announces it, and SQLite changes a file; MariaDB does neither.
    async fn what_another_process_appends_to_an_idle_lane_does_not_wait_for_a_poll(world) {
        if world.backend == Backend::Mariadb || world.is_pooled() {
            return skip("nobody tells of what another process appends");
        }
        let keys = ["a", "b", "c", "d", "e"];
        let (mut ours, mut theirs) = (world.builder().polling_interval(Duration::from_secs(3600)), world.builder());
        for key in keys {
            ours = ours.executor(key, |(): (), _: Context| async move { Ok(()) });
            theirs = theirs.remote(key);
        }
        let (orchestrator, other) = (ours.build().await.unwrap(), theirs.build().await.unwrap());
        let worker = orchestrator.start();
        // A lane each: one that has just had a command is looked at again anyhow.
        for key in keys {
            let id = other.append((key, ())).await.unwrap().id();
            other.wait::<()>(id).await.unwrap();
        }
        worker.shutdown().await.unwrap();
    }

    async fn a_command_for_the_year_9999_waits(world) {
        let orchestrator = world.client().await;
        let last = datetime!(9999-12-31 23:59:59 UTC);
        let id = orchestrator.append(("k", ())).at(last).await.unwrap().id();
        let info = orchestrator.get(id).await.unwrap().unwrap();
        assert_eq!((info.state, info.run_at), (State::Pending, Some(last)));
    }

    async fn bad_options_are_refused_with_their_name_and_nothing_is_appended(world) {
        let orchestrator = world
            .builder()
            .executor("k", |(): (), _: Context| async move { Ok(()) })
            .payload_limit(1_000)
            .build()
            .await
            .unwrap();
        let append = |key: &str| orchestrator.append((key.to_owned(), ()));
        let text = || "x".repeat(600);
        let deep = |follow: fn(Command, Command) -> Command| {
            let one = || Command::new("k", &()).unwrap();
            (0..17).fold(one(), |inner, _| follow(one(), inner))
        };
        let errors = [
            ("key", append("").await.unwrap_err()),
            ("key", append(&"k".repeat(10_000)).await.unwrap_err()),
            ("key", append("a\0b").await.unwrap_err()),
            ("queue", append("k").queue("").await.unwrap_err()),
            ("unique", append("k").unique("u".repeat(192)).await.unwrap_err()),
            ("timeout", append("k").timeout(Duration::ZERO).await.unwrap_err()),
            ("timeout", append("k").timeout(Duration::MAX).await.unwrap_err()),
            ("delay", append("k").delay(Duration::MAX).await.unwrap_err()),
            ("retry_count", append("k").retry_count(u32::MAX).await.unwrap_err()),
            ("payload", orchestrator.append(("k", "x".repeat(1_000))).await.unwrap_err()),
            ("on_success", (0..20).fold(append("k"), |append, _| append.on_success(("k", ()))).await.unwrap_err()),
            ("on_success", append("k").on_success(("k", text())).on_success(("k", text())).await.unwrap_err()),
            ("on_failure", append("k").on_failure(("k", text())).on_success(("k", text())).on_failure(("k", text())).await.unwrap_err()),
            ("on_failure", orchestrator.append(deep(Command::on_failure)).await.unwrap_err()),
            ("on_success", orchestrator.append(deep(Command::on_success)).await.unwrap_err()),
            ("on_cancel", append("k").on_cancel(("k", text())).on_cancel(("k", text())).await.unwrap_err()),
        ];
        for (option, error) in errors {
            let Error::InvalidCommand { option: named, .. } = &error else { panic!("{error}") };
            assert_eq!(*named, option, "{error}");
            assert!(error.to_string().len() < 300, "{error}");
        }
        let unknown = append("unknown").await.unwrap_err();
        assert!(unknown.to_string().contains("this program serves: k."), "{unknown}");
        assert!(orchestrator.list(Filter::all(), Page::default()).await.unwrap().is_empty());
    }

    async fn a_remote_key_may_be_appended_and_waits_for_a_program_that_knows_it(world) {
        let here = world.builder().remote("elsewhere").build().await.unwrap();
        let here_worker = here.start();
        let id = here.append(("elsewhere", 7)).await.unwrap().id();
        let there = world
            .builder()
            .executor("elsewhere", |number: u8, _: Context| async move { Ok(number) })
            .build()
            .await
            .unwrap();
        let there_worker = there.start();
        assert_eq!(here.wait::<u8>(id).await.unwrap().completed(), Some(7));
        here_worker.shutdown().await.unwrap();
        there_worker.shutdown().await.unwrap();
    }

    async fn any_text_comes_back_as_it_was_given(world) {
        let orchestrator = world
            .builder()
            .executor("echo", |text: String, _: Context| async move { Ok(text) })
            .executor("say", |text: String, _: Context| async move { Err::<(), _>(Verdict::fail(text).into()) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let text = "nul \0, four bytes 🦀, quote ' \" \\, line \n, bom \u{feff}, Ж";
        let id = orchestrator.append(("echo", text)).queue("Очередь 🦀").unique("ключ 🦀").await.unwrap().id();
        assert_eq!(orchestrator.wait::<String>(id).await.unwrap().completed().as_deref(), Some(text));
        // Many at once take another way, and those of the database that they meet there.
        let texts = [text, "", "null", "\\u0000\\\"", "\u{1}\u{7f}\u{2028}", "[\"a\", {\"b\": 1}]", " padded "];
        let appended = orchestrator.append_all(texts.map(|text| ("echo", text))).await.unwrap();
        for (appended, text) in std::iter::zip(appended, texts) {
            assert_eq!(orchestrator.wait::<String>(appended.id()).await.unwrap().completed().as_deref(), Some(text));
        }
        let id = orchestrator.append(("say", text)).await.unwrap().id();
        orchestrator.wait::<()>(id).await.unwrap();
        let error = orchestrator.get(id).await.unwrap().unwrap().error.unwrap();
        assert_eq!(error, text.replace('\0', "\u{fffd}"));
        worker.shutdown().await.unwrap();
    }

    async fn an_undecodable_payload_is_parked_with_the_reason_and_the_payload_intact(world) {
        let orchestrator = world
            .builder()
            .executor("number", |number: u32, _: Context| async move { Ok(number) })
            .build()
            .await
            .unwrap();
        let worker = orchestrator.start();
        let id = orchestrator.append(("number", "no number")).await.unwrap().id();
        orchestrator.wait::<u32>(id).await.unwrap();
        let info = orchestrator.get(id).await.unwrap().unwrap();
        assert_eq!((info.state, info.attempt, info.payload.as_str()), (State::Failed, 1, "\"no number\""));
        assert!(info.error.unwrap().contains("cannot be decoded"));
        worker.shutdown().await.unwrap();
        assert_eq!(state(&orchestrator, id).await, State::Failed);
    }

    /// On SQLite the append waits for the very transaction that it stands in: it must say so, and soon.
    async fn an_append_beside_an_open_transaction_of_ones_own_names_the_way_out(world) {
        let orchestrator = world.client().await;
        let transaction = orchestrator.begin().await.unwrap();
        let append = tokio::time::timeout(Duration::from_secs(20), async { orchestrator.append(("k", ())).await });
        let appended = append.await.expect("it does not wait for ever");
        if world.backend == Backend::Sqlite {
            let error = appended.unwrap_err();
            assert!(error.to_string().contains("`.within(&transaction)`") && error.is_transient(), "{error}");
        } else {
            assert!(appended.unwrap().is_new());
        }
        transaction.rollback().await.unwrap();
    }

    async fn an_address_may_say_mariadb(world) {
        let url = world.url.replacen("mysql:", "mariadb:", 1);
        let orchestrator = world.builder().database(url).client_only().build().await.unwrap();
        assert!(orchestrator.append(("k", ())).await.unwrap().is_new());
    }

    async fn an_address_without_its_driver_or_of_no_database_is_told_without_its_password(world) {
        for address in ["http://u:secret@localhost/app", "app.db", ""] {
            let error = world.builder().database(address).build().await.unwrap_err().to_string();
            assert!(error.contains("sqlite://app.db?mode=rwc") && !error.contains("secret"), "{error}");
        }
        for scheme in ["postgres", "mysql", "mariadb"] {
            for rest in ["u:a/secret@localhost/app", "u:a?secret@localhost/app", "u:a#secret@localhost/app", "u:secret@localhost:99999/app"] {
                let builder = world.builder().database(format!("{scheme}://{rest}"));
                let error = builder.build().await.unwrap_err().to_string();
                assert!(error.contains("cannot be read") && !error.contains("secret"), "{error}");
            }
        }
    }
}
