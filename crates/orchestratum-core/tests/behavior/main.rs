//! What an orchestrator promises, on every backend.
#![allow(clippy::unwrap_used, reason = "a case that cannot go on says where")]

mod append;
mod attempts;
mod cancel;
mod complete_in;
mod damaged;
mod follow_ups;
mod harness;
mod hostile;
mod inspect;
mod leases;
mod queues;
mod rows;
mod schema;
mod shutdown;
