//! What a report tells: a whole job's figures, gathered from the files its stages left.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Dropped;

/// A job from the dense model to its cut and healed variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunData {
    /// The model's directory or hub id.
    pub model: String,
    /// `llama`, `qwen3`: the model type.
    pub family: String,
    /// A sentence to stand beside every figure.
    pub caveat: Option<String>,
    /// What was measured on each variant, in the order of the tables.
    pub measures: Vec<ScoreColumn>,
    /// The model before the cut.
    pub dense: Variant,
    /// What became of it, by strategy, layers dropped, repair, unhealed before healed.
    pub variants: Vec<Variant>,
    /// Scores of all blocks; absent where no strategy asked for them.
    pub distances: Option<Distances>,
    /// The recipe as it was run, TOML.
    pub recipe: String,
    /// Program, version, hashes of what it read: key and value.
    pub provenance: Vec<(String, String)>,
    /// How far models are apart that are compared, document by document.
    #[serde(default)]
    pub differences: Vec<Difference>,
    /// What each strategy's choice takes, in a few words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub costs: BTreeMap<String, String>,
}

/// A figure of one model less that of another, both on the same documents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The model compared with: 0 for the dense one, then the variants in their order.
    pub from: usize,
    /// The model compared.
    pub to: usize,
    /// Place of the measure.
    pub measure: usize,
    /// Figure of `to` minus that of `from`.
    pub difference: f64,
    /// Standard error of the paired differences.
    pub stderr: Option<f64>,
    /// How likely so uneven a split of the questions on which they disagree is by chance, two-sided; absent for losses.
    pub p: Option<f64>,
}

/// A column of scores: a task's accuracy, or a loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreColumn {
    /// Task or group: `mmlu`, `mmlu_astronomy`, `boolq`, `c4`.
    pub task: String,
    /// Its name for people.
    pub title: String,
    /// `acc`, `loss`, `word_perplexity`.
    pub metric: String,
    /// What guessing would score; absent for losses.
    pub chance: Option<f64>,
    /// Lower is better.
    pub is_loss: bool,
    /// Depth in its group: 0 for what a summary shows.
    pub depth: usize,
}

/// One model: dense, cut, or cut and healed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Directory of its files, relative to the run's.
    pub dir: String,
    /// Which search chose what to drop: `similarity`, `deepest`; absent for the dense model.
    pub strategy: Option<String>,
    /// What it was repaired by, without training: `refit`; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<String>,
    /// Layers and sub-layers dropped, 0-based.
    pub dropped: Dropped,
    /// Whether it was fine-tuned after the cut.
    pub is_healed: bool,
    /// Layers left.
    pub layers: usize,
    /// Parameters.
    pub parameters: u64,
    /// Bytes of weights on disk.
    pub bytes: u64,
    /// One entry for each measure of the run; absent where a measure was not taken.
    pub scores: Vec<Option<Score>>,
    /// How it was healed.
    pub healing: Option<Healing>,
    /// How fast it runs here; absent where it was not measured.
    pub speed: Option<Speed>,
}

/// A figure with its error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The figure.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Documents it was measured on.
    pub documents: usize,
    /// Share of the questions that got the commonest answer; absent for losses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority: Option<f64>,
    /// Whether the figure says nothing good of the model: one answer to every question, or a loss above guessing.
    #[serde(default)]
    pub is_degenerate: bool,
}

/// A fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Healing {
    /// Optimiser steps.
    pub steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// Loss of the uncut model on the validation text, nats a token.
    #[serde(default)]
    pub uncut: Option<f64>,
    /// Of the model only cut.
    #[serde(default)]
    pub cut: Option<f64>,
    /// Of the model as it was written.
    #[serde(default)]
    pub healed: Option<f64>,
    /// Standard error of the difference of the last two, sequence by sequence.
    #[serde(default)]
    pub healed_stderr: Option<f64>,
    /// Share of the cut's damage that is undone.
    #[serde(default)]
    pub undone: Option<f64>,
    /// Which tokens that was measured on.
    #[serde(default)]
    pub text: Option<String>,
    /// Validation loss before the first step, under the weights that were trained against, which may be in four bits.
    pub loss_before: Option<f64>,
    /// The best of those.
    pub best_loss: Option<f64>,
    /// Steps after which it was best.
    pub best_step: Option<usize>,
    /// Step and training loss.
    pub training: Vec<(usize, f64)>,
    /// Step and validation loss.
    pub validation: Vec<(usize, f64)>,
}

/// Speed and memory on the machine of the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens a second, reading a prompt.
    pub prompt: f64,
    /// Tokens a second, writing one after the other.
    pub generation: f64,
    /// Seconds from a prompt to the first new token.
    pub first_token: f64,
    /// Memory it takes, added up: weights, keys and values, activations; bytes.
    pub memory: u64,
    /// Least and most of the measurements that the three figures are the middle of, in their order.
    #[serde(default)]
    pub ranges: [(f64, f64); 3],
}

/// Scores of all blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// `angular`…
    pub metric: String,
    /// Its name for people: `angular distance`.
    pub title: String,
    /// Row n-1 holds the blocks of n layers, entry l the one that starts at layer l; one row where layers are scored.
    pub mean: Vec<Vec<f64>>,
    /// Standard errors, laid out alike.
    pub stderr: Vec<Vec<f64>>,
    /// First layer of the best block of each row, where there is one.
    pub best: Vec<Option<usize>>,
    /// Samples measured.
    pub samples: usize,
    /// The text they come from.
    pub text: String,
    /// More of a score is to go first: similarities.
    pub highest_first: bool,
}

impl RunData {
    /// All models, the dense one first.
    pub fn all(&self) -> impl Iterator<Item = &Variant> {
        std::iter::once(&self.dense).chain(&self.variants)
    }

    /// The places of two models and the measure they are compared in, if they were compared document by document.
    #[must_use]
    pub fn difference(&self, from: &Variant, to: &Variant, measure: usize) -> Option<&Difference> {
        let place = |variant: &Variant| self.all().position(|known| std::ptr::eq(known, variant));
        let (from, to) = (place(from)?, place(to)?);
        self.differences.iter().find(|found| (found.from, found.to, found.measure) == (from, to, measure))
    }

    /// Pairs of models that a report compares, as places in [`RunData::all`]: each with the dense one, healed with not
    /// healed, repaired with otherwise repaired, and strategies with each other where they drop as many layers.
    #[must_use]
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let mut pairs: Vec<(usize, usize)> = (1..=self.variants.len()).map(|to| (0, to)).collect();
        let all = self.variants.iter().zip(1..);
        for (from, a) in all.clone() {
            for (to, b) in all.clone().filter(|(_, place)| *place != a) {
                let is_same_cut = (&from.strategy, &from.dropped) == (&to.strategy, &to.dropped);
                let are_repaired_alike = from.repair == to.repair;
                let is_healing = is_same_cut && are_repaired_alike && !from.is_healed && to.is_healed;
                let is_repair = is_same_cut && !are_repaired_alike && a < b;
                let (sizes, are_healed) = ((from.dropped.size(), to.dropped.size()), (from.is_healed, to.is_healed));
                let is_rival = from.strategy != to.strategy && are_repaired_alike && sizes.0 == sizes.1;
                let is_rival = is_rival && are_healed.0 == are_healed.1;
                if is_healing || is_repair || is_rival {
                    pairs.push((a, b));
                }
            }
        }
        pairs
    }
}
