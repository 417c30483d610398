//! Connections that are cut, go dead, stall and crawl, and cables pulled out: those of all processes, or of one.

use std::time::Duration;

use anyhow::Result;
use tokio::task::{JoinSet, block_in_place};

use super::{Deck, Storm};
use crate::cable::Cable;
use crate::proxy::{Proxy, Weather, Wires};

/// As the ledger has it. It takes networks of their own for the processes.
pub(crate) const PULLED: &str = "cable pulled out";
/// As the ledger has them.
pub(crate) const KINDS: [&str; 7] = [
    "cut of connections",
    "loss of connections without a word",
    "network that stood still",
    "slow network",
    "loss of answers",
    "loss of connections for longer than anyone waits",
    PULLED,
];

pub(crate) async fn rage(mut storm: Storm, wires: &Wires) -> Result<()> {
    let mut deck = Deck::new(&KINDS);
    // Ended with the set: behind it all is cut.
    let mut later = JoinSet::new();
    while storm.lull(storm.between(Duration::from_secs(6))).await {
        let (wires, whose) =
            if storm.random.bool() { (wires.all(), "all") } else { (wires.draw(&mut storm.random), "one process") };
        let (fault, name) = deck.draw(&mut storm.random);
        match fault {
            0 => wires.iter().for_each(Proxy::cut),
            1 => {
                wires.iter().for_each(Proxy::half_open);
                later.spawn(cut_later(wires.to_vec(), storm.millis(0..20_000)));
            }
            2 => {
                let time = storm.millis(500..12_000);
                weather(wires, Weather::Still, time).await;
            }
            3 => {
                let (delay, time) = (storm.millis(20..300), storm.millis(1_000..4_000));
                weather(wires, Weather::Slow(delay), time).await;
            }
            4 => {
                // What is asked for meanwhile is done, and nobody hears of it.
                wires.iter().for_each(Proxy::silence);
                later.spawn(cut_later(wires.to_vec(), storm.millis(100..8_000)));
            }
            5 => {
                let time = storm.millis(32_000..40_000);
                // Nothing else may cut them before.
                while later.join_next().await.is_some() {}
                wires.iter().for_each(Proxy::half_open);
                tokio::time::sleep(time).await;
                wires.iter().for_each(Proxy::cut);
            }
            _ => {
                let time = storm.millis(500..12_000);
                if !pulled_out(wires, time).await? {
                    continue;
                }
            }
        }
        storm.note(name);
        storm.note(&format!("trouble of the network for {whose}"));
    }
    later.shutdown().await;
    wires.all().iter().for_each(Proxy::cut);
    Ok(())
}

/// `false` where there are no cables.
async fn pulled_out(wires: &[Proxy], time: Duration) -> Result<bool> {
    let cables: Vec<&Cable> = wires.iter().filter_map(Proxy::cable).collect();
    block_in_place(|| cables.iter().try_for_each(|cable| cable.pull_out()))?;
    if !cables.is_empty() {
        tokio::time::sleep(time).await;
    }
    block_in_place(|| cables.iter().try_for_each(|cable| cable.plug_in()))?;
    Ok(!cables.is_empty())
}

async fn cut_later(wires: Vec<Proxy>, time: Duration) {
    tokio::time::sleep(time).await;
    wires.iter().for_each(Proxy::cut);
}

async fn weather(wires: &[Proxy], bad: Weather, time: Duration) {
    wires.iter().for_each(|wire| wire.weather(bad));
    tokio::time::sleep(time).await;
    wires.iter().for_each(|wire| wire.weather(Weather::Fair));
}
