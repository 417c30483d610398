use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Request)]
struct Ping;

#[derive(Serialize, Deserialize, Request)]
struct Wrap<T> {
    inner: T,
}

#[handler]
async fn wrap<T: Named + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static>(
    _: Wrap<T>,
) -> anyhow::Result<()> {
    Ok(())
}

#[handler(Ping)]
async fn ping(_: Ping) -> anyhow::Result<()> {
    Ok(())
}

fn main() {}
