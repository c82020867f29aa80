//! Outputs, through the binary: nothing that others wrote is ever touched, what was killed is finished by the same
//! command, and of three at once one works.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails where it unwraps, and says what it did")]
mod fixture;

#[path = "outputs/at_once.rs"]
mod at_once;
#[path = "outputs/commands.rs"]
mod commands;
#[path = "outputs/earlier.rs"]
mod earlier;
#[path = "outputs/full.rs"]
mod full;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "outputs/killed.rs"]
mod killed;
#[path = "outputs/strangers.rs"]
mod strangers;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[path = "outputs/traced.rs"]
mod traced;
