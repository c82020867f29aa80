//! Files that others wrote, broken in every way: whatever a file says, the library reads it or says in a line what is
//! wrong with it. See `tests/README.md`.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "fixture/mod.rs"]
mod fixture;
#[cfg(target_os = "linux")]
#[path = "fuzz/mod.rs"]
mod fuzz;
