use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

#[handler]
async fn nothing() -> anyhow::Result<()> {
    Ok(())
}

#[handler]
async fn context_first(_: Context) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
