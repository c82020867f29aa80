//! How positions are stretched: keys and tensors of a GGUF file as `rope_parameters` of a config.

use serde_json::{Map, Value, json};

/// What a file says of its rotations.
#[derive(Debug, Default)]
pub(super) struct Rotations {
    /// Base of the frequencies.
    pub(super) theta: Option<f64>,
    /// Rotated numbers of a head, and all of them.
    pub(super) rotated: usize,
    pub(super) head: usize,
    /// `rope.scaling.type`, and its factor.
    pub(super) kind: Option<String>,
    pub(super) factor: Option<f64>,
    /// The trained context.
    pub(super) original: Option<u64>,
    /// On cosine and sine.
    pub(super) attention_factor: Option<f64>,
    /// Ends of YaRN's ramp.
    pub(super) beta: [Option<f64>; 2],
    /// Divisors of the frequencies: `rope_freqs`, or `rope_factors_short` and `rope_factors_long`.
    pub(super) divisors: Option<Vec<f32>>,
    pub(super) long: Option<(Vec<f32>, Vec<f32>)>,
}

/// Trained contexts that Llama 3's stretch starts from, the ends of its ramp, and how far a divisor may be from it: it
/// is computed in f32.
const LLAMA3: (u64, f64, f64, f64) = (8192, 1.0, 4.0, 1e-4);

impl Rotations {
    /// `rope_parameters` as transformers 5 has them.
    pub(super) fn parameters(&self) -> Map<String, Value> {
        let mut said = self.stretch().as_object().cloned().unwrap_or_default();
        if let Some(theta) = self.theta {
            said.insert("rope_theta".to_owned(), json!(theta));
        }
        if self.rotated != self.head && self.head > 0 {
            said.insert("partial_rotary_factor".to_owned(), json!(self.rotated as f64 / self.head as f64));
        }
        said
    }

    fn stretch(&self) -> Value {
        if let Some((short, long)) = &self.long {
            let mut said = json!({"rope_type": "longrope", "short_factor": short, "long_factor": long});
            if let Some(factor) = self.attention_factor {
                said["attention_factor"] = json!(factor);
            }
            return said;
        }
        if let Some(divisors) = &self.divisors {
            return self.llama3(divisors).unwrap_or_else(|| {
                // the same divisors whatever the length
                json!({"rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
                       "attention_factor": 1.0, "factor": 1.0})
            });
        }
        match (self.kind.as_deref(), self.factor) {
            (Some("linear"), Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
            (Some("yarn"), Some(factor)) => {
                let mut said = json!({"rope_type": "yarn", "factor": factor});
                let numbers = [("attention_factor", self.attention_factor), ("beta_fast", self.beta[0])];
                for (key, number) in numbers.into_iter().chain([("beta_slow", self.beta[1])]) {
                    if let Some(number) = number {
                        said[key] = json!(number);
                    }
                }
                if let Some(original) = self.original {
                    said["original_max_position_embeddings"] = json!(original);
                }
                said
            }
            (None | Some("none"), _) => json!({"rope_type": "default"}),
            (Some(kind), factor) => json!({"rope_type": kind, "factor": factor}),
        }
    }

    /// Llama 3's stretch, where it makes these divisors (`LlamaModel.generate_extra_tensors` of llama.cpp).
    fn llama3(&self, divisors: &[f32]) -> Option<Value> {
        let (context, low, high, near) = LLAMA3;
        let context = self.original.unwrap_or(context);
        let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
        if divisors.len() * 2 != self.rotated {
            return None;
        }
        let theta = self.theta.unwrap_or(10_000.0);
        let made = llama3(theta, self.rotated, (factor, low, high, context));
        let is_it = made.iter().zip(divisors).all(|(made, found)| (f64::from(*found) / made - 1.0).abs() < near);
        is_it.then(|| {
            json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                   "original_max_position_embeddings": context})
        })
    }
}

/// The divisors of Llama 3's stretch by `factor`, its ramp from `low` to `high` wavelengths in `context`.
pub(crate) fn llama3(theta: f64, rotated: usize, (factor, low, high, context): (f64, f64, f64, u64)) -> Vec<f64> {
    let context = context as f64;
    let divisor = |pair: usize| {
        let wave = 2.0 * std::f64::consts::PI * theta.powf(2.0 * pair as f64 / rotated as f64);
        if wave < context / high {
            return 1.0;
        }
        if wave > context / low {
            return factor;
        }
        let smooth = (context / wave - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    (0..rotated / 2).map(divisor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_is_known_by_its_divisors() {
        // Llama 3.2 1B
        let made = llama3(500_000.0, 64, (32.0, 1.0, 4.0, 8192));
        assert_eq!((made[0], made[31]), (1.0, 32.0));
        assert!(made.iter().filter(|divisor| **divisor != 1.0 && **divisor != 32.0).count() > 1);
        let mut rotations = Rotations {
            theta: Some(500_000.0),
            rotated: 64,
            head: 64,
            divisors: Some(made.iter().map(|divisor| *divisor as f32).collect()),
            ..Rotations::default()
        };
        let said = Value::Object(rotations.parameters());
        assert_eq!(
            (&said["rope_type"], &said["factor"], &said["rope_theta"]),
            (&json!("llama3"), &json!(32.0), &json!(500_000.0))
        );
        // another ramp is said number by number
        rotations.divisors.as_mut().unwrap()[20] *= 1.01;
        let said = Value::Object(rotations.parameters());
        assert_eq!((&said["rope_type"], said["long_factor"].as_array().unwrap().len()), (&json!("longrope"), 32));
    }
}
