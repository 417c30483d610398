//! A disk that is full for a while.

use std::time::Duration;

use anyhow::Result;
use orchestratum_testbed::DatabaseServer;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::Storm;
use crate::disk::SmallDisk;

/// As the ledger has it.
pub(crate) const FULL: &str = "full disk";
const FILLS: Duration = Duration::from_secs(12);
/// Between two looks at the server.
const LOOKS: Duration = Duration::from_secs(1);

/// The file of an embedded database is on it.
pub(crate) async fn rage(mut storm: Storm, disk: &SmallDisk) -> Result<()> {
    while storm.lull(FILLS).await {
        fill(&mut storm, disk).await?;
    }
    Ok(())
}

/// The server's data are on it. PostgreSQL gives up when it cannot write its log, and somebody must start it again;
/// MariaDB waits.
pub(crate) async fn rage_below<S: DatabaseServer>(mut storm: Storm, disk: &SmallDisk, server: &mut S) -> Result<()> {
    let mut next_fill = Instant::now() + FILLS;
    while storm.lull(LOOKS).await {
        if next_fill <= Instant::now() {
            fill(&mut storm, disk).await?;
            next_fill = Instant::now() + FILLS;
        }
        start_if_down(&storm, server)?;
    }
    // It may give up some moments after a full disk.
    tokio::time::sleep(LOOKS).await;
    start_if_down(&storm, server)
}

fn start_if_down<S: DatabaseServer>(storm: &Storm, server: &mut S) -> Result<()> {
    if !block_in_place(|| server.is_running())? {
        block_in_place(|| server.start_again())?;
        storm.note("server that had given up");
    }
    Ok(())
}

async fn fill(storm: &mut Storm, disk: &SmallDisk) -> Result<()> {
    block_in_place(|| disk.fill())?;
    storm.note(FULL);
    tokio::time::sleep(storm.millis(500..6_000)).await;
    disk.free()
}
