//! Leases across processes: killed, paused and misdated workers.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use orchestratum_core::{AttemptKind, Command as NewCommand, Filter, Orchestrator, Outcome, State};
use orchestratum_testbed::install;
use sea_orm::ConnectionTrait;
use tempfile::TempDir;

use crate::harness::{Backend, World, on_every_backend, skip, until};
use crate::rows::{number, state};

/// A worker in a process of its own, killed when the case ends.
struct Process {
    child: Child,
}

impl Process {
    fn start(world: &World, ledger: &Path, lease: Duration, clock: Option<&str>) -> Self {
        let mut command = Command::new(program());
        if let Some(shift) = clock {
            command.env("LD_PRELOAD", install::clock_shifter().expect("found by the case")).env("FAKETIME", shift);
            // Only the calendar is shifted: a monotonic clock that jumps is another fault.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let mut child = command
            .args([&world.url, ledger.to_str().unwrap(), &lease.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Self { child }
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    fn has_exited(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cargo builds examples beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/worker_process")
}

/// The lines of a ledger, with the process ids cut off where `who` is not asked for.
fn lines(ledger: &Path, who: Option<u32>) -> Vec<String> {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter(|(id, _)| who.is_none_or(|who| *id == who.to_string())).map(|(_, line)| line.to_owned()).collect()
}

async fn client_with_effects(world: &World) -> Orchestrator {
    let connection = world.connect().await;
    connection.execute_unprepared("CREATE TABLE effects (attempt integer NOT NULL)").await.unwrap();
    world.client().await
}

const LEASE: Duration = Duration::from_millis(900);

on_every_backend! {
    /// Guarantees 3, 5 and 8 at once.
    async fn a_paused_worker_finds_on_waking_that_it_can_change_nothing(world) {
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = client_with_effects(world).await;
        let paused = Process::start(world, &ledger, LEASE, None);
        let id = client.append(("hold", ())).await.unwrap().id();
        until("the first attempt has started", async || lines(&ledger, None) == ["started 1"]).await;
        paused.signal("-STOP");
        let _other = Process::start(world, &ledger, LEASE, None);
        assert_eq!(client.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        paused.signal("-CONT");
        until("the late worker has tried", async || lines(&ledger, Some(paused.child.id())).len() == 3).await;
        let late = lines(&ledger, Some(paused.child.id()));
        assert_eq!(late, ["started 1", "canceled 1", "complete_in failed"]);
        let info = client.get(id).await.unwrap().unwrap();
        assert_eq!((info.state, info.attempt), (State::Completed, 2));
        assert_eq!(number(&world.connect().await, "SELECT count(*) FROM effects").await, 0);
        let history = client.attempts(id).await.unwrap();
        assert_eq!((history.len(), history[0].kind), (1, AttemptKind::LostLease));
    }

    async fn what_a_killed_worker_held_is_run_by_another(world) {
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = client_with_effects(world).await;
        let killed = Process::start(world, &ledger, LEASE, None);
        let id = client.append(("hold", ())).retry_count(0).await.unwrap().id();
        until("the first attempt has started", async || lines(&ledger, None) == ["started 1"]).await;
        killed.signal("-KILL");
        let _other = Process::start(world, &ledger, LEASE, None);
        assert_eq!(client.wait::<()>(id).await.unwrap(), Outcome::Completed(()));
        assert_eq!(client.attempts(id).await.unwrap()[0].kind, AttemptKind::LostLease);
        until("the dead instance is fenced", async || {
            let fenced = "SELECT count(*) FROM orchestratum_instances WHERE fenced_at IS NOT NULL";
            number(&world.connect().await, fenced).await == 1
        })
        .await;
    }

    /// Guarantee 4: a walk for one who has died finds it as well.
    async fn what_runs_under_an_instance_that_nobody_knows_is_taken_back(world) {
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = world.client().await;
        let id = client.append(("hold", ())).await.unwrap().id();
        let unknown = Process::start(world, &ledger, LEASE, None);
        until("it runs", async || state(&client, id).await == State::Running).await;
        drop(unknown);
        let connection = world.connect().await;
        connection.execute_unprepared("DELETE FROM orchestratum_instances").await.unwrap();
        let another = Process::start(world, &ledger, LEASE, None);
        let registered = "SELECT count(*) FROM orchestratum_instances";
        until("another one is known", async || number(&connection, registered).await == 1).await;
        drop(another);
        let _other = Process::start(world, &ledger, LEASE, None);
        until("it is taken back", async || !client.attempts(id).await.unwrap().is_empty()).await;
        assert_eq!(client.attempts(id).await.unwrap()[0].kind, AttemptKind::LostLease);
    }

    /// Guarantee 6: parked as failed, and says why.
    async fn a_command_that_kills_its_process_is_parked(world) {
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = world.builder().client_only().build().await.unwrap();
        let id = client.append(("kill", ())).await.unwrap().id();
        let mut process = Process::start(world, &ledger, Duration::from_millis(300), None);
        let mut deaths = 0;
        until("it is parked", async || {
            if process.has_exited() {
                deaths += 1;
                process = Process::start(world, &ledger, Duration::from_millis(300), None);
            }
            state(&client, id).await == State::Failed
        })
        .await;
        // Five lost leases are allowed.
        assert_eq!(deaths, 6);
        let history = client.attempts(id).await.unwrap();
        assert!(history.iter().all(|line| line.kind == AttemptKind::LostLease));
        let error = client.get(id).await.unwrap().unwrap().error.unwrap();
        assert!(error.contains("lost its lease 6 times"), "{error}");
    }

    /// What is lost together again and again runs apart from the third time on.
    async fn a_command_that_kills_its_process_takes_none_of_its_neighbors_along(world) {
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = world.client().await;
        // Claimed before it, and not done when it runs.
        let neighbors = client.append_all((0..5).map(|_| NewCommand::new("doze", &()).unwrap().priority(1))).await.unwrap();
        let deadly = client.append(("kill", ())).await.unwrap().id();
        let mut process = Process::start(world, &ledger, Duration::from_millis(600), None);
        until("all have ended", async || {
            if process.has_exited() {
                process = Process::start(world, &ledger, Duration::from_millis(600), None);
            }
            client.count(Filter::live()).await.unwrap().value == 0
        })
        .await;
        assert_eq!(state(&client, deadly).await, State::Failed);
        for neighbor in neighbors {
            assert_eq!(state(&client, neighbor.id()).await, State::Completed);
        }
    }

    async fn commands_survive_the_kill_of_their_worker_in_the_middle_of_a_backlog(world) {
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = world.client().await;
        client.append_all((0..600).map(|n| ("note", n.to_string()))).await.unwrap();
        let process = Process::start(world, &ledger, LEASE, None);
        until("some have run", async || lines(&ledger, None).len() > 50).await;
        process.signal("-KILL");
        let _other = Process::start(world, &ledger, LEASE, None);
        until("all have ended", async || client.stats().await.unwrap().completed.value == 600).await;
        let mut runs = [0; 600];
        for line in lines(&ledger, None) {
            runs[line.split(' ').next().unwrap().parse::<usize>().unwrap()] += 1;
        }
        assert!(runs.iter().all(|runs| [1, 2].contains(runs)), "{runs:?}");
        let twice = runs.iter().filter(|runs| **runs == 2).count();
        let claimed = number(&world.connect().await, "SELECT count(*) FROM orchestratum_attempts").await;
        assert!(i64::try_from(twice).unwrap() <= claimed, "{twice} ran twice, {claimed} were claimed by the dead");
    }

    /// Guarantee 9. On SQLite the machine's clock is the database's, and there is nothing to show.
    async fn workers_whose_clocks_are_hours_off_share_a_queue_as_if_they_were_right(world) {
        if world.backend == Backend::Sqlite {
            return;
        }
        if install::clock_shifter().is_none() {
            assert!(std::env::var_os("CI").is_none(), "libfaketime is required: install the package `faketime`");
            return skip("no libfaketime");
        }
        let folder = TempDir::new().unwrap();
        let ledger = folder.path().join("ledger");
        let client = client_with_effects(world).await;
        let ahead = Process::start(world, &ledger, LEASE, Some("+2h"));
        let behind = Process::start(world, &ledger, LEASE, Some("-2h"));
        // Were a clock believed, one worker would run what is due in an hour, and the other nothing at all; and each
        // would take the other for dead.
        let later = client.append(("note", "later")).delay(Duration::from_secs(3600)).await.unwrap().id();
        let held = client.append(("hold", ())).await.unwrap().id();
        let soon = client.append(("note", "soon")).delay(Duration::from_millis(1_500)).await.unwrap().id();
        // Whoever is quicker takes all there is at a moment.
        let notes = |id: u32| lines(&ledger, Some(id)).iter().any(|line| !line.contains("started"));
        let mut appended = 0;
        until("each has run something", async || {
            client.append_all((0..50).map(|n| ("note", n.to_string()))).await.unwrap();
            appended += 50;
            [ahead.child.id(), behind.child.id()].into_iter().all(notes)
        })
        .await;
        assert_eq!(client.wait::<()>(soon).await.unwrap(), Outcome::Completed(()));
        let (connection, all) = (world.connect().await, appended + 1);
        let ended = "SELECT count(*) FROM orchestratum_ended";
        until("all have ended", async || number(&connection, ended).await == all).await;
        assert_eq!((state(&client, later).await, state(&client, held).await), (State::Pending, State::Running));
        let fenced = "SELECT count(*) FROM orchestratum_instances WHERE fenced_at IS NOT NULL";
        assert_eq!(number(&connection, fenced).await, 0);
    }
}
