use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

#[derive(Serialize, Deserialize, Request)]
#[request(response = String)]
struct Greet;

#[handler]
async fn ping(_: Ping) {}

#[handler]
async fn greet(_: Greet) -> anyhow::Result<u32> {
    Ok(1)
}

#[derive(Clone, Notification)]
struct Happened;

#[notification_handler]
async fn happened(_: Happened) -> bool {
    true
}

fn main() {}
