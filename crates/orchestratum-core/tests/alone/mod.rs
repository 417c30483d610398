//! What the programs share whose case needs a process of its own.

use orchestratum_core::{Context, Orchestrator};
use tempfile::TempDir;

/// On a file of its own, with a key `k` whose handler does nothing, and `fail`.
pub(crate) async fn orchestrator(folder: &TempDir) -> Orchestrator {
    Orchestrator::builder()
        .database(format!("sqlite://{}?mode=rwc", folder.path().join("app.db").display()))
        .migrate()
        .executor("k", |(): (), _: Context| async move { Ok(()) })
        .executor("fail", |(): (), _: Context| async move { Err::<(), _>(anyhow::anyhow!("as ordered")) })
        .build()
        .await
        .unwrap()
}
