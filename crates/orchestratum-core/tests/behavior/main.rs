//! What an orchestrator promises, on every backend.

mod append;
mod attempts;
mod cancel;
mod complete_in;
mod follow_ups;
mod harness;
mod hostile;
mod inspect;
mod leases;
mod queues;
mod rows;
mod schema;
mod shutdown;
