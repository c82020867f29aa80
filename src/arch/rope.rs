//! The rotations of positions.
//!
//! Frequencies, angles and the stretches for long contexts are computed in f32, operation by operation as
//! transformers 5.23 has it (`modeling_rope_utils.py`): a model was trained with those roundings, and at position
//! 100 000 an angle in f32 is already 0.004 away from the exact one. Only powers, cosines and sines, which no two
//! libraries round alike, are taken in f64 and rounded once.

use rayon::prelude::*;

use super::{Rope, RopeScaling};

impl Rope {
    /// Angle per position of each rotated pair, `[rotary_dim / 2]`, and the factor on cosine and sine, for a pass whose
    /// longest sequence has `longest` tokens.
    #[must_use]
    pub fn inverse_frequencies(&self, longest: usize) -> (Vec<f32>, f64) {
        let plain = || self.wavelengths(self.theta as f32).into_iter().map(f32::recip);
        match &self.scaling {
            RopeScaling::None => (plain().collect(), 1.0),
            RopeScaling::Linear { factor } => {
                let factor = *factor as f32;
                (plain().map(|frequency| frequency / factor).collect(), 1.0)
            }
            RopeScaling::Dynamic { factor } => {
                let theta = self.dynamic_theta(*factor, longest);
                (self.wavelengths(theta).into_iter().map(f32::recip).collect(), 1.0)
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                let trained = *original_max_positions as f64;
                let (low, high) = ((trained / low_freq_factor) as f32, (trained / high_freq_factor) as f32);
                let (factor, spread) = (*factor as f32, (high_freq_factor - low_freq_factor) as f32);
                let bend = |frequency: f32| {
                    let wavelength = frequency.recip() * std::f64::consts::TAU as f32;
                    if wavelength > low {
                        frequency / factor
                    } else if wavelength < high {
                        frequency
                    } else {
                        let smooth = (wavelength.recip() * trained as f32 - *low_freq_factor as f32) / spread;
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                };
                (plain().map(bend).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_max_positions, truncate } => {
                let (low, high) = self.yarn_ramp(*beta_fast, *beta_slow, *original_max_positions, *truncate);
                let frequencies =
                    self.wavelengths(self.theta as f32).into_iter().enumerate().map(|(pair, wavelength)| {
                        let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                        let untouched = 1.0 - ramp;
                        let stretched = (*factor as f32 * wavelength).recip();
                        stretched * (1.0 - untouched) + wavelength.recip() * untouched
                    });
                (frequencies.collect(), *attention_factor)
            }
            RopeScaling::LongRope { short, long, attention_factor, original_max_positions } => {
                let divisors = if longest > *original_max_positions { long } else { short };
                let wavelengths = self.wavelengths(self.theta as f32).into_iter().zip(divisors);
                (wavelengths.map(|(wavelength, by)| (*by as f32 * wavelength).recip()).collect(), *attention_factor)
            }
        }
    }

    /// Cosines and sines of each position, both `[positions, rotary_dim / 2]` row-major, for a pass whose longest
    /// sequence has `longest` tokens.
    #[must_use]
    pub fn tables(&self, positions: &[u32], longest: usize) -> (Vec<f32>, Vec<f32>) {
        let (frequencies, factor) = self.inverse_frequencies(longest);
        let factor = factor as f32;
        let angles = positions
            .par_iter()
            .flat_map_iter(|position| frequencies.iter().map(move |frequency| f64::from(*position as f32 * frequency)));
        angles.map(|angle| (angle.cos() as f32 * factor, angle.sin() as f32 * factor)).unzip()
    }

    /// `theta^(2i / rotary_dim)`, the inverse of the plain frequencies, `[rotary_dim / 2]`.
    fn wavelengths(&self, theta: f32) -> Vec<f32> {
        let exponent = |pair: usize| (2 * pair) as f32 / self.rotary_dim as f32;
        (0..self.rotary_dim / 2).map(|pair| f64::from(theta).powf(f64::from(exponent(pair))) as f32).collect()
    }

    /// The base that keeps `longest` tokens within the trained angles (NTK-aware; `_compute_dynamic_ntk_parameters`).
    fn dynamic_theta(&self, factor: f64, longest: usize) -> f32 {
        if longest <= self.max_positions {
            return self.theta as f32;
        }
        let dim = self.rotary_dim as f64;
        let stretch = (factor * longest as f64) as f32 / self.max_positions as f32 - (factor - 1.0) as f32;
        let power = f64::from(stretch).powf(dim / (dim - 2.0)) as f32;
        self.theta as f32 * power
    }

    /// First and last pair of YaRN's ramp (`_compute_yarn_parameters`), the ends apart.
    fn yarn_ramp(&self, beta_fast: f64, beta_slow: f64, original_max_positions: usize, truncate: bool) -> (f64, f64) {
        let dim = self.rotary_dim as f64;
        let pair = |rotations: f64| {
            let wavelength = original_max_positions as f64 / (rotations * std::f64::consts::TAU);
            dim * wavelength.ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair(beta_fast), pair(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        (low, if low == high { high + 0.001 } else { high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> Rope {
        Rope { theta: 10_000.0, rotary_dim: 8, interleaved: false, scaling, max_positions: 64 }
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let (frequencies, factor) = rope(RopeScaling::None).inverse_frequencies(1);
        assert_eq!((frequencies, factor), (vec![1.0, 0.1, 0.01, 0.001], 1.0));
        let (cos, sin) = rope(RopeScaling::None).tables(&[0, 3], 4);
        assert_eq!((cos.len(), sin.len()), (8, 8));
        assert_eq!(&cos[..4], [1.0; 4]);
        assert_eq!(&sin[..4], [0.0; 4]);
        assert!((cos[4] - 3f32.cos()).abs() < 1e-6 && (sin[5] - 0.3f32.sin()).abs() < 1e-6);
    }

    #[test]
    fn dynamic_scaling_starts_beyond_the_context() {
        let dynamic = rope(RopeScaling::Dynamic { factor: 2.0 });
        let plain = rope(RopeScaling::None).inverse_frequencies(64);
        assert_eq!(dynamic.inverse_frequencies(64), plain);
        let stretched = dynamic.inverse_frequencies(65).0;
        assert!(stretched[0] == 1.0 && stretched[3] < plain.0[3]);
    }

    #[test]
    fn longrope_changes_its_divisors_beyond_the_trained_context() {
        let long = rope(RopeScaling::LongRope {
            short: vec![1.0; 4],
            long: vec![1.0, 2.0, 4.0, 8.0],
            attention_factor: 1.5,
            original_max_positions: 32,
        });
        assert_eq!(long.inverse_frequencies(32).0, rope(RopeScaling::None).inverse_frequencies(32).0);
        let (frequencies, factor) = long.inverse_frequencies(33);
        assert_eq!((frequencies[3], factor), (0.001 / 8.0, 1.5));
        assert_eq!(long.tables(&[0], 1).0, [1.5; 4]);
    }
}
