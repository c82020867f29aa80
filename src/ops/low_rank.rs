//! The narrow products of a low-rank adapter.

use candle_core::{DType, Tensor};

use super::cuda::{self, plain, turned};
use super::linear::Dense;
use super::matmul::{product, product_back};
use super::rows::{Rows, filled, with_rows};
use crate::{Error, Result};

/// x·Aᵀ: `x` is `[t, i]`, `a` `[r, i]`, the product `[t, r]`, all f32.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn low_rank_down(x: &Tensor, a: &Tensor) -> Result<Tensor> {
    run(x, a, Narrow::Down)
}

/// x·B: `x` is `[t, o]`, `b` `[o, r]`, the product `[t, r]`, all f32.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn low_rank_up(x: &Tensor, b: &Tensor) -> Result<Tensor> {
    run(x, b, Narrow::Up)
}

/// aᵀ·b: `a` is `[t, m]`, `b` `[t, n]`, the product `[m, n]`, all f32: the gradient of a factor.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn outer(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    run(a, b, Narrow::Outer)
}

fn run(a: &Tensor, b: &Tensor, op: Narrow) -> Result<Tensor> {
    let ((rows, columns), (other_rows, other_columns)) = (a.dims2()?, b.dims2()?);
    let fits = match op {
        Narrow::Down => columns == other_columns,
        Narrow::Up => columns == other_rows,
        Narrow::Outer => rows == other_rows,
    };
    if !fits {
        return Err(Error::work(format!("low_rank: {:?} and {:?}", a.shape(), b.shape())));
    }
    if a.device().is_cuda() {
        return match op {
            Narrow::Down => cuda::product(plain(a), turned(b), cuda::products(a.device())),
            Narrow::Up => cuda::product(plain(a), plain(b), cuda::products(a.device())),
            Narrow::Outer => cuda::product(turned(a), plain(b), DType::F32),
        };
    }
    if matches!(op, Narrow::Outer) && columns > other_columns {
        // long rows fill vectors that short ones leave half empty
        return Ok(run(b, a, op)?.t()?.contiguous()?);
    }
    let shape = match op {
        Narrow::Down => (rows, other_rows),
        Narrow::Up => (rows, other_columns),
        Narrow::Outer => (columns, other_columns),
    };
    let product = with_rows("low_rank", [a, b], |[a, b]| Ok(op.product(a, b, shape)))?;
    Ok(Tensor::from_vec(product, shape, a.device())?)
}

#[derive(Clone, Copy)]
enum Narrow {
    /// a·bᵀ.
    Down,
    /// a·b.
    Up,
    /// aᵀ·b.
    Outer,
}

impl Narrow {
    fn product(self, a: Rows, b: Rows, (rows, columns): (usize, usize)) -> Vec<f32> {
        let (a, weight) = (a.matrix(), Dense::of_rows(b.matrix()));
        filled(rows, columns, |out| match self {
            Self::Down => product(a, &weight, None, out),
            Self::Up => product_back(a, &weight, None, out, false),
            Self::Outer => product_back(a.transposed(), &weight, None, out, false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, random};

    #[test]
    fn agree_with_the_products() {
        for (t, m, n) in [(1, 1, 1), (3, 8, 70), (70, 300, 8), (600, 8, 200), (513, 129, 16)] {
            let (x, a, b, y) = (random(1, t, m), random(2, n, m), random(3, m, n), random(4, t, n));
            let product = |a: &Tensor, b: &Tensor| a.matmul(b).unwrap();
            assert_close("down", &low_rank_down(&x, &a).unwrap(), &product(&x, &a.t().unwrap()), 2e-5);
            assert_close("up", &low_rank_up(&as_view(&x), &b).unwrap(), &product(&x, &b), 2e-5);
            assert_close("outer", &outer(&x, &as_view(&y)).unwrap(), &product(&x.t().unwrap(), &y), 2e-5);
        }
        assert!(outer(&random(1, 2, 3), &random(1, 3, 3)).is_err());
        // sums of nothing are nothing, not what lay there
        let none = |rows, columns| Tensor::zeros((rows, columns), DType::F32, &candle_core::Device::Cpu).unwrap();
        for t in [3, 70] {
            assert_close("down", &low_rank_down(&none(t, 0), &none(90, 0)).unwrap(), &none(t, 90), 0.0);
            assert_close("up", &low_rank_up(&none(t, 0), &none(0, 90)).unwrap(), &none(t, 90), 0.0);
            assert_close("outer", &outer(&none(0, t), &none(0, 90)).unwrap(), &none(t, 90), 0.0);
        }
        let (x, y) = (random(1, 600, 100), random(2, 600, 8));
        assert_same_on_any_threads(|| vec![outer(&x, &y).unwrap(), outer(&y, &x).unwrap()]);
    }
}
