use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
#[request(timeout = "10 minutes")]
struct Words;

#[derive(Serialize, Deserialize, Request)]
#[request(timeout = "0s")]
struct Nothing;

#[derive(Serialize, Deserialize, Request)]
#[request(timeout = 10)]
struct Number;

fn main() {}
