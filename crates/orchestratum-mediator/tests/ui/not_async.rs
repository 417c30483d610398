use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

#[handler]
fn ping(_: Ping) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
