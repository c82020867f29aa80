//! The scores, as a table: each is a file, or a small family in one, and a line in [`METRICS`].
//!
//! What a score is computed from is its [`Evaluate`]; `importance::measure` makes one pass for each kind that is asked
//! for, whatever the number of scores.

mod accuracy;
mod angular;
mod barrier;
mod cka;
mod cosine;
mod distances;
mod gates;
mod ggr;
mod gradient;
mod lamp;
mod linear_probe;
mod logit_lens;
mod loss;
mod magnitude;
mod margin;
mod of_weights;
mod outliers;
mod pair;
mod quiet;
mod relative_magnitude;
mod shapley;
mod taylor;

pub use distances::{LogitDistance, TokenLogits};
pub use of_weights::{Needs, OfWeights, Sizes, Weight};
pub use pair::Pair;
pub use shapley::{Drawn, of_subsets};

use super::draws::Draws;
use super::evidence::Evidence;
use super::moments::Scores;
use crate::model::{EndOfStack, StackUnit};
use crate::plan::{Dropped, SubLayer};
use crate::{Error, Result};

/// What one value of a metric speaks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The n layers from l on, for every l and n.
    Block,
    /// One layer.
    Layer,
    /// One sub-layer: 2l is the attention of layer l, 2l+1 its MLP.
    SubLayer,
    /// The stream that enters layer l, l = 0 ..= L; the last is what leaves the last layer. Nothing to drop.
    Depth,
    /// Layers l and l+n-1, for every l and n, where the two are one for n = 1. No plan follows it.
    LayerPair,
    /// The same of sub-layers, numbered as those.
    SubLayerPair,
}

impl Subject {
    /// What is run or left out one by one.
    #[must_use]
    pub fn unit(self) -> StackUnit {
        match self {
            Self::SubLayer | Self::SubLayerPair => StackUnit::SubLayer,
            Self::Block | Self::Layer | Self::Depth | Self::LayerPair => StackUnit::Layer,
        }
    }

    /// What goes when `dropped` does, which are numbers of layers or of sub-layers.
    #[must_use]
    pub fn gone(self, dropped: &[usize]) -> Dropped {
        match self {
            Self::SubLayer | Self::SubLayerPair => {
                let mut gone = Dropped::default();
                for own in dropped {
                    gone.insert(own / 2, SubLayer::ALL[own % 2]);
                }
                gone
            }
            Self::Block | Self::Layer | Self::Depth | Self::LayerPair => {
                Dropped { layers: dropped.iter().copied().collect(), ..Dropped::default() }
            }
        }
    }

    /// Lengths of the rows of values for a model of `layers` layers: row n-1 holds the blocks of n layers, or the pairs
    /// that are the ends of such, and all else has one row.
    #[must_use]
    pub fn rows(self, layers: usize) -> Vec<usize> {
        match self {
            Self::Block | Self::LayerPair => (1..=layers).rev().collect(),
            Self::SubLayerPair => (1..=2 * layers).rev().collect(),
            Self::Layer => vec![layers],
            Self::SubLayer => vec![2 * layers],
            Self::Depth => vec![layers + 1],
        }
    }
}

/// Which tokens of a sample count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// The last one, the only one that has seen the whole sample; samples weigh the same.
    Last,
    /// All of them; tokens weigh the same.
    All,
}

/// Which values speak for dropping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest go first: a distance.
    Lowest,
    /// The highest go first: a similarity.
    Highest,
}

impl Order {
    /// `value` turned so that the lowest goes first.
    #[must_use]
    pub fn cost(self, value: f64) -> f64 {
        match self {
            Self::Lowest => value,
            Self::Highest => -value,
        }
    }
}

/// What a value is computed from.
#[derive(Clone, Copy, Debug)]
pub enum Evaluate {
    /// The residual streams of one token at the two ends; the metric is the mean over tokens. One pass gives them all.
    Pair(fn(&Pair) -> f64),
    /// The numbers of one channel, over the tokens of a sample, at the two ends; the metric is the mean over channels,
    /// then over samples. One pass gives them all.
    Channels(fn(&Pair) -> f64),
    /// Scores of other metrics of the same subject, each a row of values.
    Scores(&'static [&'static Metric], fn(&[&[f64]]) -> Vec<f64>),
    /// The loss of what final norm and head make of the stream at each depth, in nats a token.
    Lens,
    /// The weights of each layer, and what is to be known beside them.
    Weights(Needs, fn(&Sizes) -> Box<dyn OfWeights>),
    /// For each sequence the gradient of its mean loss to a factor before the update of a layer or sub-layer, at 1;
    /// the metric is the mean over sequences. One pass forward and one back give them all.
    Gates(fn(f64) -> f64),
    /// The mean over sequences of the product of two such gradients.
    GatePairs,
    /// The loss of the model without those layers, less that of the whole model, in nats a token. Every candidate is
    /// computed, so it is taken where it is asked for alone.
    Loss,
    /// How far the logits of the model without those layers lie from those of the whole model.
    Logits(LogitDistance),
    /// The streams that leave the last layer with and without those layers; the argument is the number of
    /// candidates.
    Outputs(fn(usize) -> Box<dyn OfOutputs>),
    /// Stacks that the metric asks for itself.
    Coalitions(Coalitions),
    /// The share of a task's questions that is answered wrongly without those layers, less that of the whole model.
    Accuracy,
    /// Of a question, the log-likelihoods of its choices by what final norm and head make of the stream at each depth,
    /// and which of them is right; the metric is the mean over questions. One pass gives all depths.
    Choices(fn(&[f32], usize) -> f64),
    /// Of all questions, the streams after which they are to be answered, `[question, d]` of one depth, and which
    /// choice of each is right: whether each is told. One pass gives all depths.
    Probe(fn(&[f32], &[usize]) -> Result<Vec<bool>>),
    /// The loss with layers mixed with those of another model, less the mean of what both models lose, in nats a
    /// token. It speaks of the way between two models, not of what the layer is worth, so that no plan follows it.
    Mixed(Mixture),
}

/// Which layers are mixed with another model's, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    /// The other model's part p: a layer's tensors are (1-p) times its own plus p times the other's.
    pub part: f64,
    /// Whether all layers below are mixed as well.
    pub below: bool,
}

/// How a metric asks for stacks, one after the other or many at once.
#[derive(Clone, Copy, Debug)]
pub struct Coalitions {
    /// What is measured of a stack.
    pub value: &'static Metric,
    /// Layers computed for each token, at most, of a model of so many.
    pub passes: fn(usize, &Draws) -> usize,
    /// The scores of the metric that this is, from `value` of what it asks for.
    pub scores: fn(&Metric, &'static Metric, &mut dyn Evidence, &Draws) -> Result<Scores>,
}

impl Evaluate {
    /// Whether it asks for text.
    #[must_use]
    pub fn needs_text(self) -> bool {
        !matches!(self, Self::Weights(Needs::Nothing, _)) && !self.asks_questions()
    }

    /// Whether it asks for questions with choices.
    #[must_use]
    pub fn asks_questions(self) -> bool {
        matches!(self, Self::Accuracy | Self::Choices(_) | Self::Probe(_))
    }

    /// What has to be computed, in a few words.
    #[must_use]
    pub fn cost(self) -> &'static str {
        match self {
            Self::Pair(_) | Self::Scores(..) | Self::Lens => "one pass",
            Self::Channels(_) => "one pass, channel by channel",
            Self::Weights(Needs::Nothing, _) => "the weights read once, no text",
            Self::Weights(Needs::Inputs, _) => "one pass, and the weights read once",
            Self::Weights(Needs::Gradients, _) | Self::Gates(_) | Self::GatePairs => "one pass forward and one back",
            Self::Choices(_) | Self::Probe(_) => "one pass over questions",
            Self::Accuracy => "a pass over questions, for every candidate's layers",
            Self::Loss | Self::Logits(_) | Self::Outputs(_) => "a pass over every candidate's layers",
            Self::Coalitions(_) => "a pass over the layers of every subset or window",
            Self::Mixed(_) => "a pass of the other model, and one over every mixed stack's layers",
        }
    }

    /// Whether every candidate is run.
    #[must_use]
    pub fn removes(self) -> bool {
        matches!(self, Self::Loss | Self::Logits(_) | Self::Outputs(_) | Self::Accuracy)
    }
}

/// Compares what leaves the last layer with and without some layers, batch by batch.
pub trait OfOutputs {
    /// Bytes that it keeps for streams of width `d`.
    fn bytes(&self, d: usize) -> u64;

    /// Takes the streams of a batch, of candidate number `candidate`; the first comes in every batch.
    ///
    /// # Errors
    /// The device's.
    fn see(&mut self, candidate: usize, end: &EndOfStack<'_>) -> Result<()>;

    /// The value of each candidate.
    ///
    /// # Errors
    /// The device's, or too few tokens.
    fn finish(self: Box<Self>) -> Result<Vec<f64>>;
}

/// One score: a row of [`METRICS`].
#[derive(Debug)]
pub struct Metric {
    /// What `--metric` calls it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// What a value speaks about.
    pub subject: Subject,
    /// Which tokens count.
    pub tokens: Tokens,
    /// Which values speak for dropping.
    pub order: Order,
    /// What a value is computed from.
    pub value: Evaluate,
    /// Whether it is measured where no scores are named.
    pub usual: bool,
}

impl Metric {
    /// Whether it says of a layer or sub-layer what dropping it means, so that a plan can follow it.
    #[must_use]
    pub fn speaks_of_dropping(&self) -> bool {
        matches!(self.subject, Subject::Block | Subject::Layer | Subject::SubLayer) && self.mixture().is_none()
    }

    /// Whether it runs sub-layers one after the other, which those of a parallel block do not go.
    #[must_use]
    pub fn runs_sublayers(&self) -> bool {
        self.subject.unit() == StackUnit::SubLayer && !matches!(self.value, Evaluate::Gates(_) | Evaluate::GatePairs)
    }

    /// Which layers it mixes with another model's, where it does.
    #[must_use]
    pub fn mixture(&self) -> Option<Mixture> {
        if let Evaluate::Mixed(mixture) = self.value { Some(mixture) } else { None }
    }
}

/// Every score, the paper's own first.
pub const METRICS: &[Metric] = &[
    angular::LAST,
    cosine::COSINE,
    angular::ALL,
    cosine::BLOCK_INFLUENCE,
    relative_magnitude::OF_LEAVING,
    loss::BLOCKS,
    loss::LAYERS,
    loss::SUBLAYERS,
    relative_magnitude::OF_ENTERING,
    quiet::ON_BOTH,
    magnitude::MAGNITUDE,
    taylor::TAYLOR,
    gradient::GRADIENT,
    ggr::SHARE,
    gates::LAYERS,
    gates::SUBLAYERS,
    gates::FISHER_OF_LAYERS,
    gates::FISHER_OF_SUBLAYERS,
    gates::FISHER_OF_LAYER_PAIRS,
    gates::FISHER_OF_SUBLAYER_PAIRS,
    outliers::OF_3,
    outliers::OF_5,
    lamp::DENSITY,
    cka::BIASED,
    cka::DEBIASED,
    cka::BIASED_REST,
    cka::DEBIASED_REST,
    logit_lens::LOSS,
    distances::JS,
    distances::JS_REVERSED,
    distances::KL,
    distances::ANGULAR,
    distances::NORM,
    distances::NORM_OF_TOKENS,
    shapley::BY_LOSS,
    shapley::BY_LOGITS,
    shapley::WINDOWED,
    distances::JS_OF_SUBLAYERS,
    distances::JS_REVERSED_OF_SUBLAYERS,
    cosine::CHANNELS,
    accuracy::BLOCKS,
    accuracy::LAYERS,
    accuracy::SUBLAYERS,
    margin::MARGIN,
    margin::ACCURACY,
    linear_probe::PROBE,
    barrier::HALFWAY,
    barrier::SWAPPED,
    barrier::CUMULATIVE,
];

/// The row called `name`.
///
/// # Errors
/// No such row; the message lists what there is.
pub fn metric(name: &str) -> Result<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name).ok_or_else(|| {
        let known: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        Error::request(format!("no metric is called {name:?}; there are {}", known.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for (index, row) in METRICS.iter().enumerate() {
            assert!(METRICS[..index].iter().all(|earlier| earlier.name != row.name));
            assert_eq!(metric(row.name).unwrap().name, row.name);
        }
        assert!(metric("angulr").unwrap_err().to_string().contains("block-influence"));
    }

    #[test]
    fn what_one_pass_gives_alone_is_measured_unasked() {
        for row in METRICS {
            assert!(!row.usual || matches!(row.value, Evaluate::Pair(_)), "{}", row.name);
            if let Evaluate::Scores(parts, _) = row.value {
                assert!(parts.iter().all(|part| part.subject == row.subject && metric(part.name).is_ok()));
            }
        }
    }
}
