//! The network of LESA: from a row of two layers' matrices to the row of a layer between, 2i → 256 → 256 → i with
//! ReLU, trained by AdamW at 1e-3 on the squared error and, for a two-thousandth part, the difference of lengths.

use candle_core::{Device, Tensor};
use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use crate::ops::{self, AdamW, Optimizer, WeightMatrix};
use crate::{Error, Result};

/// Width of what lies between.
const HIDDEN: usize = 256;
/// Part of the loss that speaks of lengths.
const OF_LENGTHS: f64 = 5e-4;
const LR: f64 = 1e-3;
/// PyTorch's decay where nobody says otherwise.
const DECAY: f64 = 1e-2;

/// The network and its optimiser.
#[derive(Debug)]
pub(super) struct Between {
    /// Weight `[o, i]` and bias `[o]` of each layer.
    layers: Vec<(Tensor, Tensor)>,
    optimizer: Optimizer,
}

impl Between {
    /// For rows of `i` numbers, begun as PyTorch begins linear layers: uniform up to 1/√inputs.
    pub(super) fn new(i: usize, random: &mut ChaCha8Rng) -> Result<Self> {
        let mut uniform = |count: usize, most: f64| -> Vec<f32> {
            let unit = |word: u64| (word >> 11) as f64 / (1u64 << 53) as f64;
            (0..count).map(|_| ((2.0 * unit(random.next_u64()) - 1.0) * most) as f32).collect()
        };
        let sizes = [(2 * i, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, i)];
        let layers = sizes.into_iter().map(|(from, to)| {
            let most = (from as f64).sqrt().recip();
            let weight = Tensor::from_vec(uniform(to * from, most), (to, from), &Device::Cpu)?;
            Ok((weight, Tensor::from_vec(uniform(to, most), to, &Device::Cpu)?))
        });
        let settings = AdamW { weight_decay: DECAY, ..AdamW::default() };
        Ok(Self { layers: layers.collect::<Result<_>>()?, optimizer: Optimizer::new(settings) })
    }

    /// What enters each layer, and what leaves the last, `[t, i]`.
    fn states(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let mut states = vec![x.clone()];
        for (at, (weight, bias)) in self.layers.iter().enumerate() {
            let last = states.last().unwrap_or(x);
            let y = WeightMatrix::Dense(weight.clone()).linear(last)?.broadcast_add(bias)?;
            states.push(if at + 1 < self.layers.len() { y.relu()? } else { y });
        }
        Ok(states)
    }

    /// Rows between, `[t, i]`, from rows on both sides, `[t, 2i]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.states(x)?.pop().ok_or_else(|| Error::work("a network without layers"))
    }

    /// A step towards `wanted` `[t, i]`; the mean squared error before it.
    pub(super) fn step(&mut self, x: &Tensor, wanted: &Tensor) -> Result<f64> {
        let (error, gradients) = self.gradients(x, wanted)?;
        self.optimizer.begin_step();
        for (at, ((weight, bias), (dweight, dbias))) in self.layers.iter().zip(&gradients).enumerate() {
            self.optimizer.update(&format!("{at}.weight"), weight, dweight, LR, 1.0)?;
            self.optimizer.update(&format!("{at}.bias"), bias, dbias, LR, 1.0)?;
        }
        Ok(error)
    }

    /// The mean squared error, and the loss's gradients of weights and biases.
    fn gradients(&self, x: &Tensor, wanted: &Tensor) -> Result<(f64, Vec<(Tensor, Tensor)>)> {
        let mut states = self.states(x)?;
        let y = states.pop().ok_or_else(|| Error::work("a network without layers"))?;
        let off = (&y - wanted)?;
        let square = |x: &Tensor| Ok::<_, Error>(f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?));
        let (error, lengths) = (square(&off)? / off.elem_count() as f64, [square(&y)?.sqrt(), square(wanted)?.sqrt()]);
        let along = OF_LENGTHS * 2.0 * (lengths[0] - lengths[1]) / lengths[0].max(f64::MIN_POSITIVE);
        let dy = (off * ((1.0 - OF_LENGTHS) * 2.0 / y.elem_count() as f64))?;
        let mut dy = (dy + (y * along)?)?;
        let mut gradients = Vec::new();
        for (at, (weight, _)) in self.layers.iter().enumerate().rev() {
            let entered = states.pop().ok_or_else(|| Error::work("a state is missing"))?;
            gradients.push((ops::outer(&dy, &entered)?, ops::sum_rows(&dy)?));
            if at > 0 {
                let passes = entered.gt(0.0)?.to_dtype(dy.dtype())?;
                dy = (WeightMatrix::Dense(weight.clone()).linear_backward(&dy, None)? * passes)?;
            }
        }
        gradients.reverse();
        Ok((error, gradients))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::ops::testing::{numbers, random};

    /// Against differences of the loss, and a function that it can learn.
    #[test]
    fn gradients_are_those_of_the_loss() {
        let network = Between::new(3, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        let (x, wanted) = (random(1, 5, 6), random(2, 5, 3));
        let (_, gradients) = network.gradients(&x, &wanted).unwrap();
        let loss = |network: &Between| -> f64 {
            let (y, wanted) = (numbers(&network.forward(&x).unwrap()), numbers(&wanted));
            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            let mean = y.iter().zip(&wanted).map(|(y, w)| (y - w).powi(2)).sum::<f64>() / y.len() as f64;
            (1.0 - OF_LENGTHS) * mean + OF_LENGTHS * (length(&y) - length(&wanted)).powi(2)
        };
        for (layer, (dweight, dbias)) in gradients.iter().enumerate() {
            for (is_bias, gradient) in [(false, dweight), (true, dbias)] {
                // along the gradient, where no unit that begins to count decides
                let gradient = numbers(gradient);
                let length = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
                let (weight, bias) = &network.layers[layer];
                let tensor = if is_bias { bias } else { weight };
                let at = |by: f64| {
                    let before = ops::edit(tensor, |values| {
                        let before = values.to_vec();
                        values.iter_mut().zip(&gradient).for_each(|(x, g)| *x += (by * g / length) as f32);
                        before
                    });
                    let loss = loss(&network);
                    ops::edit(tensor, |values| values.copy_from_slice(&before.unwrap())).unwrap();
                    loss
                };
                let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
                assert!((slope - length).abs() < 2e-2 * length, "{layer} {is_bias}: {slope} {length}");
            }
        }
        let mut network = network;
        let half = ((x.narrow(1, 0, 3).unwrap() + x.narrow(1, 3, 3).unwrap()).unwrap() * 0.5).unwrap();
        let errors: Vec<f64> = (0..200).map(|_| network.step(&x, &half).unwrap()).collect();
        assert!(errors[199] < 1e-2 * errors[0], "{} {}", errors[0], errors[199]);
    }
}
