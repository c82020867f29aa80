//! xIELU, an activation with numbers of its own in each layer (arXiv 2411.13010), as Apertus' MLP has it.

use candle_core::{DType, Tensor};

use super::cuda;
use super::rows::{AllWritten, filled_rows, with_rows};
use crate::{Error, Result};

/// p·x² + b·x above zero, and n·(e^min(x, eps) - 1 - x) + b·x elsewhere; p = softplus(alpha_p), n = b +
/// softplus(alpha_n).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// What the weight of x² is made from.
    pub alpha_p: f32,
    /// What the weight of the exponential is made from.
    pub alpha_n: f32,
    /// The slope at zero.
    pub beta: f32,
    /// Where the exponential ends, just below zero.
    pub eps: f32,
}

impl Xielu {
    /// p and n.
    fn weights(&self) -> (f32, f32) {
        (softplus(self.alpha_p) as f32, (f64::from(self.beta) + softplus(self.alpha_n)) as f32)
    }

    /// The function of each number of `x` `[t, f]`.
    ///
    /// # Errors
    /// The device's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return Ok(self.composed(&wide(x)?, false)?.to_dtype(x.dtype())?);
        }
        let ((p, n), Self { beta, eps, .. }) = (self.weights(), *self);
        let y = with_rows("xielu", [x], |[x]| {
            // SAFETY: all of a row is written
            let all_written = unsafe { AllWritten::promised() };
            let [y] = filled_rows(x.count, x.width, all_written, |row, [y]| {
                for (y, &x) in y.iter_mut().zip(x.row(row)) {
                    let curved = if x > 0.0 { p * x * x } else { (x.min(eps).exp_m1() - x) * n };
                    y.write(curved + beta * x);
                }
            });
            Ok(y)
        })?;
        Ok(Tensor::from_vec(y, x.shape(), x.device())?)
    }

    /// The gradient of [`Xielu::forward`] by `x`, from that of its result, `dy`.
    ///
    /// # Errors
    /// Shapes that differ, or the device's.
    pub fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        same(x, dy)?;
        if !x.device().is_cpu() {
            return Ok((self.composed(&wide(x)?, true)? * wide(dy)?)?.to_dtype(x.dtype())?);
        }
        let ((p, n), Self { beta, eps, .. }) = (self.weights(), *self);
        let dx = with_rows("xielu", [x, dy], |[x, dy]| {
            // SAFETY: both are as wide as the row, asked above
            let all_written = unsafe { AllWritten::promised() };
            let [dx] = filled_rows(x.count, x.width, all_written, |row, [dx]| {
                for (dx, (&x, dy)) in dx.iter_mut().zip(x.row(row).iter().zip(dy.row(row))) {
                    let rise = if x < eps { x.exp() } else { 0.0 };
                    let slope = if x > 0.0 { 2.0 * p * x } else { (rise - 1.0) * n };
                    dx.write((slope + beta) * dy);
                }
            });
            Ok(dx)
        })?;
        Ok(Tensor::from_vec(dx, x.shape(), x.device())?)
    }

    /// The gradients of alpha_p and alpha_n, from that of the result of `x`, `dy`; added up in f64.
    ///
    /// # Errors
    /// Shapes that differ, or the device's.
    pub fn slopes(&self, x: &Tensor, dy: &Tensor) -> Result<(f32, f32)> {
        same(x, dy)?;
        let (above, below) = match x.device().is_cpu() {
            true => with_rows("xielu", [x, dy], |[x, dy]| {
                let (mut above, mut below) = (0.0, 0.0);
                for row in 0..x.count {
                    for (x, dy) in x.row(row).iter().zip(dy.row(row)) {
                        let (x, dy) = (f64::from(*x), f64::from(*dy));
                        match x > 0.0 {
                            true => above += dy * x * x,
                            false => below += dy * (x.min(f64::from(self.eps)).exp_m1() - x),
                        }
                    }
                }
                Ok((above, below))
            })?,
            false => {
                let (x, dy) = (wide(x)?, wide(dy)?);
                let sum = |x: Tensor| Ok::<_, Error>((x * &dy)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?);
                (sum(x.relu()?.sqr()?)?, sum(self.curved(&x)?)?)
            }
        };
        let sigmoid = |x: f32| (1.0 + (-f64::from(x)).exp()).recip();
        Ok(((above * sigmoid(self.alpha_p)) as f32, (below * sigmoid(self.alpha_n)) as f32))
    }

    /// The values, or the slopes, from candle's operations, which run on a GPU.
    fn composed(&self, x: &Tensor, slope: bool) -> candle_core::Result<Tensor> {
        let ((p, n), Self { beta, eps, .. }) = (self.weights(), *self);
        let above = x.relu()?;
        let (p, n, beta) = (f64::from(p), f64::from(n), f64::from(beta));
        if slope {
            let rise = (x.minimum(eps)?.exp()? * x.lt(eps)?.to_dtype(x.dtype())?)?;
            let curved = ((rise - 1.0)? * x.le(0f32)?.to_dtype(x.dtype())?)?;
            return (above * (2.0 * p))? + curved.affine(n, beta)?;
        }
        ((above.sqr()? * p)? + (self.curved(x)? * n)?)? + (x * beta)?
    }

    /// e^min(x, eps) - 1 - x up to zero, and zero above.
    fn curved(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let is_below = x.le(0f32)?.to_dtype(x.dtype())?;
        ((x.minimum(self.eps)?.exp()? - 1.0)? - x)? * is_below
    }
}

/// ln(1 + e^x).
fn softplus(x: f32) -> f64 {
    let x = f64::from(x);
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn same(x: &Tensor, dy: &Tensor) -> Result<()> {
    match x.dims2()? == dy.dims2()? {
        true => Ok(()),
        false => Err(Error::work(format!("xielu: x is {:?}, dy {:?}", x.shape(), dy.shape()))),
    }
}

/// On a GPU `x` as f32; elsewhere it is.
fn wide(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() { cuda::in_type(x, DType::F32) } else { Ok(x.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, numbers, random};

    const OWN: Xielu = Xielu { alpha_p: 0.7, alpha_n: -0.4, beta: 0.5, eps: -0.2 };

    /// The formula in f64.
    fn value(own: [f64; 2], x: f64) -> f64 {
        let (beta, eps) = (f64::from(OWN.beta), f64::from(OWN.eps));
        let [p, n] = [own[0].exp().ln_1p(), beta + own[1].exp().ln_1p()];
        beta * x + if x > 0.0 { p * x * x } else { n * (x.min(eps).exp() - 1.0 - x) }
    }

    fn alphas() -> [f64; 2] {
        [f64::from(OWN.alpha_p), f64::from(OWN.alpha_n)]
    }

    #[test]
    fn values_are_the_formulas_and_slopes_are_differences() {
        let x = (random(1, 60, 71) * 4.0).unwrap();
        let dy = random(2, 60, 71);
        let (y, dx) = (OWN.forward(&x).unwrap(), OWN.backward(&x, &dy).unwrap());
        let inputs = numbers(&x);
        let tensor = |values: Vec<f64>| Tensor::from_vec(values, (60, 71), &candle_core::Device::Cpu).unwrap();
        assert_close("value", &y, &tensor(inputs.iter().map(|x| value(alphas(), *x)).collect()), 1e-6);
        // no number lies so close to a corner that the step crosses it
        let step = 1e-6;
        let slope = |x: f64| (value(alphas(), x + step) - value(alphas(), x - step)) / (2.0 * step);
        let corners = [0.0, f64::from(OWN.eps)];
        assert!(inputs.iter().all(|x| corners.iter().all(|corner| (x - corner).abs() > 2.0 * step)));
        let expected = inputs.iter().zip(numbers(&dy)).map(|(x, dy)| slope(*x) * dy).collect();
        assert_close("slope", &dx, &tensor(expected), 2e-6);
        let sum = |own: [f64; 2]| inputs.iter().zip(numbers(&dy)).map(|(x, dy)| value(own, *x) * dy).sum::<f64>();
        let along = |at: usize| {
            let moved = |by: f64| std::array::from_fn(|own| alphas()[own] + if own == at { by } else { 0.0 });
            (sum(moved(1e-4)) - sum(moved(-1e-4))) / 2e-4
        };
        let (p, n) = OWN.slopes(&x, &dy).unwrap();
        assert!((f64::from(p) - along(0)).abs() < 1e-4 * along(0).abs(), "{p} {}", along(0));
        assert!((f64::from(n) - along(1)).abs() < 1e-4 * along(1).abs(), "{n} {}", along(1));
        assert!(OWN.backward(&x, &random(1, 60, 70)).is_err());
    }

    /// What runs on a GPU; views; any number of threads.
    #[test]
    fn composed_functions_are_the_same() {
        let x = (random(3, 70, 90) * 6.0).unwrap();
        let y = OWN.forward(&x).unwrap();
        assert_close("value", &OWN.composed(&x, false).unwrap(), &y, 2e-6);
        let slope = OWN.backward(&x, &x.ones_like().unwrap()).unwrap();
        assert_close("slope", &OWN.composed(&x, true).unwrap(), &slope, 2e-6);
        assert_close("view", &OWN.forward(&as_view(&x)).unwrap(), &y, 0.0);
        assert_same_on_any_threads(|| vec![OWN.forward(&x).unwrap()]);
    }
}
