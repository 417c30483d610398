//! Connections that are cut, go dead, stall and crawl: those of all processes, or those of one.

use std::time::Duration;

use anyhow::Result;

use super::Storm;
use crate::proxy::{Proxy, Weather, Wires};

pub(crate) async fn rage(mut storm: Storm, wires: &Wires) -> Result<()> {
    while storm.lull(storm.between(Duration::from_secs(6))).await {
        let (wires, whose) =
            if storm.random.bool() { (wires.all(), "") } else { (wires.draw(&mut storm.random), " of one process") };
        let fault = storm.random.u8(..4);
        let what = ["cut", "dead without a word", "standing still", "slow"][usize::from(fault)];
        storm.note(&format!("connections{whose} were {what}"));
        match fault {
            0 => wires.iter().for_each(Proxy::cut),
            1 => {
                wires.iter().for_each(Proxy::half_open);
                let (time, dead) = (storm.millis(0..20_000), wires.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    dead.iter().for_each(Proxy::cut);
                });
            }
            2 => {
                let time = storm.millis(500..12_000);
                weather(wires, Weather::Still, time).await;
            }
            _ => {
                let (delay, time) = (storm.millis(20..300), storm.millis(1_000..4_000));
                weather(wires, Weather::Slow(delay), time).await;
            }
        }
    }
    wires.all().iter().for_each(Proxy::cut);
    Ok(())
}

async fn weather(wires: &[Proxy], bad: Weather, time: Duration) {
    wires.iter().for_each(|wire| wire.weather(bad));
    tokio::time::sleep(time).await;
    wires.iter().for_each(|wire| wire.weather(Weather::Fair));
}
