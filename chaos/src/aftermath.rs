//! When the faults are over: whether everyone goes on, and everything ends.

use std::time::Duration;

use anyhow::{Result, bail};
use sea_orm::ConnectionTrait as _;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::fleet::Fleet;

/// Within this time a worker that has come through a storm runs something again: its loops wait for up to five seconds
/// after an error, and a new one has a lease of five to wait for.
const RECOVERY: Duration = Duration::from_secs(20);
/// Without an end for so long, something waits that could run: what a lost answer has leased is looked for once more after
/// five minutes, when the server has given up on any connection.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(330);

/// Lets those that have come through the storm be, until each worker has begun to run something. Returns those that do
/// not: one whose loop has ended would not be missed when others drain the queue.
pub(crate) async fn all_go_on(fleet: &Mutex<Fleet>) -> Result<Vec<String>> {
    fleet.lock().await.watch()?;
    loop {
        sleep(Duration::from_millis(200)).await;
        let mut fleet = fleet.lock().await;
        fleet.tend()?;
        let idle = fleet.idle();
        if idle.is_empty() || idle.iter().any(|(_, since)| *since > RECOVERY) {
            return Ok(idle.into_iter().map(|(name, since)| format!("{name} has run nothing for {since:?}")).collect());
        }
    }
}

/// Waits until everything has ended, and says how long that took; `None` when nothing ends any more.
pub(crate) async fn drain(url: &str) -> Result<Option<Duration>> {
    let begun = Instant::now();
    let connection = sea_orm::Database::connect(url).await?;
    let (mut least, mut since) = (i64::MAX, Instant::now());
    loop {
        let sql = "SELECT count(*) FROM orchestratum_live";
        let statement = sea_orm::Statement::from_string(connection.get_database_backend(), sql);
        let Some(row) = connection.query_one_raw(statement).await? else { bail!("no answer to {sql}") };
        let left: i64 = row.try_get_by_index(0)?;
        if left == 0 {
            return Ok(Some(begun.elapsed()));
        }
        if left < least {
            (least, since) = (left, Instant::now());
        } else if since.elapsed() > STANDSTILL {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
