use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

struct Pinger;

#[handler]
impl Handler<Ping> for Pinger {
    async fn handle(&self, _: Ping, _: Context) -> anyhow::Result<()> {
        Ok(())
    }
}

#[derive(FromServices)]
struct Counter {
    count: u32,
}

fn main() {}
