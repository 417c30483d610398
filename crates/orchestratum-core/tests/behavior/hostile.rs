//! Databases that refuse, stall, fill up, go away and come back.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use orchestratum_core::{Context, Error, Orchestrator, Outcome, State};
use orchestratum_testbed::{DatabaseServer, MariaDb, Options, Postgres};
use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use crate::harness::{Backend, World, on_every_backend, skip, until};
use crate::rows::{distinct, noting, number};

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
        for number in 0..6 {
            until("it is appended", async || elsewhere.append(("note", number)).await.is_ok()).await;
            until("it has run", async || distinct(&ran).contains(&number)).await;
            // The first behind a cut may be found by the look when it listens again, the second by listening alone.
            if number % 2 == 1 {
                cut_connections(world, &connection).await;
            }
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
