//! A server that dies, restarts, stalls and is used up, and sessions that are in the way.

use std::time::Duration;

use anyhow::{Result, ensure};
use orchestratum_testbed::{DatabaseServer, descendants};
use rustix::process::{Pid, Signal, kill_process};
use sea_orm::{ConnectOptions, ConnectionTrait as _, IsolationLevel, Statement, TransactionTrait as _};
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::{Deck, Storm};

/// As the ledger has it.
pub(crate) const KILL: &str = "kill -9 of the server";
const KILLS: Duration = Duration::from_secs(20);
/// What makes statements slow: in turns the server stands still for so long, and runs for so long.
const SLOW: (Duration, Duration) = (Duration::from_millis(90), Duration::from_millis(10));
/// As the ledger has the others.
pub(crate) const KINDS: [&str; 8] = [
    "immediate stop of the server",
    "restart of the server",
    "server that stood still",
    "slow statements",
    "termination of sessions",
    "lack of connections",
    "long transaction",
    "lock on rows of commands",
];

pub(crate) async fn rage<S: DatabaseServer>(mut storm: Storm, server: &mut S, url: &str) -> Result<()> {
    let (mut next_kill, mut deck) = (Instant::now() + storm.between(KILLS) / 2, Deck::new(&KINDS));
    while storm.lull(storm.between(Duration::from_secs(4))).await {
        if next_kill <= Instant::now() {
            next_kill = Instant::now() + storm.between(KILLS);
            block_in_place(|| server.kill())?;
            storm.note(KILL);
            tokio::time::sleep(storm.millis(0..4_000)).await;
            block_in_place(|| server.start_again())?;
            continue;
        }
        let (fault, name) = deck.draw(&mut storm.random);
        let time = storm.some_time();
        // A session of ours may meet the other faults, too.
        let happened = match fault {
            0 => {
                block_in_place(|| server.stop_immediate())?;
                block_in_place(|| server.start_again())
            }
            1 => block_in_place(|| server.restart()),
            2 => stand_still(server, time).await,
            3 => crawl(server, time).await,
            4 => terminate_sessions(server),
            5 => use_up_connections(url, time.min(storm.lease)).await,
            6 => hold(url, "SELECT count(*) FROM orchestratum_live", time).await,
            _ => hold(url, "SELECT id FROM orchestratum_live ORDER BY id LIMIT 20 FOR UPDATE", time).await,
        };
        storm.note_if(name, &happened);
        if fault < 2 {
            // Without a server there is no run.
            happened?;
        }
    }
    Ok(())
}

/// With the processes of its sessions.
async fn stand_still<S: DatabaseServer>(server: &S, time: Duration) -> Result<()> {
    let pids: Vec<u32> = server.pid().into_iter().flat_map(|pid| [vec![pid], descendants(pid)].concat()).collect();
    ensure!(!pids.is_empty(), "no process of the server is known");
    pids.iter().for_each(|pid| signal(*pid, Signal::STOP));
    tokio::time::sleep(time).await;
    pids.iter().for_each(|pid| signal(*pid, Signal::CONT));
    Ok(())
}

/// Each statement takes many times longer.
async fn crawl<S: DatabaseServer>(server: &S, time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        stand_still(server, SLOW.0).await?;
        tokio::time::sleep(SLOW.1).await;
    }
    Ok(())
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal); // a backend may have ended meanwhile
    }
}

fn terminate_sessions<S: DatabaseServer>(server: &S) -> Result<()> {
    let list = match S::KIND {
        orchestratum_testbed::Kind::Postgres => {
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'chaos' AND random() < 0.5"
        }
        orchestratum_testbed::Kind::MariaDb => {
            "SELECT id FROM information_schema.processlist WHERE db = 'chaos' AND rand() < 0.5"
        }
    };
    let answer = block_in_place(|| server.query(S::ADMIN_DATABASE, list))?;
    ensure!(!answer.trim().is_empty(), "no session was ended");
    if S::KIND == orchestratum_testbed::Kind::MariaDb {
        for id in answer.split_whitespace() {
            let _ = block_in_place(|| server.query(S::ADMIN_DATABASE, &format!("KILL {id}"))); // it may have gone by itself
        }
    }
    Ok(())
}

async fn connect(url: &str) -> Result<sea_orm::DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).acquire_timeout(Duration::from_secs(3)).connect_timeout(Duration::from_secs(3));
    Ok(sea_orm::Database::connect(options).await?)
}

/// Who gets no more than these has used up nothing: the server was away.
const FEW: usize = 10;

async fn use_up_connections(url: &str, time: Duration) -> Result<()> {
    let mut connections = Vec::new();
    while let Ok(connection) = connect(url).await {
        connections.push(connection);
        if connections.len() > 200 {
            break;
        }
    }
    ensure!(connections.len() >= FEW, "the server is away, or has no more than {} for us", connections.len());
    tokio::time::sleep(time).await;
    Ok(())
}

/// Runs a query in a transaction that stays open for a while, with a snapshot of the beginning, and is rolled back. Where
/// everything runs at once it looks again until there is something, and nobody else has changed it.
async fn hold(url: &str, sql: &str, time: Duration) -> Result<()> {
    let level = Some(IsolationLevel::RepeatableRead);
    let (connection, until) = (connect(url).await?, Instant::now() + Duration::from_secs(3));
    loop {
        let transaction = connection.begin_with_config(level, None).await?;
        let query = Statement::from_string(transaction.get_database_backend(), sql);
        let is_held = transaction.query_all_raw(query).await.is_ok_and(|rows| !rows.is_empty());
        tokio::time::sleep(if is_held { time } else { Duration::from_millis(10) }).await;
        transaction.rollback().await?;
        if is_held {
            return Ok(());
        }
        ensure!(Instant::now() < until, "there is nothing to hold");
    }
}
