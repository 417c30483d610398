//! Servers start, survive what is done to them, and never outlive their owner.

#![allow(clippy::unwrap_used, reason = "a failed step fails its test, with its error")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orchestratum_testbed::{
    DatabaseServer, Kind, MariaDb, Options, Postgres, descendants, install, is_alive, required,
};

/// An immediate stop takes milliseconds; the watchdog insists after ten seconds.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A missing database is a skip that can be seen, or a failure where it is required.
fn is_missing(kind: Kind) -> bool {
    if install::locate(kind).is_some() {
        return false;
    }
    assert!(!required(kind), "{kind} is required and not installed");
    // Not `eprintln!`, which the test harness hides when the test passes.
    let mut terminal = std::io::stderr();
    writeln!(terminal, "skipped: {kind} is not installed").unwrap();
    true
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + END_LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {END_LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn committed_row_survives<S: DatabaseServer>(options: Options) {
    if is_missing(S::KIND) {
        return;
    }
    let mut server = S::start(options).unwrap();
    assert_eq!(server.query(S::ADMIN_DATABASE, "SELECT 1").unwrap(), "1");
    server.create_database("orders").unwrap();
    server.query("orders", "CREATE TABLE rows_kept (id INT PRIMARY KEY)").unwrap();
    let ends: [fn(&mut S) -> anyhow::Result<()>; 3] = [S::kill, S::stop_immediate, S::stop];
    for (id, end) in ends.into_iter().enumerate() {
        server.query("orders", &format!("INSERT INTO rows_kept VALUES ({id})")).unwrap();
        end(&mut server).unwrap();
        assert!(!server.is_running().unwrap());
        assert!(server.query("orders", "SELECT 1").is_err(), "answers after its end");
        server.start_again().unwrap();
        let kept = server.query("orders", "SELECT COUNT(*) FROM rows_kept").unwrap();
        assert_eq!(kept, (id + 1).to_string());
    }
    server.restart().unwrap();
    assert_eq!(server.query("orders", "SELECT COUNT(*) FROM rows_kept").unwrap(), "3");
}

fn drop_leaves_nothing<S: DatabaseServer>() {
    if is_missing(S::KIND) {
        return;
    }
    let server = S::start(Options::fast()).unwrap();
    let (port, data) = (server.port(), server.data_dir());
    let processes: Vec<_> =
        server.pid().into_iter().flat_map(|pid| descendants(pid).into_iter().chain([pid])).collect();
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "still listens");
    assert!(data.is_none_or(|data| !data.parent().unwrap().exists()), "leaves its folder");
    eventually("its processes end", || !processes.iter().any(|pid| is_alive(*pid)));
}

/// Starts a server in a process of its own, ends that process with `signal`, and looks for what is left.
fn server_ends_with_its_owner(kind: Kind, signal: &str) {
    if is_missing(kind) {
        return;
    }
    let mut owner = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args([kind.backend(), "--fast"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let port: u16 = url.rsplit_once("127.0.0.1:").unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let processes = descendants(owner.id());
    assert!(processes.len() >= 2, "a server and its watchdog");
    let folders = working_folders(&processes);

    let killed = Command::new("kill").args([signal, &owner.id().to_string()]).status().unwrap();
    assert!(killed.success());
    owner.wait().unwrap();

    eventually("the port closes", || TcpStream::connect(("127.0.0.1", port)).is_err());
    eventually("all processes end", || !processes.iter().any(|pid| is_alive(*pid)));
    eventually("its folder goes", || !folders.iter().any(|folder| folder.exists()));
}

/// The working folders of a server's processes, which all lie in its temporary folder.
fn working_folders(processes: &[u32]) -> Vec<std::path::PathBuf> {
    let folders = processes.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).ok());
    folders.filter(|folder| folder.to_string_lossy().contains("orchestratum-")).collect()
}

#[test]
fn postgres_keeps_a_committed_row_through_every_end() {
    committed_row_survives::<Postgres>(Options::default());
}

#[test]
fn fast_postgres_keeps_a_committed_row_through_every_end() {
    committed_row_survives::<Postgres>(Options::fast());
}

#[test]
fn mariadb_keeps_a_committed_row_through_every_end() {
    committed_row_survives::<MariaDb>(Options::default());
}

#[test]
fn fast_mariadb_keeps_a_committed_row_through_every_end() {
    committed_row_survives::<MariaDb>(Options::fast());
}

#[test]
fn dropped_postgres_leaves_nothing() {
    drop_leaves_nothing::<Postgres>();
}

#[test]
fn dropped_mariadb_leaves_nothing() {
    drop_leaves_nothing::<MariaDb>();
}

#[test]
fn postgres_ends_with_a_killed_owner() {
    server_ends_with_its_owner(Kind::Postgres, "-KILL");
}

#[test]
fn mariadb_ends_with_a_killed_owner() {
    server_ends_with_its_owner(Kind::MariaDb, "-KILL");
}

// Not with SIGINT, which whoever runs under `nohup` or in a shell's background ignores.
#[test]
fn postgres_ends_with_a_terminated_owner() {
    server_ends_with_its_owner(Kind::Postgres, "-TERM");
}

#[test]
fn broken_option_is_reported_with_the_log() {
    if is_missing(Kind::Postgres) {
        return;
    }
    let options = Options { extra_args: vec!["-c".into(), "no_such_setting=1".into()], ..Options::fast() };
    let error = Postgres::start(options).unwrap_err().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}
