//! Lines to and from the runner.

use std::io::Write as _;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin};

/// Says a line.
pub(crate) fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    // Without a runner there is nobody to tell.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

/// What the runner says.
pub(crate) struct Runner {
    lines: Lines<BufReader<Stdin>>,
}

impl Runner {
    pub(crate) fn listen() -> Self {
        Self { lines: BufReader::new(tokio::io::stdin()).lines() }
    }

    /// Says that everything is prepared, and waits for `go`.
    pub(crate) async fn ready(&mut self, version: &str) {
        say(&json!({ "ready": true, "version": version }));
        self.next().await;
    }

    /// The next word; `stop` when the runner is gone.
    pub(crate) async fn next(&mut self) -> String {
        self.lines.next_line().await.ok().flatten().unwrap_or_else(|| "stop".to_owned())
    }
}
