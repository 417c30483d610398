//! What every command of every program carries.

use serde::{Deserialize, Serialize};

/// About a hundred bytes of JSON, with the command's number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payload {
    /// The command's number.
    pub i: u64,
    kind: String,
    to: String,
    note: String,
}

impl Payload {
    /// The payload of one command.
    #[must_use]
    pub fn new(i: u64) -> Self {
        Self {
            i,
            kind: "noop".to_owned(),
            to: "somebody@example.org".to_owned(),
            note: "abcdefghijklmnopqrstuvwxyz0123456789".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_has_about_a_hundred_bytes() {
        let bytes = serde_json::to_string(&Payload::new(123_456)).unwrap().len();
        assert!((95..=105).contains(&bytes), "{bytes}");
    }
}
