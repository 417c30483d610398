//! One worker process.

use std::time::Duration;

use orchestratum_core::{Context, Orchestrator};
use tokio::io::AsyncReadExt;

/// Works until standard input is closed: then the process that started it wants it to end, or is gone.
pub(crate) async fn run(url: &str, queue: &str, name: &str) -> anyhow::Result<()> {
    let output = name.to_owned();
    let orchestrator = Orchestrator::builder()
        .database(url)
        .instance_name(format!("{queue}/{name}"))
        .queues([queue])
        .concurrency(5)
        // How long the others wait before they take over from a worker that is gone. The default of 30 s forgives more.
        .lease_duration(Duration::from_secs(2))
        .executor("work", move |_: u32, _: Context| {
            let output = output.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok(output)
            }
        })
        .build()
        .await?;
    let worker = orchestrator.start();
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    worker.shutdown().await?;
    Ok(())
}
