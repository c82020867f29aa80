//! Rotary position embedding (arXiv 2104.09864), half-split as in transformers' `rotate_half`.

use candle_core::{D, Tensor};

use crate::Result;

/// Rotates the first `rot` numbers of each head: number j and number j + rot/2 turn by the angle of their row.
/// `x` is `[t, n·e]` for any number of heads n of `head_dim` e; `cos` and `sin` are `[t, rot/2]`, rot ≤ e; all f32.
/// Gradient for `x`.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    let (t, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let x = x.reshape((t, width / head_dim, head_dim))?;
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let rotated = if head_dim == 2 * half {
        Tensor::cat(&[first, second], D::Minus1)?
    } else {
        let rest = x.narrow(2, 2 * half, head_dim - 2 * half)?;
        Tensor::cat(&[first, second, rest], D::Minus1)?
    };
    Ok(rotated.reshape((t, width))?)
}
