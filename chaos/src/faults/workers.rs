//! Processes that die, stop, pause, get no memory, and come back.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Storm;
use crate::fleet::Fleet;

const KILLS: Duration = Duration::from_millis(1_600);
const PAUSES: Duration = Duration::from_secs(10);
const DEPLOYS: Duration = Duration::from_secs(12);
const JUMPS: Duration = Duration::from_secs(5);
const STARVATIONS: Duration = Duration::from_secs(10);

pub(crate) async fn rage(mut storm: Storm, fleet: &Mutex<Fleet>) -> Result<()> {
    let mut next =
        [KILLS, PAUSES, DEPLOYS, JUMPS, STARVATIONS].map(|interval| Instant::now() + storm.between(interval));
    while storm.lull(Duration::from_millis(100)).await {
        let mut fleet = fleet.lock().await;
        fleet.tend()?;
        let now = Instant::now();
        let mut is_time = |index: usize, interval: Duration| {
            let is_time = next[index] <= now;
            if is_time {
                next[index] = now + storm.between(interval).mul_f64(0.5 + storm.random.f64());
            }
            is_time
        };
        if is_time(0, KILLS) {
            fleet.kill()?;
        }
        if is_time(1, PAUSES) {
            fleet.pause()?;
        }
        if is_time(2, DEPLOYS) {
            fleet.terminate()?;
        }
        if is_time(3, JUMPS) {
            fleet.jump()?;
        }
        if is_time(4, STARVATIONS) {
            fleet.starve()?;
        }
    }
    Ok(())
}

/// Nothing but replacing those that end by themselves.
pub(crate) async fn calm(mut storm: Storm, fleet: &Mutex<Fleet>) -> Result<()> {
    while storm.lull(Duration::from_millis(100)).await {
        fleet.lock().await.tend()?;
    }
    Ok(())
}
