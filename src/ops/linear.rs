//! Products with a weight matrix, x·Wᵀ.

use candle_core::{DType, Tensor};

use crate::Result;

/// x·Wᵀ with a frozen weight: `x` is `[t, i]` f32, `weight` is `[o, i]` f32, bf16 or f16, the product `[t, o]` f32.
/// Only `x` receives a gradient.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    trainable_linear(x, &weight.detach())
}

/// x·Wᵀ with gradients for both: `x` is `[t, i]`, `weight` is `[o, i]`, both f32 where the weight is trained.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn trainable_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let weight = weight.to_dtype(DType::F32)?;
    Ok(x.matmul(&weight.t()?)?)
}
