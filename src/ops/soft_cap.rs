//! Numbers held below a cap by a hyperbolic tangent (Gemma 2).

use candle_core::Tensor;

use super::exp::tanh;
use crate::Result;

/// cap · tanh(x / cap) of each number.
///
/// # Errors
/// The device's.
pub fn soft_cap(x: &Tensor, cap: f32) -> Result<Tensor> {
    let cap = f64::from(cap);
    Ok(((x / cap)?.tanh()? * cap)?)
}

/// The slope of [`soft_cap`] where it gives `capped`.
///
/// # Errors
/// The device's.
pub(super) fn soft_cap_slope(capped: &Tensor, cap: f32) -> Result<Tensor> {
    Ok((capped / f64::from(cap))?.sqr()?.affine(-1.0, 1.0)?)
}

/// The same of one number.
#[inline(always)]
pub(super) fn capped(x: f32, cap: f32) -> f32 {
    cap * tanh(x / cap)
}

/// The slope where [`capped`] gives `y`.
#[inline(always)]
pub(super) fn slope(y: f32, cap: f32) -> f32 {
    1.0 - (y / cap) * (y / cap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, numbers, random};

    #[test]
    fn of_tensors_and_of_numbers() {
        let x = (random(1, 9, 40) * 90.0).unwrap();
        let y = soft_cap(&x, 30.0).unwrap();
        let own: Vec<f32> = numbers(&x).iter().map(|x| capped(*x as f32, 30.0)).collect();
        let own = Tensor::from_vec(own, x.shape(), x.device()).unwrap();
        assert_close("value", &own, &y, 1e-6);
        let step = 0.1;
        let ahead = soft_cap(&(&x + step).unwrap(), 30.0).unwrap();
        let behind = soft_cap(&(&x - step).unwrap(), 30.0).unwrap();
        let slopes = ((ahead - behind).unwrap() / (2.0 * step)).unwrap();
        assert_close("slope", &soft_cap_slope(&y, 30.0).unwrap(), &slopes, 1e-3);
        let own: Vec<f32> = numbers(&y).iter().map(|y| slope(*y as f32, 30.0)).collect();
        assert_close("slope", &Tensor::from_vec(own, x.shape(), x.device()).unwrap(), &slopes, 1e-3);
    }
}
