use orchestratum_mediator::prelude::*;

struct Ping;

#[handler]
async fn ping(_: Ping) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
