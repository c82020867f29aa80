//! AdamW (arXiv 1711.05101), step for step as PyTorch computes it.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::AdamWStep;
use crate::Result;

/// Settings of the optimiser. The defaults are the Hugging Face Trainer's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the latter.
    pub eps: f64,
    /// Share of a parameter that a step takes away, times the learning rate; norms and biases keep theirs.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Means of one parameter's gradients and of their squares.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Of the gradients, flat, f32, where the parameter is.
    pub first: Tensor,
    /// Of their squares.
    pub second: Tensor,
}

/// The optimiser of all trained parameters, by name.
#[derive(Clone, Debug, Default)]
pub struct Optimizer {
    /// Settings.
    pub settings: AdamW,
    /// Steps done.
    pub steps: usize,
    /// Moments of each parameter; absent before its first step.
    pub moments: BTreeMap<String, Moments>,
}

impl Optimizer {
    /// An optimiser that has done nothing.
    #[must_use]
    pub fn new(settings: AdamW) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Counts a step; every parameter's [`Optimizer::update`] follows.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// One step of the parameter `name`: its `values` move against `gradient` times `clip`, in place.
    ///
    /// # Errors
    /// The device's.
    pub fn update(&mut self, name: &str, values: &Tensor, gradient: &Tensor, rate: f64, clip: f32) -> Result<()> {
        let AdamW { beta1, beta2, eps, weight_decay } = self.settings;
        let decays = !["norm", "bias"].iter().any(|word| name.contains(word));
        let keep = if decays { (1.0 - rate * weight_decay) as f32 } else { 1.0 };
        let step = self.steps as i32;
        let factors = AdamWStep {
            clip,
            weight1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            weight2: (1.0 - beta2) as f32,
            keep,
            pace: (-rate / (1.0 - beta1.powi(step))) as f32,
            correction: (1.0 - beta2.powi(step)).sqrt() as f32,
            eps: eps as f32,
        };
        if !self.moments.contains_key(name) {
            let zeros = || Tensor::zeros(values.elem_count(), DType::F32, values.device());
            self.moments.insert(name.to_owned(), Moments { first: zeros()?, second: zeros()? });
        }
        let Moments { first, second } = &self.moments[name];
        factors.apply(values, gradient, first, second)
    }
}

/// The factor that brings gradients of this norm down to `most`, as `torch.nn.utils.clip_grad_norm_`; one where there
/// is no limit.
#[must_use]
pub fn clip(norm: f64, most: Option<f64>) -> f32 {
    most.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0)) as f32
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensor(number: f32) -> Tensor {
        Tensor::new(&[number], &Device::Cpu).unwrap()
    }

    fn number(tensor: &Tensor) -> f32 {
        tensor.to_vec1().unwrap()[0]
    }

    /// Three steps of `torch.optim.AdamW` on (x - 1)²/2 from x = 3, computed in f64 by the formula of its
    /// documentation.
    #[test]
    fn three_steps() {
        let settings = AdamW { weight_decay: 0.1, ..AdamW::default() };
        let mut optimizer = Optimizer::new(settings);
        let x = tensor(3.0);
        let (mut exact, mut m, mut v) = (3.0_f64, 0.0, 0.0);
        for step in 1..=3 {
            optimizer.begin_step();
            optimizer.update("weight", &x, &tensor(number(&x) - 1.0), 0.05, 1.0).unwrap();
            let g = exact - 1.0;
            exact *= 1.0 - 0.05 * 0.1;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            exact -= 0.05 * (m / (1.0 - 0.9_f64.powi(step))) / ((v / (1.0 - 0.999_f64.powi(step))).sqrt() + 1e-8);
            assert!((f64::from(number(&x)) - exact).abs() < 1e-6, "{x:?} {exact}");
        }
    }

    #[test]
    fn norms_do_not_decay() {
        let mut optimizer = Optimizer::new(AdamW { weight_decay: 0.5, ..AdamW::default() });
        optimizer.begin_step();
        let (norm, weight) = (tensor(2.0), tensor(2.0));
        optimizer.update("model.norm.weight", &norm, &tensor(0.0), 0.1, 1.0).unwrap();
        optimizer.update("up_proj.lora_A", &weight, &tensor(0.0), 0.1, 1.0).unwrap();
        assert_eq!((number(&norm), number(&weight)), (2.0, 1.9));
    }

    #[test]
    fn clipping() {
        assert_eq!(clip(0.5, Some(1.0)), 1.0);
        assert!((clip(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
        assert_eq!(clip(4.0, None), 1.0);
    }
}
