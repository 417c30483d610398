use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Borrowed<'a> {
    text: &'a str,
}

fn main() {}
