use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
#[request(retry_count = 5)]
struct Unknown;

#[derive(Serialize, Deserialize, Request)]
#[request(retries = -1)]
struct Negative;

#[derive(Serialize, Deserialize, Request)]
#[request(name = "")]
struct Empty;

#[derive(Serialize, Deserialize, Request)]
#[request(queue = "mail", queue = "paper")]
struct Twice;

#[derive(StreamRequest)]
struct NoItem;

fn main() {}
