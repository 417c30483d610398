//! Databases that refuse, stall, fill up, go away and come back.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestratum_core::{CommandId, Context, Error, Filter, Orchestrator, Outcome, Page, State};
use orchestratum_testbed::{DatabaseServer, MariaDb, Options, Postgres};
use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use crate::harness::{Backend, World, on_every_backend, skip, until};
use crate::rows::number;

/// An orchestrator that notes which numbers have run.
async fn noting(builder: orchestratum_core::Builder) -> (Orchestrator, Arc<Mutex<Vec<u32>>>) {
    let ran = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ran);
    let orchestrator = builder
        .executor("note", move |number: u32, _: Context| {
            seen.lock().unwrap().push(number);
            async move { Ok(()) }
        })
        .build()
        .await
        .unwrap();
    (orchestrator, ran)
}

/// Which numbers have run, each once.
fn distinct(ran: &Mutex<Vec<u32>>) -> Vec<u32> {
    let mut ran = ran.lock().unwrap().clone();
    ran.sort_unstable();
    ran.dedup();
    ran
}

/// Ends every connection to the database but the asking one.
async fn cut_connections(world: &World, connection: &DatabaseConnection) {
    if world.backend == Backend::Postgres {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid()";
        connection.execute_unprepared(sql).await.unwrap();
        return;
    }
    let sql = "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()";
    let statement = sea_orm::Statement::from_string(connection.get_database_backend(), sql);
    for row in connection.query_all_raw(statement).await.unwrap() {
        let id: i64 = row.try_get_by_index(0).unwrap();
        // It may have gone by itself.
        let _ = connection.execute_unprepared(&format!("KILL {id}")).await;
    }
}

/// The same database with an address that may only read.
async fn read_only_url(world: &World) -> String {
    match world.backend {
        Backend::Sqlite => world.url.replace("mode=rwc", "mode=ro"),
        Backend::Postgres => format!("{}?options=-c%20default_transaction_read_only=on", world.url),
        Backend::Mariadb => {
            let name = world.url.rsplit('/').next().unwrap();
            let connection = world.connect().await;
            let user = format!("r{}", name.trim_start_matches("orchestratum_"));
            // An anonymous user of the same host would come first.
            for host in ["localhost", "127.0.0.1", "%"] {
                connection.execute_unprepared(&format!("CREATE OR REPLACE USER {user}@'{host}'")).await.unwrap();
                connection.execute_unprepared(&format!("GRANT SELECT ON {name}.* TO {user}@'{host}'")).await.unwrap();
            }
            world.url.replace("root@", &format!("{user}@"))
        }
    }
}

on_every_backend! {
    async fn a_database_that_may_only_be_read_refuses_appends_and_answers_questions(world) {
        if world.is_pooled() {
            return skip("a pooler in transaction mode takes no options of a session");
        }
        let id = world.client().await.append(("k", 7)).await.unwrap().id();
        let reader = Orchestrator::builder().database(read_only_url(world).await).client_only().build().await.unwrap();
        let error = reader.append(("k", 8)).await.unwrap_err();
        assert!(matches!(error, Error::Database(_)), "{error}");
        assert_eq!(reader.get(id).await.unwrap().unwrap().payload, "7");
        assert_eq!(number(&world.connect().await, "SELECT count(*) FROM orchestratum_commands").await, 1);
    }

    /// Of PostgreSQL alone, where a worker listens. Nothing is polled meanwhile.
    async fn a_worker_whose_listening_connection_is_cut_hears_of_appends_again(world) {
        if world.backend != Backend::Postgres {
            return;
        }
        if world.is_pooled() {
            return skip("nobody listens behind a pooler in transaction mode");
        }
        let (orchestrator, ran) = noting(world.builder().polling_interval(Duration::from_secs(3_600))).await;
        let worker = orchestrator.start();
        let (elsewhere, connection) = (world.client().await, world.connect().await);
        for number in 0..3 {
            until("it is appended", async || elsewhere.append(("note", number)).await.is_ok()).await;
            until("it has run", async || distinct(&ran).contains(&number)).await;
            cut_connections(world, &connection).await;
        }
        worker.shutdown().await.unwrap();
    }

    /// Guarantee 12. Where there is no connection to cut, a writer from outside stalls everybody instead.
    async fn connections_that_are_cut_again_and_again_lose_nothing(world) {
        let builder = world.builder().lease_duration(Duration::from_secs(2));
        let (orchestrator, ran) = noting(builder).await;
        let worker = orchestrator.start();
        let connection = world.connect().await;
        let mut acknowledged = Vec::new();
        for round in 0..8 {
            for number in round * 40..(round + 1) * 40 {
                // An append whose connection is cut is an error to the caller, who may or may not try again.
                if orchestrator.append(("note", number)).await.is_ok() {
                    acknowledged.push(number);
                }
            }
            if world.backend == Backend::Sqlite {
                let options = TransactionOptions {
                    sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                    ..TransactionOptions::default()
                };
                let stall = connection.begin_with_options(options).await.unwrap();
                // The length of the fault; nothing is waited for.
                tokio::time::sleep(Duration::from_millis(100)).await;
                stall.rollback().await.unwrap();
            } else {
                cut_connections(world, &connection).await;
            }
        }
        until("all acknowledged commands have ended", async || {
            number(&connection, "SELECT count(*) FROM orchestratum_live").await == 0
        })
        .await;
        worker.shutdown().await.unwrap();
        let ran = distinct(&ran);
        assert!(acknowledged.iter().all(|number| ran.contains(number)));
        assert!(!acknowledged.is_empty());
    }

    /// Its own server, killed in the middle of the work.
    async fn a_server_that_is_killed_and_comes_back_finds_everything_and_the_worker_goes_on(world) {
        match world.backend {
            // There is no server to kill; `leases` kills the processes that have the file open.
            Backend::Sqlite => {}
            Backend::Postgres => survives(Postgres::start(Options::default()).unwrap()).await,
            Backend::Mariadb => survives(MariaDb::start(Options::default()).unwrap()).await,
        }
    }

    /// With a backlog that is due and a lease that has run out nothing may spin, and a shutdown must come to an end.
    async fn a_worker_shuts_down_while_its_server_is_away_for_longer_than_the_lease(world) {
        match world.backend {
            // There is no server that could be away.
            Backend::Sqlite => {}
            Backend::Postgres => gives_up_in_time(Postgres::start(Options::fast()).unwrap()).await,
            Backend::Mariadb => gives_up_in_time(MariaDb::start(Options::fast()).unwrap()).await,
        }
    }

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

    async fn a_locked_command_does_not_hold_up_the_others(world) {
        if world.backend == Backend::Sqlite {
            // No row can be locked alone.
            return;
        }
        let (orchestrator, ran) = noting(world.builder()).await;
        let mut ids = Vec::new();
        for number in 0..5_u32 {
            ids.push(orchestrator.append(("note", number)).await.unwrap().id());
        }
        let connection = world.connect().await;
        let transaction = connection.begin().await.unwrap();
        let backend = connection.get_database_backend();
        let sql = if world.backend == Backend::Postgres { "$1" } else { "?" };
        let sql = format!("SELECT id FROM orchestratum_live WHERE id = {sql} FOR UPDATE");
        let lock = sea_orm::Statement::from_sql_and_values(backend, sql, [ids[0].as_uuid().into()]);
        transaction.query_one_raw(lock).await.unwrap().unwrap();
        let worker = orchestrator.start();
        for id in &ids[1..] {
            assert_eq!(orchestrator.wait::<()>(*id).await.unwrap(), Outcome::Completed(()));
        }
        assert_eq!(distinct(&ran), [1, 2, 3, 4]);
        transaction.rollback().await.unwrap();
        assert_eq!(orchestrator.wait::<()>(ids[0]).await.unwrap(), Outcome::Completed(()));
        worker.shutdown().await.unwrap();
    }

    /// The engine's statement has taken the others before it meets the locked one.
    async fn a_command_that_is_locked_while_it_runs_does_not_hold_up_the_endings_of_others(world) {
        if world.backend == Backend::Sqlite {
            // No row can be locked alone.
            return;
        }
        if world.is_pooled() {
            return skip("a connection behind a pooler has no patience of its own");
        }
        let (go, gone) = tokio::sync::watch::channel(false);
        let orchestrator = world
            .builder()
            .executor("wait", move |(): (), _: Context| {
                let mut gone = gone.clone();
                async move {
                    gone.wait_for(|gone| *gone).await?;
                    Ok(())
                }
            })
            .build()
            .await
            .unwrap();
        let appended = orchestrator.append_all((0..20).map(|_| ("wait", ()))).await.unwrap();
        let worker = orchestrator.start();
        let connection = world.connect().await;
        let running = "SELECT count(*) FROM orchestratum_live WHERE state = 'running'";
        until("all are running", async || number(&connection, running).await == 20).await;
        let transaction = connection.begin().await.unwrap();
        let one = "SELECT id FROM orchestratum_live ORDER BY id DESC LIMIT 1 FOR UPDATE";
        transaction.execute_unprepared(one).await.unwrap();
        go.send_replace(true);
        until("the others have ended", async || {
            let ended = "SELECT count(*) FROM orchestratum_ended";
            number(&world.connect().await, ended).await == 19
        })
        .await;
        transaction.rollback().await.unwrap();
        for appended in appended {
            assert_eq!(orchestrator.wait::<()>(appended.id()).await.unwrap(), Outcome::Completed(()));
        }
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

    /// Of SQLite alone, whose connections to such a file may only read for as long as they live.
    async fn a_file_that_could_only_be_read_for_a_while_is_written_again(world) {
        if world.backend != Backend::Sqlite {
            return;
        }
        let file = world.url.trim_start_matches("sqlite://").split('?').next().unwrap();
        // It has a write-ahead log since.
        let _earlier = world.client().await;
        let Some(locked) = WriteProtected::file(file) else { return skip("a file cannot be protected here") };
        let (orchestrator, ran) = noting(world.builder()).await;
        let worker = orchestrator.start();
        let error = orchestrator.append(("note", 1)).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains("readonly"), "{error}");
        drop(locked);
        until("an append works again", async || orchestrator.append(("note", 2)).await.is_ok()).await;
        until("a transaction begins again", async || orchestrator.begin().await.is_ok()).await;
        until("it has run", async || distinct(&ran) == [2]).await;
        worker.shutdown().await.unwrap();
    }

    /// Of SQLite alone: a server's disk is filled by the rig.
    async fn a_full_disk_refuses_appends_for_a_while_and_loses_nothing(world) {
        let Some(disk) = SmallDisk::of(world, 7) else { return };
        let (orchestrator, ran) = noting(world.builder().database(disk.database()).migrate()).await;
        let worker = orchestrator.start();
        let ballast = disk.0.path().join("ballast");
        std::fs::write(&ballast, vec![1; 4_500_000]).unwrap();
        let (acknowledged, error) = append_until_refused(&orchestrator).await;
        assert!(error.is_transient(), "{error}");
        std::fs::remove_file(&ballast).unwrap();
        until("an append works again", async || orchestrator.append(("note", u32::MAX)).await.is_ok()).await;
        until("all have run", async || distinct(&ran).len() as u32 > acknowledged).await;
        worker.shutdown().await.unwrap();
        assert_eq!(distinct(&ran)[..acknowledged as usize], (0..acknowledged).collect::<Vec<_>>());
    }

    /// A reader keeps the log from being folded, until it has taken the whole disk. The reader ends, and nobody frees
    /// anything: SQLite folds the log after a commit, which has no room.
    async fn a_log_that_has_taken_the_whole_disk_gives_it_back(world) {
        let Some(disk) = SmallDisk::of(world, 12) else { return };
        let (orchestrator, ran) = noting(world.builder().database(disk.database()).migrate()).await;
        let connection = Database::connect(disk.database()).await.unwrap();
        // Room in the file itself, as in one that has been in use for a while.
        let room = "CREATE TABLE room AS SELECT zeroblob(4000000); DROP TABLE room; PRAGMA wal_checkpoint(TRUNCATE)";
        connection.execute_unprepared(room).await.unwrap();
        let reader = connection.begin().await.unwrap();
        reader.execute_unprepared("SELECT * FROM orchestratum_live").await.unwrap();
        let worker = orchestrator.start();
        let (acknowledged, error) = append_until_refused(&orchestrator).await;
        assert!(error.is_transient(), "{error}");
        reader.rollback().await.unwrap();
        until("an append works again", async || orchestrator.append(("note", u32::MAX)).await.is_ok()).await;
        until("all have run", async || distinct(&ran).len() as u32 > acknowledged).await;
        worker.shutdown().await.unwrap();
        assert_eq!(distinct(&ran)[..acknowledged as usize], (0..acknowledged).collect::<Vec<_>>());
    }
}

/// Appends numbers from nought until one is refused; how many were taken, and why that one was not.
async fn append_until_refused(orchestrator: &Orchestrator) -> (u32, Error) {
    for next in 0..100_000 {
        // Delayed, so that they wait in the database when it is full.
        let append = orchestrator.append(("note", next)).unique(next.to_string()).delay(Duration::from_millis(300));
        if let Err(error) = append.await {
            return (next, error);
        }
    }
    panic!("the disk has no end");
}

/// A file that nobody can open for writing, not even root, for whom the mode counts nothing.
struct WriteProtected(String);

impl WriteProtected {
    fn file(file: &str) -> Option<Self> {
        let protected = Self(file.to_owned());
        protected.change([("chmod", "444"), ("chattr", "+i")]);
        std::fs::File::options().write(true).open(file).is_err().then_some(protected)
    }

    fn change(&self, changes: [(&str, &str); 2]) {
        for (program, change) in changes {
            let _ = Command::new(program).args([change, &self.0]).stderr(std::process::Stdio::null()).status();
        }
    }
}

impl Drop for WriteProtected {
    fn drop(&mut self) {
        self.change([("chattr", "-i"), ("chmod", "644")]);
    }
}

/// A file system of so many MiB for a SQLite file.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// None for a server, whose disk is its own (the rig that fills it is not part of this suite), and where there is no
    /// permission to mount one.
    fn of(world: &World, mebibytes: usize) -> Option<Self> {
        if world.backend != Backend::Sqlite {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mebibytes}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "orchestratum"]).arg(folder.path()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            skip("no permission to mount a small file system");
            return None;
        }
        Some(Self(folder))
    }

    fn database(&self) -> String {
        format!("sqlite://{}?mode=rwc", self.0.path().join("app.db").display())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
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

async fn gives_up_in_time(mut server: impl DatabaseServer) {
    let told = Arc::new(tokio::sync::Notify::new());
    let telling = Arc::clone(&told);
    server.create_database("app").unwrap();
    let builder = Orchestrator::builder()
        .database(server.url("app"))
        .migrate()
        .concurrency(1)
        .shutdown_grace(Duration::from_secs(1))
        .lease_duration(Duration::from_millis(600))
        .polling_interval(Duration::from_millis(100))
        .executor("k", move |(): (), ctx: Context| {
            let telling = telling.clone();
            async move {
                ctx.canceled().await;
                telling.notify_one();
                Err::<(), _>(anyhow::anyhow!("told to stop"))
            }
        });
    let orchestrator = builder.build().await.unwrap();
    let worker = orchestrator.start();
    let appended = orchestrator.append_all((0..50).map(|_| ("k", ()))).await.unwrap();
    until("one runs", async || {
        let mut running = false;
        for appended in &appended {
            running |= crate::rows::state(&orchestrator, appended.id()).await == State::Running;
        }
        running
    })
    .await;
    server.kill().unwrap();
    // Nobody can tell it that its lease is gone: its own heartbeat knows.
    tokio::time::timeout(Duration::from_secs(20), told.notified()).await.expect("the handler is told to stop");
    let shutdown = tokio::time::timeout(Duration::from_secs(40), worker.shutdown()).await;
    let result = shutdown.expect("the shutdown comes to an end");
    assert!(matches!(result, Err(Error::Unsettled { .. })), "{result:?}");
}

async fn survives(mut server: impl DatabaseServer) {
    server.create_database("app").unwrap();
    let url = server.url("app");
    let builder = Orchestrator::builder()
        .database(&url)
        .migrate()
        .lease_duration(Duration::from_secs(3))
        .polling_interval(Duration::from_millis(200));
    let (orchestrator, ran) = noting(builder).await;
    let worker = orchestrator.start();
    let mut numbers = Vec::new();
    for number in 0..200_u32 {
        if number == 100 {
            server.kill().unwrap();
            // Nobody answers: the caller hears of it.
            assert!(orchestrator.append(("note", 1_000)).await.is_err());
            server.start_again().unwrap();
            until("appends work again", async || orchestrator.append(("note", 1_001)).await.is_ok()).await;
        }
        orchestrator.append(("note", number)).await.unwrap();
        numbers.push(number);
    }
    let connection = Database::connect(&url).await.unwrap();
    until("all have ended", async || number_or(&connection, "SELECT count(*) FROM orchestratum_live", 1).await == 0)
        .await;
    worker.shutdown().await.unwrap();
    let ran = distinct(&ran);
    assert!(numbers.iter().all(|number| ran.contains(number)));
}

async fn number_or(connection: &DatabaseConnection, sql: &str, otherwise: i64) -> i64 {
    let statement = sea_orm::Statement::from_string(connection.get_database_backend(), sql);
    match connection.query_one_raw(statement).await {
        Ok(Some(row)) => row.try_get_by_index(0).unwrap_or(otherwise),
        _ => otherwise,
    }
}
