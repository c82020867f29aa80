//! Root mean square norm (arXiv 1910.07467).

use candle_core::{D, Tensor};

use crate::Result;

/// x / sqrt(mean(x²) + eps) · weight over the last dimension: `x` is `[.., d]`, `weight` `[d]`, both f32.
/// Gradients for both.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let x = x.broadcast_div(&(square + eps)?.sqrt()?)?;
    Ok(x.broadcast_mul(weight)?)
}
