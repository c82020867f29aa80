//! Normal equations: what a linear map of some inputs explains of some targets, from sums over tokens.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::ops::{self, ProductSum, product64};

/// The sums, as tokens come.
#[derive(Debug)]
pub(super) struct NormalSums {
    gram: ProductSum,
    cross: ProductSum,
    square: f64,
    sizes: (usize, usize),
}

impl NormalSums {
    /// For inputs `[t, n]` and targets `[t, d]`.
    pub(super) fn new(n: usize, d: usize, device: &Device) -> Result<Self> {
        let (gram, cross) = (ProductSum::new(n, n, device)?, ProductSum::new(n, d, device)?);
        Ok(Self { gram, cross, square: 0.0, sizes: (n, d) })
    }

    /// Adds tokens.
    pub(super) fn add(&mut self, inputs: &Tensor, targets: &Tensor) -> Result<()> {
        self.gram.add(inputs, None)?;
        self.cross.add(inputs, Some(targets))?;
        self.square += square(targets)?;
        Ok(())
    }

    /// The equations of all tokens.
    pub(super) fn finish(self) -> Result<Normal> {
        let Self { gram, cross, square, sizes: (n, d) } = self;
        Ok(Normal { n, d, gram: gram.numbers()?, cross: cross.numbers()?, square })
    }
}

/// Sum of the squares of all numbers.
pub(super) fn square(x: &Tensor) -> Result<f64> {
    ops::numbers(&x.contiguous()?, |numbers| numbers.iter().map(|x| f64::from(*x) * f64::from(*x)).sum())
}

/// Sums over tokens of inputs A and targets R.
#[derive(Debug)]
pub(super) struct Normal {
    pub(super) n: usize,
    pub(super) d: usize,
    /// AᵀA, `[n, n]`.
    pub(super) gram: Vec<f64>,
    /// AᵀR, `[n, d]`.
    pub(super) cross: Vec<f64>,
    /// |R|².
    pub(super) square: f64,
}

impl Normal {
    /// |R - A·map|², `map` `[n, d]`.
    pub(super) fn left(&self, map: &[f64]) -> f64 {
        let seen = product64(&self.gram, map, (self.n, self.n, self.d));
        let terms = map.iter().zip(&seen).zip(&self.cross);
        self.square + terms.map(|((map, seen), cross)| map * (seen - 2.0 * cross)).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{numbers, random};

    #[test]
    fn what_is_left_is_what_is_left() {
        let (t, n, d) = (40, 5, 3);
        let (a, r, map) = (random(1, t, n), random(2, t, d), random(3, n, d));
        let mut sums = NormalSums::new(n, d, &Device::Cpu).unwrap();
        for (start, len) in [(0, 13), (13, 27)] {
            sums.add(&a.narrow(0, start, len).unwrap(), &r.narrow(0, start, len).unwrap()).unwrap();
        }
        let normal = sums.finish().unwrap();
        let (a, r, map) = (numbers(&a), numbers(&r), numbers(&map));
        let explained = product64(&a, &map, (t, n, d));
        let left: f64 = r.iter().zip(&explained).map(|(r, x)| (r - x).powi(2)).sum();
        assert!((normal.left(&map) - left).abs() < 1e-10 * left);
    }
}
