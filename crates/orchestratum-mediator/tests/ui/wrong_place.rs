use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

#[handler]
struct Pinger;

#[handler]
impl Pinger {}

#[notification_handler]
impl Handler<Ping> for Pinger {
    async fn handle(&self, _: Ping, _: Context) -> anyhow::Result<()> {
        Ok(())
    }
}

#[stream_handler]
async fn ping(_: Ping) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
