//! A residual stream between the forward pass and its backward pass: what it is held in, and where.

use candle_core::{DType, Device, Tensor};

use super::cuda;
use crate::Result;

/// `x`, f32, to come back to: on a GPU in the type that its products take, in main memory if `on_host`.
///
/// # Errors
/// The device's.
pub(crate) fn save_activation(x: &Tensor, on_host: bool) -> Result<Tensor> {
    if !x.device().is_cuda() {
        return Ok(x.clone());
    }
    let x = cuda::operand(x)?;
    if on_host { Ok(x.to_device(&Device::Cpu)?) } else { Ok(x) }
}

/// The numbers of a saved activation that is on its device, or of some rows of it, in f32.
///
/// # Errors
/// The device's.
pub(crate) fn restore_activation(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() { cuda::in_type(x, DType::F32) } else { Ok(x.clone()) }
}

/// Bytes of a number of a saved activation on `device`.
#[must_use]
pub(crate) fn activation_bytes(device: &Device) -> u64 {
    if device.is_cuda() { cuda::products(device).size_in_bytes() as u64 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    #[test]
    fn in_main_memory_nothing_is_rounded() {
        let x = random(1, 30, 7);
        for on_host in [false, true] {
            let found = restore_activation(&save_activation(&x, on_host).unwrap()).unwrap();
            assert_close("stream", &found, &x, 0.0);
        }
        assert_eq!(activation_bytes(&Device::Cpu), 4);
    }
}
