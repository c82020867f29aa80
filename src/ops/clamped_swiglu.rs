//! The gate of gpt-oss's experts: gate and up are held within a limit, up gets one more.

use candle_core::Tensor;

use super::exp::exp;
use super::rows::{AllWritten, filled_rows, with_rows};
use crate::{Error, Result};

/// (up + 1) · gate · sigmoid(alpha · gate), gate at most `limit`, up from -`limit` to `limit`
/// (`GptOssExperts._apply_gate` of transformers).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClampedSwiglu {
    /// What gate is multiplied with in the sigmoid.
    pub alpha: f32,
    /// Above this both are cut off, and up below its negative.
    pub limit: f32,
}

impl ClampedSwiglu {
    /// The function of each pair of numbers of `gate` and `up`, `[t, f]` f32, on a CPU.
    ///
    /// # Errors
    /// Shapes that differ, or a device without this kernel.
    pub fn forward(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        alike(gate, up)?;
        let y = with_rows("clamped_swiglu", [gate, up], |[gate, up]| {
            // SAFETY: both are as wide as the row, asked above
            let all_written = unsafe { AllWritten::promised() };
            let [y] = filled_rows(
                gate.count,
                gate.width,
                all_written,
                #[inline(always)]
                |row, [y]| {
                    for (y, (gate, up)) in y.iter_mut().zip(gate.row(row).iter().zip(up.row(row))) {
                        y.write(self.at(*gate, *up).0);
                    }
                },
            );
            Ok(y)
        })?;
        Ok(Tensor::from_vec(y, gate.shape(), gate.device())?)
    }

    /// The gradients of [`ClampedSwiglu::forward`], of gate and up.
    ///
    /// # Errors
    /// As there.
    pub fn backward(self, gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
        alike(gate, up)?;
        alike(gate, dy)?;
        let (dgate, dup) = with_rows("clamped_swiglu", [gate, up, dy], |[gate, up, dy]| {
            // SAFETY: all three are as wide as the rows, asked above
            let all_written = unsafe { AllWritten::promised() };
            let [dgate, dup] = filled_rows(
                gate.count,
                gate.width,
                all_written,
                #[inline(always)]
                |row, [dgate, dup]| {
                    let inputs = gate.row(row).iter().zip(up.row(row)).zip(dy.row(row));
                    for ((dgate, dup), ((gate, up), dy)) in dgate.iter_mut().zip(dup).zip(inputs) {
                        let (_, by_gate, by_up) = self.at(*gate, *up);
                        dgate.write(dy * by_gate);
                        dup.write(dy * by_up);
                    }
                },
            );
            Ok((dgate, dup))
        })?;
        Ok((Tensor::from_vec(dgate, gate.shape(), gate.device())?, Tensor::from_vec(dup, up.shape(), up.device())?))
    }

    /// The function and its slopes by both.
    #[inline(always)]
    fn at(self, gate: f32, up: f32) -> (f32, f32, f32) {
        // not f32::min, which would make a number of one that is none
        let g = if gate > self.limit { self.limit } else { gate };
        let u = if up > self.limit { self.limit } else { up };
        let u = if u < -self.limit { -self.limit } else { u };
        let sigmoid = 1.0 / (1.0 + exp(-self.alpha * g));
        let glu = g * sigmoid;
        let by_gate = sigmoid + self.alpha * glu * (1.0 - sigmoid);
        // as PyTorch has it, the limit itself is within
        let inside = |is: bool| if is { 1.0 } else { 0.0 };
        let (in_gate, in_up) = (inside(gate <= self.limit), inside(up.abs() <= self.limit));
        ((u + 1.0) * glu, in_gate * (u + 1.0) * by_gate, in_up * glu)
    }
}

fn alike(a: &Tensor, b: &Tensor) -> Result<()> {
    match a.dims2()? == b.dims2()? {
        true => Ok(()),
        false => Err(Error::work(format!("clamped_swiglu: {:?} and {:?}", a.shape(), b.shape()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};
    use crate::reference;

    const OWN: ClampedSwiglu = ClampedSwiglu { alpha: 1.702, limit: 7.0 };

    /// Numbers far on both sides of the limit.
    #[test]
    fn agrees_with_the_formula() {
        for (t, f) in [(1, 1), (5, 33), (300, 257)] {
            for own in [OWN, ClampedSwiglu { alpha: 0.7, limit: 1.5 }] {
                check(
                    &[(random(1, t, f) * 12.0).unwrap(), (random(2, t, f) * 12.0).unwrap()],
                    |x| own.forward(&x[0], &x[1]),
                    |x, dy| own.backward(&x[0], &x[1], dy).map(|(dgate, dup)| vec![dgate, dup]),
                    |x| reference::clamped_swiglu(&x[0], &x[1], own),
                    2e-6,
                );
            }
        }
    }

    #[test]
    fn views_extremes_and_threads() {
        let (gate, up) = ((random(1, 70, 1000) * 9.0).unwrap(), random(2, 70, 1000));
        let expected = OWN.forward(&gate, &up).unwrap();
        assert_close("view", &OWN.forward(&as_view(&gate), &as_view(&up)).unwrap(), &expected, 0.0);
        assert_same_on_any_threads(|| vec![OWN.forward(&gate, &up).unwrap()]);
        let extremes = Tensor::new(&[[-1e30f32, 1e30, f32::NAN]], gate.device()).unwrap();
        let y = OWN.forward(&extremes, &extremes.ones_like().unwrap()).unwrap().to_vec2::<f32>().unwrap();
        assert!(y[0][0] == 0.0 && (y[0][1] - 14.0).abs() < 1e-3 && y[0][2].is_nan(), "{y:?}");
        assert!(OWN.forward(&gate, &up.t().unwrap()).is_err());
    }
}
