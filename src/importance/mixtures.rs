//! What lies between two models, layer by layer: every stack with mixed layers run over the same text.

use std::iter::once;

use serde::{Deserialize, Serialize};

use super::metrics::{Metric, Mixture};
use super::moments::Scores;
use super::removals::rises;
use crate::model::{Loss, Model, StackUnit, Stacks, Trie};
use crate::plan::PlannedFor;
use crate::progress::Progress;
use crate::{Error, Result};

/// The other model, where scores say what lies between the two. Losses are in nats a token of the same text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Against {
    /// The model.
    pub model: PlannedFor,
    /// Its loss.
    pub loss: f64,
    /// The loss of the model that was analyzed.
    pub own_loss: f64,
}

/// The metrics that mix layers with another model's, of models of some layers.
///
/// They run a model whose places are, for each layer, the layer itself and then its mixtures, one for each of
/// [`Mixtures::parts`]: a stack goes up through them without turning back, so that a streamed model is read once.
#[derive(Debug)]
pub struct Mixtures {
    metrics: Vec<(&'static Metric, Mixture)>,
    layers: usize,
    parts: Vec<f64>,
    /// The model as it is, then L stacks of each metric.
    stacks: Vec<Vec<usize>>,
}

impl Mixtures {
    /// Those of `metrics` that mix, for models of `layers` layers.
    #[must_use]
    pub fn new(layers: usize, metrics: impl IntoIterator<Item = &'static Metric>) -> Self {
        let mixing = metrics.into_iter().filter_map(|metric| Some((metric, metric.mixture()?)));
        let metrics: Vec<(&Metric, Mixture)> = mixing.collect();
        let mut parts: Vec<f64> = Vec::new();
        for (_, mixture) in &metrics {
            if !parts.contains(&mixture.part) {
                parts.push(mixture.part);
            }
        }
        let step = 1 + parts.len();
        let mixed = |mixture: &Mixture, l: usize| -> Vec<usize> {
            let behind = 1 + parts.iter().position(|part| *part == mixture.part).unwrap_or_default();
            let is_mixed = |at: usize| at == l || mixture.below && at < l;
            (0..layers).map(|at| at * step + if is_mixed(at) { behind } else { 0 }).collect()
        };
        let candidates = metrics.iter().flat_map(|(_, mixture)| (0..layers).map(move |l| (mixture, l)));
        let stacks = once((0..layers).map(|at| at * step).collect());
        let stacks = stacks.chain(candidates.map(|(mixture, l)| mixed(mixture, l))).collect();
        Self { metrics, layers, parts, stacks }
    }

    /// Whether no metric mixes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// The other model's part in the mixtures that follow each layer.
    #[must_use]
    pub fn parts(&self) -> &[f64] {
        &self.parts
    }

    /// Layers computed for each token, those of the other model among them.
    #[must_use]
    pub fn layer_passes(&self) -> usize {
        self.layers + Trie::new(&self.stacks).layer_passes()
    }

    /// The loss of each of `sequences` under the other model, which these metrics are taken against.
    ///
    /// # Errors
    /// As [`Model::run_stacks`].
    pub fn other(model: &Model, sequences: &[Vec<u32>], progress: &dyn Progress) -> Result<Vec<Loss>> {
        let stacks = [(0..model.layers()).collect()];
        let stacks = Stacks { unit: StackUnit::Layer, stacks: &stacks, beside_the_first: false };
        Ok(model.stack_losses(stacks, sequences, "the other model", progress)?.swap_remove(0))
    }

    /// Runs every stack of `model`, whose places are as said above, over `sequences`: its losses with no layer mixed,
    /// and the scores, in the order of the metrics. `other` are the losses of the other model. Errors are those of the
    /// differences, sequence by sequence.
    ///
    /// # Errors
    /// As [`Model::run_stacks`]; no sequence of two tokens.
    pub fn measure(
        &self,
        model: &Model,
        other: &[Loss],
        sequences: &[Vec<u32>],
        progress: &dyn Progress,
    ) -> Result<(Vec<Loss>, Vec<Scores>)> {
        if sequences.iter().all(|sequence| sequence.len() < 2) {
            return Err(Error::work("no sample has two tokens: there is nothing to predict"));
        }
        let stacks = Stacks { unit: StackUnit::Layer, stacks: &self.stacks, beside_the_first: false };
        let mut found = model.stack_losses(stacks, sequences, "measuring barriers", progress)?.into_iter();
        let own = found.next().unwrap_or_default();
        let middle = own.iter().zip(other).map(|(own, other)| Loss { sum: (own.sum + other.sum) / 2.0, ..*own });
        let middle: Vec<Loss> = middle.collect();
        let scores = self.metrics.iter().map(|(metric, _)| {
            let candidates: Vec<Vec<Loss>> = found.by_ref().take(self.layers).collect();
            let rows = metric.subject.rows(self.layers);
            rises(&middle, &candidates.iter().collect::<Vec<_>>(), rows, metric.name)
        });
        let scores = scores.collect();
        Ok((own, scores))
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric;
    use super::*;

    fn of(names: &[&str]) -> Mixtures {
        Mixtures::new(3, names.iter().map(|name| metric(name).unwrap()))
    }

    #[test]
    fn stacks_go_up_through_layers_and_mixtures() {
        let all = of(&["barrier", "barrier-swapped", "barrier-cumulative", "layer-loss"]);
        assert_eq!(all.parts(), [0.5, 1.0]);
        let expected = [
            [0, 3, 6],
            [1, 3, 6],
            [0, 4, 6],
            [0, 3, 7],
            [2, 3, 6],
            [0, 5, 6],
            [0, 3, 8],
            [1, 3, 6],
            [1, 4, 6],
            [1, 4, 7],
        ];
        assert_eq!(all.stacks, expected);
        // one walk from the bottom up serves them all
        assert!(all.stacks.iter().all(|stack| stack.is_sorted()));
        assert_eq!(of(&["barrier-swapped"]).stacks[1..], [[1, 2, 4], [0, 3, 4], [0, 2, 5]]);
        assert!(of(&["layer-loss"]).is_empty() && !all.is_empty());
    }

    #[test]
    fn the_cost_is_half_the_square_and_both_models() {
        let passes = |names: &[&str]| Mixtures::new(16, names.iter().map(|name| metric(name).unwrap())).layer_passes();
        assert_eq!(passes(&["barrier"]), 16 + 16 + 16 * 17 / 2);
        assert_eq!(passes(&["barrier", "barrier-swapped"]), 16 + 16 + 16 * 17);
        // the mixed layers from below, and what stands on each
        assert_eq!(passes(&["barrier-cumulative"]), 16 + 16 + 16 + 16 * 15 / 2);
    }
}
