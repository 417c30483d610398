use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

struct EmailService;

#[handler]
async fn ping(_: &Ping, _: &EmailService) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
