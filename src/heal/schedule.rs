//! The learning rate of every step, as the Hugging Face Trainer has it.

use serde::{Deserialize, Serialize};

/// How the learning rate goes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Half a cosine to zero.
    #[default]
    Cosine,
    /// A line to zero.
    Linear,
    /// Stays.
    Constant,
}

/// A linear warm-up, then a decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// Steps of the warm-up; the first of them has learning rate zero, as in transformers.
    pub warmup: usize,
    /// Steps in all.
    pub steps: usize,
    /// After the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// Learning rate of the step that follows `done` steps.
    #[must_use]
    pub fn rate(&self, done: usize) -> f64 {
        if done < self.warmup {
            return self.peak * done as f64 / self.warmup as f64;
        }
        let progress = (done - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        let factor = match self.decay {
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Decay::Linear => 1.0 - progress,
            Decay::Constant => 1.0,
        };
        self.peak * factor.max(0.0)
    }
}

/// Steps of a warm-up that is given as a number of steps, or, below one, as a share of all steps (rounded up, as
/// transformers does).
#[must_use]
pub(crate) fn warmup_steps(warmup: f64, steps: usize) -> usize {
    let wanted = if warmup < 1.0 { (warmup * steps as f64).ceil() } else { warmup };
    (wanted.max(0.0) as usize).min(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_transformers() {
        let schedule = Schedule { peak: 1e-3, warmup: 3, steps: 14, decay: Decay::Cosine };
        for (step, rate) in [
            (0, 0.0),
            (1, 0.0003333333333333333),
            (3, 0.001),
            (4, 0.0009797464868072487),
            (8, 0.0005711574191366427),
            (12, 7.937323358440934e-05),
        ] {
            assert!((schedule.rate(step) - rate).abs() < 1e-18, "step {step}");
        }
        assert!(schedule.rate(14) < 1e-18 && schedule.rate(99) >= 0.0);
        let linear = Schedule { decay: Decay::Linear, warmup: 0, steps: 4, peak: 1.0 };
        assert_eq!([0, 1, 2, 3, 4].map(|step| linear.rate(step)), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(Schedule { decay: Decay::Constant, ..linear }.rate(9), 1.0);
    }

    #[test]
    fn warmup_as_steps_or_share() {
        assert_eq!(warmup_steps(100.0, 5000), 100);
        assert_eq!(warmup_steps(0.03, 110), 4);
        assert_eq!(warmup_steps(0.0, 10), 0);
        assert_eq!(warmup_steps(20.0, 10), 10);
    }
}
