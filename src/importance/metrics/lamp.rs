//! Layer-adaptive magnitude: which layers one threshold for all weights would leave densest.

use std::collections::BTreeMap;

use super::{Evaluate, Metric, Needs, OfWeights, Order, Subject, Tokens, Weight};
use crate::Result;

pub(super) const DENSITY: Metric = Metric {
    name: "lamp",
    about: "share of the matrices that LAMP keeps at a sparsity of 70 %; needs no text; drops single layers",
    reference: "LAMP, Lee et al., arXiv 2010.07611",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Nothing, |model| Box::new(Density(vec![Vec::new(); model.layers]))),
    usual: false,
};

/// Share of all weights that is kept.
const KEPT: f64 = 0.3;

/// Bits of an f32 that are left out when magnitudes are told apart: none that a bf16 or f16 has.
const COARSE: u32 = 12;

/// The matrices of each layer.
struct Density(Vec<Vec<Sorted>>);

/// Magnitudes of a matrix, the largest first. The score of a weight is its square over the sum of its own and all
/// larger ones' (of equals each has one more of them), and falls with the magnitude.
#[derive(Clone)]
struct Sorted {
    runs: Vec<Run>,
    count: u64,
}

#[derive(Clone)]
struct Run {
    /// Square of the magnitude, of those that are not told apart the mean.
    square: f64,
    count: u64,
    /// Weights, and the sum of their squares, before these.
    before: (u64, f64),
}

impl Sorted {
    fn new(numbers: &[f32]) -> Self {
        let mut found: BTreeMap<u32, (u64, f64)> = BTreeMap::new();
        for number in numbers {
            let (count, sum) = found.entry(number.abs().to_bits() >> COARSE).or_default();
            *count += 1;
            *sum += f64::from(*number) * f64::from(*number);
        }
        let mut before = (0, 0.0);
        let runs = found.values().rev().map(|(count, sum)| {
            let run = Run { square: sum / *count as f64, count: *count, before };
            before = (before.0 + count, before.1 + sum);
            run
        });
        Self { runs: runs.collect(), count: numbers.len() as u64 }
    }

    /// Weights whose score is at least `threshold`.
    fn kept(&self, threshold: f64) -> u64 {
        let at = self.runs.partition_point(|run| run.score(1) >= threshold);
        let Some(run) = at.checked_sub(1).map(|last| &self.runs[last]) else { return 0 };
        let (mut least, mut most) = (1, run.count);
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            match run.score(middle) >= threshold {
                true => least = middle,
                false => most = middle - 1,
            }
        }
        run.before.0 + least
    }
}

impl Run {
    /// Of the `n`-th of the equals, from 1.
    fn score(&self, n: u64) -> f64 {
        if self.square == 0.0 { 0.0 } else { self.square / (self.before.1 + n as f64 * self.square) }
    }
}

impl OfWeights for Density {
    fn see(&mut self, layer: usize, weights: &[Weight<'_>]) -> Result<()> {
        let matrices = weights.iter().filter(|weight| weight.columns.is_some());
        self.0[layer] = matrices.map(|weight| Sorted::new(weight.numbers)).collect();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        let all: u64 = self.0.iter().flatten().map(|matrix| matrix.count).sum();
        let wanted = (KEPT * all as f64).round() as u64;
        let kept = |layer: &[Sorted], threshold: f64| layer.iter().map(|matrix| matrix.kept(threshold)).sum::<u64>();
        let enough = |threshold: f64| self.0.iter().map(|layer| kept(layer, threshold)).sum::<u64>() >= wanted;
        // scores are from 0 to 1, where the bits of a number rise with it
        let (mut least, mut most) = (0, 1f64.to_bits());
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if enough(f64::from_bits(middle)) { least = middle } else { most = middle - 1 }
        }
        let threshold = f64::from_bits(least);
        let density = |layer: &Vec<Sorted>| {
            kept(layer, threshold) as f64 / layer.iter().map(|matrix| matrix.count).sum::<u64>().max(1) as f64
        };
        Ok(self.0.iter().map(density).collect())
    }
}
