//! A primary that dies for good, and its standby that takes over.

use std::time::Duration;

use anyhow::Result;
use tokio::task::block_in_place;

use super::Storm;
use crate::database::Pair;

/// As the ledger has it.
pub(crate) const PROMOTION: &str = "promotion of the standby";
const PROMOTIONS: Duration = Duration::from_secs(20);

pub(crate) async fn rage(mut storm: Storm, pair: &mut Pair) -> Result<()> {
    while storm.lull(PROMOTIONS).await {
        block_in_place(|| pair.lose_primary())?;
        tokio::time::sleep(storm.millis(0..3_000)).await;
        block_in_place(|| pair.promote())?;
        storm.note(PROMOTION);
        // Until it follows, commits on the new primary wait.
        block_in_place(|| pair.add_standby())?;
    }
    Ok(())
}
