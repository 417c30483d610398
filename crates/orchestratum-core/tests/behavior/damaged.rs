//! Rows that somebody has changed, damaged or removed by hand.

use std::time::Duration;

use orchestratum_core::{Canceled, CommandId, Context, Filter, Orchestrator, Outcome, Page, State};
use sea_orm::{ConnectionTrait, DatabaseConnection};

use crate::harness::{Backend, on_every_backend, until};
use crate::rows::{distinct, noting, number};

on_every_backend! {
    async fn a_command_with_damaged_follow_ups_ends_all_the_same(world) {
        let (orchestrator, ran) = noting(world.builder()).await;
        let id = orchestrator.append(("note", 1)).on_success(("note", 2)).await.unwrap().id();
        let connection = world.connect().await;
        connection.execute_unprepared("UPDATE orchestratum_commands SET follow_ups = '{damaged'").await.unwrap();
        let worker = orchestrator.start();
        assert_eq!(orchestrator.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        assert_eq!(distinct(&ran), [1]);
        worker.shutdown().await.unwrap();
    }

    /// They can be read, and no table takes them: without them the failure can be stored, else the handler would run for
    /// ever.
    async fn a_command_whose_follow_ups_are_refused_fails_after_one_attempt(world) {
        let (orchestrator, ran) = noting(world.builder().default_retry_count(0)).await;
        let id = orchestrator.append(("note", 1)).on_success(("note", 2)).on_failure(("note", 3)).await.unwrap().id();
        let connection = world.connect().await;
        let damage = r#"REPLACE(follow_ups, '"retry_count":0', '"retry_count":-1')"#;
        let damage = format!("UPDATE orchestratum_commands SET follow_ups = {damage}");
        connection.execute_unprepared(&damage).await.unwrap();
        let damaged = r#"SELECT count(*) FROM orchestratum_commands WHERE follow_ups LIKE '%"retry_count":-1%'"#;
        assert_eq!(number(&connection, damaged).await, 1);
        let worker = orchestrator.start();
        let outcome = orchestrator.wait::<()>(id).await.unwrap();
        assert!(matches!(&outcome, Outcome::Failed(error) if error.contains("cannot be stored")), "{outcome:?}");
        worker.shutdown().await.unwrap();
        assert_eq!(*ran.lock().unwrap(), [1]);
    }

    async fn rows_that_somebody_has_changed_by_hand_stop_nothing(world) {
        let (orchestrator, ran) = noting(world.builder().default_retry_count(1)).await;
        let connection = world.connect().await;
        // Elsewhere the type says how long it is.
        let short = (world.backend == Backend::Sqlite).then_some("live SET state = 'running', instance = x'00'");
        for (victim, change) in REFUSED.iter().chain(&short).enumerate() {
            let sql = change_by_hand(&orchestrator, victim, change).await;
            assert!(connection.execute_unprepared(&sql).await.is_err(), "accepted: {change}");
        }
        let unreadable = (world.backend == Backend::Sqlite).then_some("commands SET payload = CAST(x'ff' AS text)");
        for (victim, change) in ACCEPTED.iter().chain(&unreadable).enumerate() {
            let sql = change_by_hand(&orchestrator, 100 + victim, change).await;
            connection.execute_unprepared(&sql).await.unwrap();
        }
        orchestrator.append_all((1_000..1_020).map(|number| ("note", number))).await.unwrap();
        let worker = orchestrator.start();
        until("the others have run", async || (1_000..1_020).all(|number| distinct(&ran).contains(&number))).await;
        // What cannot be claimed any more stays; what is due in the year 128726 waits.
        let left = "SELECT count(*) FROM orchestratum_live WHERE attempt < 1000000000 AND run_at < 4000000000000000000";
        until("what was changed has ended", async || number(&connection, left).await == 0).await;
        worker.shutdown().await.unwrap();
        let parked = |reason: &str| {
            format!("SELECT count(*) FROM orchestratum_ended WHERE state = 'failed' AND error LIKE '%{reason}%'")
        };
        assert_eq!(number(&connection, &parked("payload")).await, 1);
        assert_eq!(number(&connection, &parked("cannot be read")).await, i64::from(unreadable.is_some()));
    }

    /// More of them than one claim takes, and one that was running where a process has died.
    async fn commands_of_which_somebody_has_removed_a_row_end_all_the_same(world) {
        let (orchestrator, ran) = noting(world.builder()).await;
        orchestrator.append_all((0..100).map(|number| ("note", number))).await.unwrap();
        orchestrator.append(("note", 100)).unique("running").await.unwrap();
        let connection = world.connect().await;
        let dead = world.bytes(&"ab".repeat(16));
        for sql in [
            "DELETE FROM orchestratum_commands".to_owned(),
            format!("INSERT INTO orchestratum_instances VALUES ({dead}, 'dead', 0, 1, NULL)"),
            format!(
                "UPDATE orchestratum_live SET state = 'running', attempt = 1, instance = {dead}
                 WHERE unique_key = 'running'"
            ),
        ] {
            connection.execute_unprepared(&sql).await.unwrap();
        }
        orchestrator.append_all((200..210).map(|number| ("note", number))).await.unwrap();
        let worker = orchestrator.start();
        let live = "SELECT count(*) FROM orchestratum_live";
        until("all have ended", async || number(&connection, live).await == 0).await;
        worker.shutdown().await.unwrap();
        assert_eq!(distinct(&ran), (200..210).collect::<Vec<_>>());
        let parked = "SELECT count(*) FROM orchestratum_ended WHERE state = 'failed' AND error LIKE '%not in orchestratum_commands%'";
        assert_eq!(number(&connection, parked).await, 101);
    }

    /// Each column of each table, one value after the other, each in a row of its own. What a table takes is there to be
    /// read, operated on, claimed and removed; every answer may be an error.
    async fn nothing_that_somebody_writes_into_any_column_stops_a_worker(world) {
        let failing = world.builder().default_retry_count(0).executor("fail", |_: u32, _: Context| async {
            Err::<(), _>(anyhow::anyhow!("as ordered"))
        });
        let (orchestrator, ran) = noting(failing).await;
        let connection = world.connect().await;
        let append = async |key: &'static str, count: u32| {
            let appended = orchestrator.append_all((0..count).map(move |number| (key, number))).await.unwrap();
            appended.iter().map(|command| command.id()).collect::<Vec<_>>()
        };
        let worker = orchestrator.start();
        let ended = append("fail", 250).await;
        until("all have failed", async || number(&connection, "SELECT count(*) FROM orchestratum_ended").await == 250).await;
        worker.shutdown().await.unwrap();
        let live = append("note", 350).await;
        let (mut living, mut dead, mut others) = (live.iter(), ended.iter(), 1..);
        let id = |id: &CommandId| world.bytes(&id.as_uuid().simple().to_string());
        let values = ANYTHING.iter().chain(if world.backend == Backend::Sqlite { &UNREADABLE[..] } else { &[] });
        let (mut taken, mut refused) = (0, 0);
        for (table, row) in TABLES {
            for column in columns_of(&connection, table).await {
                for value in values.clone() {
                    let victim = match table {
                        "live" | "commands" => id(living.next().unwrap()),
                        "ended" | "attempts" => id(dead.next().unwrap()),
                        "instances" => {
                            let id = world.bytes(&format!("{:032x}", others.next().unwrap()));
                            let dead = format!("INSERT INTO orchestratum_instances VALUES ({id}, 'dead', 0, 1, NULL)");
                            connection.execute_unprepared(&dead).await.unwrap();
                            id
                        }
                        _ => {
                            let name = format!("'queue-{}'", others.next().unwrap());
                            let pause = format!("INSERT INTO orchestratum_queues VALUES ({name}, 0)");
                            connection.execute_unprepared(&pause).await.unwrap();
                            name
                        }
                    };
                    let change = format!("UPDATE orchestratum_{table} SET {column} = {value} WHERE {row} = {victim}");
                    match connection.execute_unprepared(&change).await {
                        Ok(_) => taken += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        assert!(taken > 100 && refused > 50, "{taken} were taken, {refused} refused");
        for id in live.iter().chain(&ended) {
            let asked = (orchestrator.get(*id).await, orchestrator.attempts(*id).await, orchestrator.outcome::<()>(*id).await);
            drop(asked);
        }
        for (live, ended) in std::iter::zip(live.iter().step_by(3), ended.iter().step_by(3)) {
            drop((orchestrator.cancel(*live).await, orchestrator.retry(*ended).await));
        }
        drop((orchestrator.list(Filter::all(), Page::default()).await, orchestrator.stats().await));
        orchestrator.purge(&[State::Failed, State::Canceled], Duration::ZERO).await.unwrap();
        let worker = orchestrator.start();
        orchestrator.append_all((1_000..1_020).map(|number| ("note", number))).await.unwrap();
        until("the others have run", async || (1_000..1_020).all(|number| distinct(&ran).contains(&number))).await;
        worker.shutdown().await.unwrap();
    }

    /// Elsewhere no text is kept that cannot be read. Two were running where a process has died.
    async fn texts_that_cannot_be_read_keep_no_command_from_being_reclaimed(world) {
        if world.backend != Backend::Sqlite {
            return;
        }
        let (orchestrator, ran) = noting(world.builder()).await;
        let connection = world.connect().await;
        let mut ids = Vec::new();
        for (victim, column) in ["commands SET follow_ups", "live SET command_key", "commands SET payload"].iter().enumerate() {
            let append = orchestrator.append(("note", u32::try_from(victim).unwrap())).unique(format!("victim-{victim}"));
            ids.push(append.await.unwrap().id());
            let damage = format!("UPDATE orchestratum_{column} = CAST(x'ff' AS text) WHERE unique_key = 'victim-{victim}'");
            connection.execute_unprepared(&damage).await.unwrap();
        }
        let error = orchestrator.get(ids[2]).await.unwrap_err().to_string();
        assert!(error.contains(&ids[2].to_string()), "{error}");
        for sql in [
            "INSERT INTO orchestratum_instances VALUES (x'abababababababababababababababab', 'dead', 0, 1, NULL)",
            "UPDATE orchestratum_live SET state = 'running', attempt = 1, instance = x'abababababababababababababababab'",
        ] {
            connection.execute_unprepared(sql).await.unwrap();
        }
        let worker = orchestrator.start();
        let running = "SELECT count(*) FROM orchestratum_live WHERE state = 'running'";
        until("nothing seems to run any more", async || number(&connection, running).await == 0).await;
        orchestrator.append(("note", 7)).await.unwrap();
        // One stands still, because nobody knows its lane.
        let live = "SELECT count(*) FROM orchestratum_live";
        until("the others have ended", async || number(&connection, live).await == 1).await;
        worker.shutdown().await.unwrap();
        assert_eq!(distinct(&ran), [7]);
        let parked = "SELECT count(*) FROM orchestratum_ended WHERE state = 'failed' AND error LIKE '%cannot be read%'";
        assert_eq!(number(&connection, parked).await, 2);
    }

    /// Of SQLite alone, which takes any bytes for a text.
    async fn a_command_that_cannot_be_read_has_its_follow_ups_and_can_be_canceled(world) {
        if world.backend != Backend::Sqlite {
            return;
        }
        let (orchestrator, ran) = noting(world.builder()).await;
        let connection = world.connect().await;
        let unread = orchestrator.append(("note", 1)).unique("unread").on_failure(("note", 2)).await.unwrap().id();
        let unwanted = orchestrator.append(("note", 3)).unique("unwanted").on_cancel(("note", 4)).await.unwrap().id();
        for (victim, column) in [("unread", "payload"), ("unwanted", "follow_ups")] {
            let damage = "UPDATE orchestratum_commands SET";
            let damage = format!("{damage} {column} = CAST(x'ff' AS text) WHERE unique_key = '{victim}'");
            connection.execute_unprepared(&damage).await.unwrap();
        }
        assert_eq!(orchestrator.cancel(unwanted).await.unwrap(), Canceled::Now);
        let worker = orchestrator.start();
        let outcome = orchestrator.wait::<()>(unread).await.unwrap();
        assert!(matches!(&outcome, Outcome::Failed(error) if error.contains("cannot be read")), "{outcome:?}");
        until("its follow-up has run", async || distinct(&ran) == [2]).await;
        worker.shutdown().await.unwrap();
    }

    /// Of SQLite alone, which takes any bytes for a text.
    async fn a_key_that_cannot_be_read_stops_no_other(world) {
        if world.backend != Backend::Sqlite {
            return;
        }
        let (orchestrator, ran) = noting(world.builder()).await;
        let connection = world.connect().await;
        let damage = change_by_hand(&orchestrator, 0, "live SET command_key = CAST(x'ff' AS text)").await;
        connection.execute_unprepared(&damage).await.unwrap();
        let shorten = change_by_hand(&orchestrator, 1, "live SET id = x'00'").await;
        assert!(connection.execute_unprepared(&shorten).await.is_err());
        let worker = orchestrator.start();
        until("the other one has run", async || distinct(&ran) == [1]).await;
        worker.shutdown().await.unwrap();
    }
}

/// What the tables refuse, whoever writes it.
const REFUSED: [&str; 15] = [
    "live SET state = 'done'",
    "live SET state = NULL",
    "live SET state = 'running'",
    "live SET attempt = -1",
    "live SET attempt = 2000000000",
    "live SET failures = -1",
    "live SET losses = 2000000000",
    "live SET run_at = 9000000000000000000",
    "live SET run_at = -9000000000000000000",
    "live SET run_at = NULL",
    "live SET queue = NULL",
    "commands SET payload = NULL",
    "commands SET timeout_ms = -1",
    "commands SET retry_count = -1",
    "commands SET retry_count = 3000000000",
];

/// What they take, and what no program of ours would write.
const ACCEPTED: [&str; 12] = [
    "commands SET payload = '{damaged'",
    "commands SET retry_policy = '{damaged'",
    "commands SET follow_ups = '{damaged'",
    "commands SET timeout_ms = 0",
    "commands SET timeout_ms = 9223372036854775807",
    "live SET run_at = -4000000000000000000",
    "live SET run_at = 4000000000000000000",
    "live SET attempt = 1000000000",
    "live SET failures = 1000000000",
    "live SET losses = 1000000000",
    "live SET priority = 32767",
    "live SET cancel_requested = TRUE",
];

/// What somebody may write into a column, as SQL.
const ANYTHING: [&str; 8] =
    ["NULL", "0", "-1", "9223372036854775807", "-9223372036854775808", "''", "'{damaged'", "'Ж'"];
/// On SQLite, whose texts may be anything.
const UNREADABLE: [&str; 2] = ["CAST(x'ff' AS text)", "x'00'"];

/// The tables, and which column names a row.
const TABLES: [(&str, &str); 6] = [
    ("live", "id"),
    ("commands", "id"),
    ("ended", "id"),
    ("attempts", "command_id"),
    ("instances", "id"),
    ("queues", "name"),
];

async fn columns_of(connection: &DatabaseConnection, table: &str) -> Vec<String> {
    if table == "queues" {
        return ["name", "paused_at"].map(str::to_owned).to_vec();
    }
    if table == "instances" {
        return ["id", "name", "started_at", "expires_at", "fenced_at"].map(str::to_owned).to_vec();
    }
    let sql = format!("SELECT * FROM orchestratum_{table} LIMIT 1");
    let row = connection.query_one_raw(sea_orm::Statement::from_string(connection.get_database_backend(), sql)).await;
    row.unwrap().unwrap().column_names()
}

/// Appends a command, and returns how somebody changes its row.
async fn change_by_hand(orchestrator: &Orchestrator, victim: usize, change: &str) -> String {
    let command = orchestrator.append(("note", u32::try_from(victim).unwrap())).unique(format!("victim-{victim}"));
    command.await.unwrap();
    format!("UPDATE orchestratum_{change} WHERE unique_key = 'victim-{victim}'")
}
