//! An exponential that vectorises: branch-free, no call into a maths library.

/// Below this e^x is no longer a normal f32; 0 is returned.
const LOW: f32 = -87.336_54;
/// Above this the power of two in e^x is out of range; infinity is returned, a hair before e^x itself overflows.
const HIGH: f32 = 88.376_26;
/// 1.5·2²³: adding it rounds to an integer and leaves that integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// e^x within 2 units in the last place: 0 below -87.3, infinity above 88.3, NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts so that n·ln 2 is exact; e^r by the polynomial of Cephes'
/// `expf`; 2^n by its bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let inside = if x < LOW { LOW } else { x };
    let inside = if inside > HIGH { HIGH } else { inside };
    let shifted = inside * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = inside - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    let y = p * power;
    let y = if x < LOW { 0.0 } else { y };
    if x > HIGH { f32::INFINITY } else { y }
}

/// The hyperbolic tangent, within a few units in the last place of 1.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::simd::vectorized;

    /// Units in the last place between `found` and the f64 truth.
    fn ulps(found: f32, x: f32) -> f64 {
        let exact = f64::from(x).exp();
        let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
        (f64::from(found) - exact).abs() / unit
    }

    #[test]
    fn within_two_units_of_f64() {
        let xs: Vec<f32> = (0..2_000_000u32).map(|i| LOW + (HIGH - LOW) * (i as f32 / 2e6)).collect();
        let mut ys = vec![0f32; xs.len()];
        vectorized(|| ys.iter_mut().zip(&xs).for_each(|(y, x)| *y = exp(*x)));
        let worst = xs.iter().zip(&ys).map(|(x, y)| ulps(*y, *x)).fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} units");
    }

    #[test]
    fn tangents_are_those_of_f64() {
        for x in (-4000..4000).map(|x| x as f32 / 100.0) {
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 4e-7, "{x}");
        }
        assert_eq!((tanh(0.0), tanh(1e9), tanh(-1e9)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn the_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(-87.4), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(88.5), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
