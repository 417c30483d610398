//! Connections that are cut, go dead, stall and crawl.

use std::time::Duration;

use anyhow::Result;

use super::Storm;
use crate::proxy::{Proxy, Weather};

pub(crate) async fn rage(mut storm: Storm, proxy: &Proxy) -> Result<()> {
    while storm.lull(storm.between(Duration::from_secs(6))).await {
        match storm.random.u8(..4) {
            0 => {
                storm.note("connections were cut");
                proxy.cut();
            }
            1 => {
                storm.note("connections went dead without a word");
                proxy.half_open();
                let time = storm.millis(0..20_000);
                let dead = proxy.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    dead.cut();
                });
            }
            2 => {
                storm.note("the network stood still");
                proxy.weather(Weather::Still);
                tokio::time::sleep(storm.millis(500..6_000)).await;
                proxy.weather(Weather::Fair);
            }
            _ => {
                storm.note("the network was slow");
                proxy.weather(Weather::Slow(storm.millis(20..300)));
                tokio::time::sleep(storm.millis(1_000..4_000)).await;
                proxy.weather(Weather::Fair);
            }
        }
    }
    proxy.weather(Weather::Fair);
    proxy.cut();
    Ok(())
}
