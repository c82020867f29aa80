//! Where tensors live.

use candle_core::Device;

use crate::{Error, Result};

/// The device that `choice` names: `auto` or `cpu`.
///
/// # Errors
/// A name that this build does not know.
pub fn device(choice: &str) -> Result<Device> {
    match choice {
        "auto" | "cpu" => Ok(Device::Cpu),
        "cuda" => Err(Error::request("cuda: this build has no CUDA kernels; use --device cpu")),
        other => Err(Error::request(format!("{other}: expected auto or cpu"))),
    }
}
