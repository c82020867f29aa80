//! One tensor of a layer as numbers, without a model around it.

use candle_core::{DType, Device, Tensor};

use crate::Result;
use crate::arch::LayerTensor;
use crate::checkpoint::Checkpoint;
use crate::weights::four_bit;

/// The numbers of `tensor` in f32 in main memory, four-bit ones decoded.
///
/// # Errors
/// It is missing, has another shape or cannot be read.
pub fn parameter(checkpoint: &Checkpoint, tensor: &LayerTensor) -> Result<Tensor> {
    match tensor.shape.len() {
        2 => four_bit::load_matrix(checkpoint, &tensor.name, &tensor.shape)?.dense(DType::F32, &Device::Cpu),
        _ => checkpoint.load_f32(&tensor.name, &tensor.shape, &Device::Cpu),
    }
}
