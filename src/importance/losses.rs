//! What the loss rises by without some layers: every candidate computed, not guessed from distances.

use super::metrics::{Evaluate, Metric};
use super::moments::{Moments, Scores};
use crate::model::{Loss, Model, Trie};
use crate::progress::Progress;
use crate::{Error, Result};

/// The layers that stay without the `n` from `l` on, of `layers`.
#[must_use]
pub fn without(layers: usize, l: usize, n: usize) -> Vec<usize> {
    (0..layers).filter(|layer| !(l..l + n).contains(layer)).collect()
}

/// The layers that stay without `dropped`, of `layers`.
pub(super) fn without_all(layers: usize, dropped: &[usize]) -> Vec<usize> {
    (0..layers).filter(|layer| !dropped.contains(layer)).collect()
}

/// The [metrics](super::METRICS) that are losses, of a model of some layers.
#[derive(Debug)]
pub struct Losses {
    metrics: Vec<(&'static Metric, Vec<usize>)>,
    /// All layers first, then the candidates of each metric.
    stacks: Vec<Vec<usize>>,
}

impl Losses {
    /// Those of `metrics` that are losses, for a model of `layers` layers.
    #[must_use]
    pub fn new(layers: usize, metrics: impl IntoIterator<Item = &'static Metric>) -> Self {
        let mut stacks = vec![without(layers, 0, 0)];
        let losses = metrics.into_iter().filter(|metric| matches!(metric.value, Evaluate::Loss));
        let metrics: Vec<_> = losses.map(|metric| (metric, metric.subject.rows(layers))).collect();
        for (_, rows) in &metrics {
            let blocks = rows.iter().enumerate().flat_map(|(row, &len)| (0..len).map(move |l| (l, row + 1)));
            stacks.extend(blocks.map(|(l, n)| without(layers, l, n)));
        }
        Self { metrics, stacks }
    }

    /// Whether no metric is a loss.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// Layers computed for each token; one pass of the model computes L of them.
    #[must_use]
    pub fn layer_passes(&self) -> usize {
        Trie::new(&self.stacks).layer_passes()
    }

    /// Runs every candidate over `sequences`, and gives the means over predicted tokens, in the order of the metrics.
    /// Errors are those of the differences to the whole model, sequence by sequence.
    ///
    /// # Errors
    /// As [`Model::run`]; no sequence of two tokens.
    pub fn measure(self, model: &Model, sequences: &[Vec<u32>], progress: &dyn Progress) -> Result<Vec<Scores>> {
        if sequences.iter().all(|sequence| sequence.len() < 2) {
            return Err(Error::work("no sample has two tokens: there is nothing to predict"));
        }
        let losses = model.losses_of_stacks(&self.stacks, sequences, "measuring losses", progress)?;
        let (whole, mut candidates) = (&losses[0], losses[1..].iter());
        let scores = self.metrics.into_iter().map(|(metric, rows)| {
            let own: Vec<&Vec<Loss>> = candidates.by_ref().take(rows.iter().sum()).collect();
            rises(whole, &own, rows, metric.name)
        });
        Ok(scores.collect())
    }
}

/// What the loss rises by from `whole` under each of `candidates`, in rows of these lengths: means over predicted
/// tokens, errors over the sequences' differences.
#[must_use]
pub fn rises(whole: &[Loss], candidates: &[&Vec<Loss>], rows: Vec<usize>, name: &str) -> Scores {
    let mut moments = Moments::new(rows);
    for (index, dense) in whole.iter().enumerate().filter(|(_, loss)| loss.tokens > 0) {
        let rises: Vec<f64> = candidates.iter().map(|losses| losses[index].mean() - dense.mean()).collect();
        moments.push(dense.tokens as f64, &rises);
    }
    moments.finish(name)
}
