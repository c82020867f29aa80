//! All that needs nothing but the library and its program, one module a room. They share a process and run at once:
//! none changes the environment, the directory it is in, or a limit of the process; what must is done in a process of
//! its own.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(clippy::print_stdout, reason = "how far apart numbers are, and which seed it was, is worth a line")]

mod arch;
mod bf16;
mod checkpoint;
mod cli;
mod data;
mod distill;
mod eval;
#[path = "../fixture/mod.rs"]
mod fixture;
mod gguf;
mod golden;
mod heal;
mod importance;
mod model;
#[cfg(unix)]
mod outputs;
mod repair;
mod report;
mod run;
mod run_alternating;
mod run_searches;
#[cfg(unix)]
mod shards;
mod surgery;
mod weights;
