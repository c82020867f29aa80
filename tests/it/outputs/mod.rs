//! Outputs, through the binary: nothing that others wrote is ever touched, what was killed is finished by the same
//! command, and of three at once one works.

mod at_once;
pub(crate) mod commands;
mod earlier;
mod full;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod killed;
mod strangers;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod traced;
