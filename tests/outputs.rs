//! Outputs, through the binary: nothing that others wrote is ever touched, what was killed is finished by the same
//! command, and of three at once one works.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails where it unwraps, and says what it skips")]
mod fixture;

#[path = "outputs/at_once.rs"]
mod at_once;
#[path = "outputs/commands.rs"]
mod commands;
#[path = "outputs/killed.rs"]
mod killed;
#[path = "outputs/strangers.rs"]
mod strangers;
