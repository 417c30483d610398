//! The mediator on a temporary SQLite file: everything that a program does with it, from the outside.
//!
//! All handlers of this binary register themselves in every test that calls `.mediator()`, as in a real program.

#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

mod app;
mod behaviors;
mod durable;
mod elsewhere;
mod follow_ups;
mod generic;
mod log;
mod publish;
mod send;
mod start;
mod streams;
