//! A server that dies, restarts, stalls and is used up, and sessions that are in the way.

use std::time::Duration;

use anyhow::Result;
use orchestratum_testbed::{DatabaseServer, descendants};
use rustix::process::{Pid, Signal, kill_process};
use sea_orm::{ConnectOptions, ConnectionTrait as _, TransactionTrait as _};
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::Storm;

/// As the ledger has it.
pub(crate) const KILL: &str = "kill -9 of the server";
const KILLS: Duration = Duration::from_secs(20);

pub(crate) async fn rage<S: DatabaseServer>(mut storm: Storm, server: &mut S, url: &str) -> Result<()> {
    let mut next_kill = Instant::now() + storm.between(KILLS) / 2;
    while storm.lull(storm.between(Duration::from_secs(4))).await {
        if next_kill <= Instant::now() {
            next_kill = Instant::now() + storm.between(KILLS);
            storm.note(KILL);
            block_in_place(|| server.kill())?;
            tokio::time::sleep(storm.millis(0..4_000)).await;
            block_in_place(|| server.start_again())?;
            continue;
        }
        // A session of ours may meet the other faults, too.
        let fault = storm.random.u8(..8);
        let time = storm.millis(500..4_000);
        let _ = match fault {
            0 => {
                storm.note("an immediate stop of the server");
                block_in_place(|| server.stop_immediate())?;
                block_in_place(|| server.start_again())?;
                Ok(())
            }
            1 => {
                storm.note("a restart of the server");
                block_in_place(|| server.restart())?;
                Ok(())
            }
            2 => {
                storm.note("the server stood still");
                let time = storm.millis(500..7_000);
                let pids: Vec<u32> =
                    server.pid().into_iter().flat_map(|pid| [vec![pid], descendants(pid)].concat()).collect();
                pids.iter().for_each(|pid| signal(*pid, Signal::STOP));
                tokio::time::sleep(time).await;
                pids.iter().for_each(|pid| signal(*pid, Signal::CONT));
                Ok(())
            }
            3 => {
                storm.note("sessions were terminated");
                terminate_sessions(server)
            }
            4 => {
                storm.note("connections were used up");
                use_up_connections(url, time).await
            }
            5 => {
                storm.note("a long transaction was open");
                hold(url, "SELECT count(*) FROM orchestratum_live", time).await
            }
            _ => {
                storm.note("rows of commands were locked");
                hold(url, "SELECT id FROM orchestratum_live ORDER BY id LIMIT 20 FOR UPDATE", time).await
            }
        };
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

async fn use_up_connections(url: &str, time: Duration) -> Result<()> {
    let mut connections = Vec::new();
    while let Ok(connection) = connect(url).await {
        connections.push(connection);
        if connections.len() > 200 {
            break;
        }
    }
    tokio::time::sleep(time).await;
    Ok(())
}

/// Runs a statement in a transaction that stays open for a while and is rolled back.
async fn hold(url: &str, sql: &str, time: Duration) -> Result<()> {
    let transaction = connect(url).await?.begin().await?;
    transaction.execute_unprepared(sql).await?;
    tokio::time::sleep(time).await;
    transaction.rollback().await?;
    Ok(())
}
