use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Nameless;

#[derive(Serialize, Deserialize, Request)]
struct Wrap<T> {
    inner: T,
}

async fn append(orchestrator: &Orchestrator) {
    let _ = orchestrator.append(Wrap { inner: Nameless }).await;
}

fn main() {}
