//! Root mean square norm (arXiv 1910.07467).

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::cuda::{self, Arg, Grid};
use super::rows::{AllWritten, Rows, filled_rows, with_rows};
use super::simd::{dot, sum2, vectorized};
use crate::{Error, Result};

/// x / sqrt(mean(x²) + eps) · weight over the last dimension: `x` is `[.., d]`, `weight` `[d]`, both f32. On a GPU the
/// result has the type of products.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let d = weight.dims1()?;
    if d == 0 || x.dims().last() != Some(&d) {
        return Err(Error::work(format!("rms_norm: x is {:?}, weight {:?}", x.shape(), weight.shape())));
    }
    let op = RmsNorm { eps: eps as f32 };
    if x.device().is_cuda() {
        return op.on_gpu(x, weight);
    }
    let rows = if x.rank() == 2 { x.clone() } else { x.reshape((x.elem_count() / d, d))? };
    let y = with_rows("rms_norm", [&rows, &weight.reshape((1, d))?], |[x, weight]| Ok(op.forward(x, weight.row(0))))?;
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

/// The gradients of [`rms_norm`]: of `x` `[t, d]` and, where `weighted`, of the weight.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
    weighted: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let d = weight.dims1()?;
    if x.dims2()? != dy.dims2()? || x.dim(1)? != d {
        return Err(Error::work(format!("rms_norm: x is {:?}, dy {:?}", x.shape(), dy.shape())));
    }
    let op = RmsNorm { eps: eps as f32 };
    if x.device().is_cuda() {
        return op.backward_on_gpu(x, weight, dy, weighted);
    }
    let (dx, dweight) = with_rows("rms_norm", [x, &weight.reshape((1, d))?, dy], |[x, weight, dy]| {
        Ok((op.backward(x, weight.row(0), dy), weighted.then(|| op.weight_gradient(x, dy))))
    })?;
    let dweight = dweight.map(|dweight| Tensor::from_vec(dweight, d, weight.device())).transpose()?;
    Ok((Tensor::from_vec(dx, x.shape(), x.device())?, dweight))
}

/// Sum over the rows of `x` `[t, d]`: the gradient of a bias.
///
/// # Errors
/// The device's.
pub fn sum_rows(x: &Tensor) -> Result<Tensor> {
    if !x.device().is_cuda() {
        return Ok(x.sum(0)?);
    }
    let (x, (rows, d)) = (cuda::in_type(x, DType::F32)?, x.dims2()?);
    // SAFETY: rows·d numbers are read, and all d sums written
    unsafe {
        let sum = cuda::empty(d, DType::F32, x.device())?;
        let args = [Arg::Tensor(&x), Arg::Tensor(&sum), Arg::Size(rows), Arg::Size(d)];
        cuda::launch("sum_rows", Grid::over(d), &args)?;
        Ok(sum)
    }
}

struct RmsNorm {
    eps: f32,
}

/// Rows whose weight gradients are summed first, whatever the number of threads.
const ROWS: usize = 64;

impl RmsNorm {
    fn on_gpu(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (x, weight, d) = (x.contiguous()?, weight.contiguous()?, weight.elem_count());
        cuda::all_are(DType::F32, &[&weight])?;
        let (dtype, grid) = (cuda::products(x.device()), Grid::rows(x.elem_count() / d, d));
        let kernel = cuda::named("rms_norm", &[x.dtype(), dtype]);
        // SAFETY: a block for each row of d numbers, as many as the weight's; it writes all of its row
        unsafe {
            let y = cuda::empty(x.shape(), dtype, x.device())?;
            let args = [Arg::Tensor(&x), Arg::Tensor(&weight), Arg::Tensor(&y), Arg::Size(d), Arg::Float(self.eps)];
            cuda::launch(&kernel, grid, &args)?;
            Ok(y)
        }
    }

    fn backward_on_gpu(
        &self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        weighted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (x, weight, dy) = (x.contiguous()?, weight.contiguous()?, dy.contiguous()?);
        // no kernel takes a gradient that is wider than what was normed
        let dy = if x.dtype() == DType::F32 { dy } else { cuda::in_type(&dy, x.dtype())? };
        let (rows, d) = x.dims2()?;
        cuda::all_are(DType::F32, &[&weight])?;
        let kernel = cuda::named("rms_norm_backward", &[x.dtype(), dy.dtype()]);
        // SAFETY: a block for each row of d numbers, as many as the weight's; it writes all of its row, and its factor
        let (dx, factors) = unsafe {
            let dx = cuda::empty((rows, d), x.dtype(), x.device())?;
            let factors = cuda::empty(rows, DType::F32, x.device())?;
            let tensors = [&x, &weight, &dy, &dx, &factors].map(Arg::Tensor);
            let args = [&tensors[..], &[Arg::Size(d), Arg::Float(self.eps)]].concat();
            cuda::launch(&kernel, Grid::rows(rows, d), &args)?;
            (dx, factors)
        };
        if !weighted {
            return Ok((dx, None));
        }
        let (x, dy) = (cuda::in_type(&x, DType::F32)?, cuda::in_type(&dy, DType::F32)?);
        // SAFETY: rows·d numbers of both and a factor a row are read, and all d sums written
        unsafe {
            let dweight = cuda::empty(d, DType::F32, x.device())?;
            let tensors = [&x, &dy, &factors, &dweight].map(Arg::Tensor);
            cuda::launch("rms_norm_weight", Grid::over(d), &[&tensors[..], &[Arg::Size(rows), Arg::Size(d)]].concat())?;
            Ok((dx, Some(dweight)))
        }
    }

    /// What a row is multiplied with, 1 / sqrt(mean(x²) + eps).
    #[inline(always)]
    fn factor(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }

    fn forward(&self, x: Rows, weight: &[f32]) -> Vec<f32> {
        // SAFETY: x and the weight are as wide as the row
        let all_written = unsafe { AllWritten::promised() };
        let [y] = filled_rows(
            x.count,
            x.width,
            all_written,
            #[inline(always)]
            |row, [y]| {
                let x = x.row(row);
                let factor = self.factor(x);
                for (y, (x, weight)) in y.iter_mut().zip(x.iter().zip(weight)) {
                    y.write(x * factor * weight);
                }
            },
        );
        y
    }

    /// With x̂ = x·factor and g = weight·dy: dx = factor · (g - x̂ · mean(g·x̂)).
    fn backward(&self, x: Rows, weight: &[f32], dy: Rows) -> Vec<f32> {
        // SAFETY: x, its gradient and the weight are as wide as the row
        let all_written = unsafe { AllWritten::promised() };
        let [dx] = filled_rows(
            x.count,
            x.width,
            all_written,
            #[inline(always)]
            |row, [dx]| {
                let (x, dy) = (x.row(row), dy.row(row));
                let factor = self.factor(x);
                // dx holds g until its mean is known.
                for (g, (weight, dy)) in dx.iter_mut().zip(weight.iter().zip(dy)) {
                    g.write(weight * dy);
                }
                // SAFETY: all of it has just been written
                let g = unsafe { &mut *(std::ptr::from_mut(dx) as *mut [f32]) };
                let shrink = sum2(g, x, |g, x| g * x) * factor * factor / x.len() as f32;
                for (dx, x) in g.iter_mut().zip(x) {
                    *dx = factor * (*dx - x * shrink);
                }
            },
        );
        dx
    }

    /// Σ dy·x̂ over the rows.
    fn weight_gradient(&self, x: Rows, dy: Rows) -> Vec<f32> {
        let blocks = (0..x.count.div_ceil(ROWS)).into_par_iter().map(|block| {
            let mut sum = vec![0f32; x.width];
            vectorized(|| {
                for row in block * ROWS..((block + 1) * ROWS).min(x.count) {
                    let (x, dy) = (x.row(row), dy.row(row));
                    let factor = self.factor(x);
                    for (sum, (x, dy)) in sum.iter_mut().zip(x.iter().zip(dy)) {
                        *sum += dy * x * factor;
                    }
                }
            });
            sum
        });
        let mut total = vec![0f32; x.width];
        for sum in blocks.collect::<Vec<_>>() {
            total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};
    use crate::reference;

    #[test]
    fn agrees_with_the_formula() {
        for (t, d) in [(1, 1), (1, 64), (5, 33), (70, 100), (260, 257), (65, 768)] {
            let weight = random(2, 1, d).flatten_all().unwrap();
            let eps = if d < 64 { 0.5 } else { 1e-5 };
            check(
                &[random(1, t, d), weight],
                |x| rms_norm(&x[0], &x[1], eps),
                |x, dy| rms_norm_backward(&x[0], &x[1], eps, dy, true).map(|(dx, dweight)| vec![dx, dweight.unwrap()]),
                |x| reference::rms_norm(&x[0], &x[1], eps),
                2e-6,
            );
        }
    }

    #[test]
    fn any_rank_views_and_faults() {
        let (x, weight) = (random(1, 12, 16), random(2, 1, 16).flatten_all().unwrap());
        let expected = rms_norm(&x, &weight, 1e-6).unwrap();
        let deep = rms_norm(&x.reshape((3, 4, 16)).unwrap(), &weight, 1e-6).unwrap();
        assert_close("rank 3", &deep.reshape((12, 16)).unwrap(), &expected, 0.0);
        let flat = rms_norm(&x.get(3).unwrap(), &weight, 1e-6).unwrap();
        assert_close("rank 1", &flat, &expected.get(3).unwrap(), 0.0);
        assert_close("view", &rms_norm(&as_view(&x), &weight, 1e-6).unwrap(), &expected, 0.0);
        let columns = x.t().unwrap().contiguous().unwrap().t().unwrap();
        assert_close("columns", &rms_norm(&columns, &weight, 1e-6).unwrap(), &expected, 0.0);
        assert!(rms_norm(&x, &weight.narrow(0, 0, 8).unwrap(), 1e-6).is_err());
    }

    #[test]
    fn same_on_any_threads() {
        let (x, weight) = (random(1, 700, 300), random(2, 1, 300).flatten_all().unwrap());
        assert_same_on_any_threads(|| {
            let y = rms_norm(&x, &weight, 1e-5).unwrap();
            let (dx, dweight) = rms_norm_backward(&x, &weight, 1e-5, &y, true).unwrap();
            vec![y, dx, dweight.unwrap()]
        });
    }
}
