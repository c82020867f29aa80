//! What a score of two residual streams can see of one token: the lengths of the two and the angle between them.

use std::f64::consts::FRAC_1_PI;

/// Smallest norm that a length is divided by.
const NORM_FLOOR: f64 = 1e-6;

/// The residual stream of one token where it enters a block and where it leaves it, as far as a score can see: the
/// lengths of the two vectors and the angle between them.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    entering: f64,
    leaving: f64,
    product: f64,
    cosine: f64,
}

impl Pair {
    /// From the squared norms of the entering and the leaving stream and their inner product.
    ///
    /// A stream of zeros has no direction: two of them count as equal (cosine 1), one of them as orthogonal to the
    /// other (cosine 0).
    #[must_use]
    pub fn new(entering: f64, leaving: f64, product: f64) -> Self {
        // sqrt(a·a) is exactly a, so that the cosine of a stream with itself is exactly 1; sqrt(a)·sqrt(a) is not.
        // Squares of f32 numbers leave room for this product in f64, at both ends.
        let scale = (entering * leaving).sqrt();
        let cosine = match scale > 0.0 {
            true => (product / scale).clamp(-1.0, 1.0),
            false if entering == leaving => 1.0,
            false => 0.0,
        };
        Self { entering, leaving, product, cosine }
    }

    /// Cosine of the angle between the two, clamped to [-1, 1].
    #[must_use]
    pub fn cosine(&self) -> f64 {
        self.cosine
    }

    /// Angle between the two in units of π: 0 same direction, 0.5 orthogonal, 1 opposite.
    #[must_use]
    pub fn angle(&self) -> f64 {
        self.cosine.acos() * FRAC_1_PI
    }

    /// Length of the update in units of what leaves, `‖f(x)‖ / ‖x + f(x)‖`. The divisor is at least 1e-6.
    #[must_use]
    pub fn relative_step(&self) -> f64 {
        self.update() / self.leaving.sqrt().max(NORM_FLOOR)
    }

    /// The same in units of what enters, `‖f(x)‖ / ‖x‖`.
    #[must_use]
    pub fn growth(&self) -> f64 {
        self.update() / self.entering.sqrt().max(NORM_FLOOR)
    }

    fn update(&self) -> f64 {
        (self.entering + self.leaving - 2.0 * self.product).max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(x: &[f32], y: &[f32]) -> Pair {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        Pair::new(dot(x, x), dot(y, y), dot(x, y))
    }

    #[test]
    fn known_angles() {
        assert_eq!(pair(&[1.0, 0.0], &[0.0, 3.0]).angle(), 0.5);
        assert_eq!(pair(&[1.0, 2.0], &[-2.0, -4.0]).angle(), 1.0);
        assert!((pair(&[1.0, 0.0], &[2.0, 2.0]).angle() - 0.25).abs() < 1e-15);
        // x = (3, 0), x + f(x) = (3, 4): the update is 4 long, what leaves is 5 long
        assert!((pair(&[3.0, 0.0], &[3.0, 4.0]).relative_step() - 0.8).abs() < 1e-15);
        assert!((pair(&[3.0, 0.0], &[3.0, 4.0]).growth() - 4.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn streams_of_zeros() {
        assert_eq!(pair(&[0.0, 0.0], &[0.0, 0.0]).angle(), 0.0);
        assert_eq!(pair(&[0.0, 0.0], &[0.0, 0.0]).relative_step(), 0.0);
        assert_eq!(pair(&[0.0, 0.0], &[1.0, 2.0]).angle(), 0.5);
        assert!(pair(&[1.0, 2.0], &[0.0, 0.0]).relative_step().is_finite());
    }

    #[test]
    fn the_smallest_and_largest_floats_have_directions() {
        assert_eq!(pair(&[f32::MAX; 4096], &[f32::MAX; 4096]).angle(), 0.0);
        assert_eq!(pair(&[1e-45], &[1e-45]).angle(), 0.0);
        assert_eq!(pair(&[1e-45], &[-1e-45]).angle(), 1.0);
    }

    fn vectors() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (1usize..40).prop_flat_map(|d| {
            let numbers = || prop::collection::vec(-100f32..100f32, d);
            (numbers(), numbers())
        })
    }

    proptest! {
        #[test]
        fn an_angle_is_a_distance((x, y) in vectors(), scale in 1e-3f32..1e3f32) {
            prop_assert_eq!(pair(&x, &x).angle(), 0.0);
            prop_assert_eq!(pair(&x, &y).angle(), pair(&y, &x).angle());
            prop_assert!((0.0..=1.0).contains(&pair(&x, &y).angle()));
            let twice: Vec<f32> = x.iter().map(|x| x * 4.0).collect();
            prop_assert_eq!(pair(&twice, &y).angle(), pair(&x, &y).angle());
            // scaling rounds every number in f32, so the angle moves by that much
            let scaled: Vec<f32> = x.iter().map(|x| x * scale).collect();
            prop_assert!((pair(&scaled, &y).angle() - pair(&x, &y).angle()).abs() < 1e-6);
        }
    }
}
