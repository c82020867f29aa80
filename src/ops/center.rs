//! Rows without their means.

use candle_core::{D, Tensor};

use super::rows::{AllWritten, filled_rows, with_rows};
use crate::{Error, Result};

/// x - mean(x) over the last dimension of `[.., d]`, f32 on a CPU. Its gradient is the same of the gradient.
///
/// # Errors
/// A row without numbers, or the device's.
pub fn center(x: &Tensor) -> Result<Tensor> {
    let d = x.dim(D::Minus1)?;
    if d == 0 {
        return Err(Error::work(format!("center: x is {:?}", x.shape())));
    }
    if !x.device().is_cpu() {
        return Ok(x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?);
    }
    let rows = if x.rank() == 2 { x.clone() } else { x.reshape((x.elem_count() / d, d))? };
    let y = with_rows("center", [&rows], |[x]| {
        // SAFETY: all of a row is written
        let all_written = unsafe { AllWritten::promised() };
        let [y] = filled_rows(
            x.count,
            x.width,
            all_written,
            #[inline(always)]
            |row, [y]| {
                let x = x.row(row);
                let mean = super::simd::sum2(x, x, |x, _| x) / x.len() as f32;
                for (y, x) in y.iter_mut().zip(x) {
                    y.write(x - mean);
                }
            },
        );
        Ok(y)
    })?;
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};

    #[test]
    fn agrees_with_the_formula_and_is_its_own_transpose() {
        for (t, d) in [(1, 1), (5, 33), (260, 257)] {
            check(
                &[(random(1, t, d) + 3.0).unwrap()],
                |x| center(&x[0]),
                |_, dy| Ok(vec![center(dy)?]),
                |x| x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?),
                1e-6,
            );
        }
        let x = random(1, 300, 64);
        assert_close("view", &center(&as_view(&x)).unwrap(), &center(&x).unwrap(), 0.0);
        assert_same_on_any_threads(|| vec![center(&x).unwrap()]);
    }
}
