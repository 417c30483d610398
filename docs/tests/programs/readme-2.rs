//! Rust block 2 of the README, as it stands there.
#![allow(clippy::print_stdout, clippy::wildcard_imports, dead_code, reason = "an example speaks to its reader")]

include!(concat!(env!("OUT_DIR"), "/readme-2.rs"));
