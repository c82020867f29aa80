//! `prune eval` against lm-evaluation-harness's own numbers, and what it does when it is killed or given nonsense.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "eval/again.rs"]
mod again;
#[path = "eval/data.rs"]
mod data;
mod fixture;
#[path = "eval/goldens.rs"]
mod goldens;
#[path = "eval/killed.rs"]
mod killed;
#[path = "eval/requests.rs"]
mod requests;
#[path = "checkpoint/server.rs"]
#[allow(dead_code, reason = "another test needs the rest of it")]
mod server;
#[path = "eval/shared.rs"]
mod shared;
