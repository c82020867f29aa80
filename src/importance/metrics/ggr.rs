//! Where the largest gradients of the whole model lie: the share of its largest tenth that falls into each layer.

use rayon::prelude::*;

use super::{Evaluate, Metric, Needs, OfWeights, Order, Sizes, Subject, Tokens, Weight};
use crate::Result;

pub(super) const SHARE: Metric = Metric {
    name: "ggr",
    about: "share of the largest tenth of all |dL/dw| of matrices that lies in the layer; drops single layers",
    reference: "GGR, arXiv 2210.14012, the share it would grow by",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Weights(Needs::Gradients, |model| Box::new(Share::new(model))),
    usual: false,
};

/// Bits of an f32 that a bin leaves out: bins are 4e-6 of their value wide.
const COARSE: u32 = 5;

/// Counts of gradients by size. What cannot be among the largest any more is forgotten, so that a few megabytes serve a
/// layer of any size.
struct Share {
    /// Bin and count, the largest bin first, of each layer.
    bins: Vec<Vec<(u32, u64)>>,
    /// How many are the largest.
    wanted: u64,
    /// Smaller bins hold none of them.
    lowest: u32,
}

impl Share {
    fn new(model: &Sizes) -> Self {
        Self { bins: vec![Vec::new(); model.layers], wanted: (model.matrices / 10).max(1), lowest: 0 }
    }

    /// The bin of the last of the largest gradients of those seen; 0 where there are not so many.
    fn threshold(&self) -> u32 {
        let mut all: Vec<(u32, u64)> = self.bins.iter().flatten().copied().collect();
        all.par_sort_unstable_by(|a, b| b.0.cmp(&a.0));
        let mut above = 0;
        let reached = all.iter().find(|(_, count)| {
            above += count;
            above >= self.wanted
        });
        reached.map_or(0, |(bin, _)| *bin)
    }
}

/// Runs of equal bins, the largest first.
fn counted(mut bins: Vec<u32>) -> Vec<(u32, u64)> {
    bins.par_sort_unstable_by(|a, b| b.cmp(a));
    bins.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() as u64)).collect()
}

impl OfWeights for Share {
    fn see(&mut self, layer: usize, weights: &[Weight<'_>]) -> Result<()> {
        let mut bins = Vec::new();
        for weight in weights.iter().filter(|weight| weight.columns.is_some()) {
            let lowest = self.lowest;
            bins.par_extend(
                weight
                    .gradient
                    .par_iter()
                    .map(|gradient| gradient.abs().to_bits() >> COARSE)
                    .filter(|bin| *bin >= lowest),
            );
        }
        self.bins[layer] = counted(bins);
        self.lowest = self.threshold();
        for bins in &mut self.bins {
            bins.retain(|(bin, _)| *bin >= self.lowest);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<f64>> {
        let threshold = self.threshold();
        let largest = |bins: &Vec<(u32, u64)>| -> u64 {
            bins.iter().filter(|(bin, _)| *bin >= threshold).map(|(_, count)| count).sum()
        };
        Ok(self.bins.iter().map(|bins| largest(bins) as f64 / self.wanted as f64).collect())
    }
}
