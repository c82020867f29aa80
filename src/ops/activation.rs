//! What an MLP does to each of its numbers, with a gate (arXiv 2002.05202) or without.

use candle_core::cpu::erf::erf_f64;
use candle_core::{DType, Tensor};

use super::cuda;
use super::exp::exp;
use super::rows::{AllWritten, filled_rows, with_rows};
use super::swiglu::{swiglu, swiglu_backward};
use crate::{Error, Result};

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x), with the normal distribution's own Φ.
    Gelu,
    /// The same with Φ by a hyperbolic tangent (arXiv 1606.08415).
    GeluTanh,
    /// max(x, 0)² (arXiv 2109.08668).
    Relu2,
}

/// √(2/π).
const ROOT: f32 = 0.797_884_6;
/// The weight of x³ in the argument of the hyperbolic tangent.
const CUBE: f32 = 0.044_715;

impl Activation {
    /// Its names in configs, as transformers' `ACT2FN` has them.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu" => Some(Self::Gelu),
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Some(Self::GeluTanh),
            "relu2" => Some(Self::Relu2),
            _ => None,
        }
    }

    /// The function and its slope at `x`.
    #[inline(always)]
    fn at(self, x: f32) -> (f32, f32) {
        match self {
            Self::Silu => {
                let s = sigmoid(x);
                (x * s, s + x * s * (1.0 - s))
            }
            // (1 + tanh(u)) / 2 is sigmoid(2u)
            Self::GeluTanh => {
                let s = sigmoid(2.0 * ROOT * (x + CUBE * x * x * x));
                (x * s, s + x * s * (1.0 - s) * 2.0 * ROOT * (1.0 + 3.0 * CUBE * x * x))
            }
            Self::Gelu => {
                let wide = f64::from(x);
                let phi = 0.5 * (1.0 + erf_f64(wide * std::f64::consts::FRAC_1_SQRT_2));
                let density = (-0.5 * wide * wide).exp() / std::f64::consts::TAU.sqrt();
                ((wide * phi) as f32, (phi + wide * density) as f32)
            }
            Self::Relu2 => {
                let above = if x > 0.0 { x } else { 0.0 * x };
                (above * above, 2.0 * above)
            }
        }
    }

    /// The same from candle's operations, which run on a GPU: the values, or the slopes.
    fn composed(self, x: &Tensor, slope: bool) -> candle_core::Result<Tensor> {
        let weighted = |s: Tensor, inner: &Tensor| -> candle_core::Result<Tensor> {
            let y = (x * &s)?;
            if slope { &s + ((y * s.affine(-1.0, 1.0)?)? * inner)? } else { Ok(y) }
        };
        match self {
            Self::Silu => weighted(candle_nn::ops::sigmoid(x)?, &x.ones_like()?),
            Self::GeluTanh => {
                let (twice, cube) = (f64::from(2.0 * ROOT), f64::from(CUBE));
                let square = x.sqr()?;
                let argument = (x * square.affine(twice * cube, twice)?)?;
                weighted(candle_nn::ops::sigmoid(&argument)?, &square.affine(3.0 * twice * cube, twice)?)
            }
            Self::Gelu if slope => {
                let phi = (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(0.5, 0.5)?;
                let density = (x.sqr()? * -0.5)?.exp()?.affine(std::f64::consts::TAU.sqrt().recip(), 0.0)?;
                phi + (x * density)?
            }
            Self::Gelu => x.gelu_erf(),
            Self::Relu2 if slope => x.relu()? * 2.0,
            Self::Relu2 => x.relu()?.sqr(),
        }
    }
}

/// The function of each number of `x` `[t, f]` f32.
///
/// # Errors
/// The device's.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return Ok(activation.composed(&wide(x)?, false)?.to_dtype(x.dtype())?);
    }
    let y = with_rows("activate", [x], |[x]| {
        // SAFETY: all of a row is written
        let all_written = unsafe { AllWritten::promised() };
        let [y] = filled_rows(
            x.count,
            x.width,
            all_written,
            #[inline(always)]
            |row, [y]| y.iter_mut().zip(x.row(row)).for_each(|(y, x)| _ = y.write(activation.at(*x).0)),
        );
        Ok(y)
    })?;
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

/// The gradient of [`activate`] by `x`, from that of its result, `dy`.
///
/// # Errors
/// Shapes that differ, or the device's.
pub fn activate_backward(x: &Tensor, activation: Activation, dy: &Tensor) -> Result<Tensor> {
    if x.dims2()? != dy.dims2()? {
        return Err(Error::work(format!("activate: x is {:?}, dy {:?}", x.shape(), dy.shape())));
    }
    if !x.device().is_cpu() {
        return Ok((activation.composed(&wide(x)?, true)? * wide(dy)?)?.to_dtype(x.dtype())?);
    }
    let dx = with_rows("activate", [x, dy], |[x, dy]| {
        // SAFETY: both are as wide as the row, asked above
        let all_written = unsafe { AllWritten::promised() };
        let [dx] = filled_rows(
            x.count,
            x.width,
            all_written,
            #[inline(always)]
            |row, [dx]| {
                for (dx, (x, dy)) in dx.iter_mut().zip(x.row(row).iter().zip(dy.row(row))) {
                    dx.write(activation.at(*x).1 * dy);
                }
            },
        );
        Ok(dx)
    })?;
    Ok(Tensor::from_vec(dx, x.shape(), x.device())?)
}

/// The function of `gate`, times `up`, element by element; both `[t, f]` f32.
///
/// # Errors
/// Shapes that differ, or the device's.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => swiglu(gate, up),
        _ => Ok((activate(gate, activation)? * up)?),
    }
}

/// The gradients of [`gated`], of gate and up, which are used up.
///
/// # Errors
/// Shapes that differ, or the device's.
pub fn gated_backward(gate: Tensor, up: Tensor, activation: Activation, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    if activation == Activation::Silu {
        return swiglu_backward(gate, up, dy);
    }
    let dy = if dy.dtype() == gate.dtype() { dy.clone() } else { dy.to_dtype(gate.dtype())? };
    let dup = (activate(&gate, activation)? * &dy)?;
    Ok((activate_backward(&gate, activation, &(dy * up)?)?, dup))
}

/// On a GPU `x` as f32.
fn wide(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cuda() { cuda::in_type(x, DType::F32) } else { Ok(x.clone()) }
}

/// 1 / (1 + e^-x).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};

    const ALL: [Activation; 4] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu2];

    /// candle's own functions.
    fn formula(x: &Tensor, activation: Activation) -> candle_core::Result<Tensor> {
        match activation {
            Activation::Silu => x.silu(),
            Activation::Gelu => x.gelu_erf(),
            Activation::GeluTanh => {
                let u = ((x + (x.powf(3.0)? * f64::from(CUBE))?)? * f64::from(ROOT))?;
                x * ((u.tanh()? + 1.0)? * 0.5)?
            }
            Activation::Relu2 => x.relu()?.sqr(),
        }
    }

    #[test]
    fn agree_with_the_formulas() {
        for activation in ALL {
            for (t, f) in [(1, 1), (5, 33), (300, 257)] {
                let (x, up) = ((random(1, t, f) * 6.0).unwrap(), random(2, t, f));
                check(
                    std::slice::from_ref(&x),
                    |x| activate(&x[0], activation),
                    |x, dy| Ok(vec![activate_backward(&x[0], activation, dy)?]),
                    |x| formula(&x[0], activation),
                    2e-6,
                );
                check(
                    &[x, up],
                    |x| gated(&x[0], &x[1], activation),
                    |x, dy| gated_backward(x[0].clone(), x[1].clone(), activation, dy).map(|(gate, up)| vec![gate, up]),
                    |x| formula(&x[0], activation)? * &x[1],
                    2e-6,
                );
            }
        }
    }

    /// What runs on a GPU.
    #[test]
    fn composed_functions_are_the_same() {
        let x = (random(1, 70, 100) * 8.0).unwrap();
        for activation in ALL {
            let what = format!("{activation:?}");
            let value = activation.composed(&x, false).unwrap();
            assert_close(&what, &value, &activate(&x, activation).unwrap(), 2e-6);
            let slope = activation.composed(&x, true).unwrap();
            let own = activate_backward(&x, activation, &x.ones_like().unwrap()).unwrap();
            assert_close(&what, &slope, &own, 5e-6);
            assert_close("view", &activate(&as_view(&x), activation).unwrap(), &value, 2e-6);
            assert_same_on_any_threads(|| vec![activate(&x, activation).unwrap()]);
        }
    }
}
