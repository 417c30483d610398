//! Handlers that register themselves from a crate that the tests link and otherwise do not use.

use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

/// Handled here.
#[derive(Debug, Serialize, Deserialize, Request)]
#[request(response = String)]
pub struct Elsewhere {
    /// Comes back.
    pub word: String,
}

#[handler]
async fn elsewhere(request: Elsewhere) -> anyhow::Result<String> {
    Ok(request.word)
}
