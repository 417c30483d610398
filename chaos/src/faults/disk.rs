//! A disk that is full for a while.

use std::time::Duration;

use anyhow::Result;
use orchestratum_testbed::DatabaseServer;
use tokio::task::block_in_place;

use super::Storm;
use crate::disk::SmallDisk;

const FILLS: Duration = Duration::from_secs(12);

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
    while storm.lull(FILLS).await {
        fill(&mut storm, disk).await?;
        if !block_in_place(|| server.is_running())? {
            storm.note("the server had given up");
            block_in_place(|| server.start_again())?;
        }
    }
    Ok(())
}

async fn fill(storm: &mut Storm, disk: &SmallDisk) -> Result<()> {
    storm.note("the disk was full");
    block_in_place(|| disk.fill())?;
    tokio::time::sleep(storm.millis(500..6_000)).await;
    disk.free()
}
