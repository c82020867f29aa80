//! Sums of a residual stream and what a block adds to it, or of rows and a bias.

use candle_core::Tensor;

use super::cuda::{self, Arg, Grid};
use crate::{Error, Result};

/// x + y in the type of `x`: `[t, d]`, and `y` as large, or `[d]`, a row for all.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let fits = x.dims() == y.dims() || (x.rank() == 2 && y.dims() == &x.dims()[1..]);
    if !fits {
        return Err(Error::work(format!("add: {:?} and {:?}", x.shape(), y.shape())));
    }
    if !x.device().is_cuda() {
        return Ok(if x.rank() == y.rank() { (x + y)? } else { x.broadcast_add(y)? });
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let kernel = cuda::named("add", &[x.dtype(), y.dtype()]);
    let (n, sizes) = (x.elem_count(), [Arg::Size(x.elem_count()), Arg::Size(y.elem_count())]);
    // SAFETY: the kernel for these types reads n numbers and those of y again and again, and writes all n of the sum
    unsafe {
        let sum = cuda::empty(x.shape(), x.dtype(), x.device())?;
        cuda::launch(&kernel, Grid::over_eights(n), &[&[&x, &y, &sum].map(Arg::Tensor)[..], &sizes].concat())?;
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, random};

    #[test]
    fn a_row_is_added_to_all_and_other_shapes_are_refused() {
        let (x, y, row) = (random(1, 3, 5), random(2, 3, 5), random(3, 1, 5).flatten_all().unwrap());
        assert_close("sum", &add(&x, &y).unwrap(), &(&x + &y).unwrap(), 0.0);
        assert_close("row", &add(&x, &row).unwrap(), &x.broadcast_add(&row).unwrap(), 0.0);
        assert!(add(&x, &random(1, 5, 3)).is_err() && add(&row, &x).is_err() && add(&x, &random(1, 1, 5)).is_err());
    }
}
