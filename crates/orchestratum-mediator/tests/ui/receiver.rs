use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

struct Pinger;

impl Pinger {
    #[handler]
    async fn ping(&self, _: Ping) -> anyhow::Result<()> {
        Ok(())
    }
}

fn main() {}
