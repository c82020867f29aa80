//! The gate of a gated MLP (arXiv 2002.05202).

use candle_core::Tensor;

use crate::Result;

/// silu(gate) · up, element by element; both `[t, f]` f32. Gradients for both.
///
/// # Errors
/// Shapes that differ, or a device without this kernel.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok((gate.silu()? * up)?)
}
