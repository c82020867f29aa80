//! Which layers matter: scores from one pass over text, and the plan that follows from them.
//!
//! A [`Probe`] watches the residual streams of a pass and fills every row of [`METRICS`]; an [`Analysis`] keeps the
//! scores as a file (`analysis.json`); a pick of `methods` turns the scores of one metric into the layers to drop.
//!
//! # Add a metric
//! A metric is a file in `metrics/`, or its place in the file of its family, and a line in [`METRICS`]. The row says
//! what a value speaks of (blocks, layers, sub-layers, depths), whether low or high goes first, and with [`Evaluate`]
//! what it is computed from; the analysis file, `--metric`, tables, figures and picks follow from that, and a pass of
//! each kind serves all metrics of the kind.
//!
//! * [`Evaluate::Pair`]: a function of lengths and angle of one token's stream where it enters and where it leaves;
//! * [`Evaluate::Channels`]: the same of one channel over the tokens of a sample;
//! * [`Evaluate::Scores`]: a function of other metrics' scores;
//! * [`Evaluate::Weights`]: an [`OfWeights`], which sees the weights of each layer, alone or with gradients or inputs;
//! * [`Evaluate::Gates`]: a function of the gradient to a factor before an update;
//! * [`Evaluate::Logits`], [`Evaluate::Outputs`]: what the model gives without the layers, against what it gives whole;
//! * [`Evaluate::Accuracy`], [`Evaluate::Choices`], [`Evaluate::Probe`]: what the model makes of [`Questions`];
//! * [`Evaluate::Coalitions`]: a function that asks an [`Evidence`] for the stacks it needs;
//! * [`Evaluate::Mixed`]: how far which layers are mixed with another model's, which [`Mixtures`] runs.
//!
//! ```
//! use prune::importance::{Evaluate, METRICS, Metric, Order, Pair, Subject, Tokens, metric};
//!
//! // all of `metrics/angular.rs`
//! const ANGULAR: Metric = Metric {
//!     name: "angular",
//!     about: "angular distance of the last token",
//!     reference: "Gromov et al., arXiv 2403.17887, eq. 7",
//!     subject: Subject::Block,
//!     tokens: Tokens::Last,
//!     order: Order::Lowest,
//!     value: Evaluate::Pair(Pair::angle),
//!     usual: true,
//! };
//! let Evaluate::Pair(angular) = metric(ANGULAR.name)?.value else { unreachable!() };
//! // squared lengths of the two streams and their inner product: at a right angle
//! assert_eq!(angular(&Pair::new(4.0, 9.0, 0.0)), 0.5);
//! assert!(METRICS.iter().all(|row| !row.reference.is_empty()));
//! # Ok::<(), prune::Error>(())
//! ```

mod amount;
mod analysis;
mod check;
mod choice;
mod data_used;
mod draws;
mod evidence;
mod final_states;
mod gram;
mod journal;
mod json;
mod measure;
mod metrics;
mod mixtures;
mod moments;
mod observer;
mod parts;
mod probe;
mod questions;
mod removals;
mod shared;
mod streams;
mod texts;
mod unfinished;

pub use amount::{Amount, Protect};
pub use analysis::{Analysis, Searched, scores_of};
pub(crate) use choice::is_within;
pub use choice::{Choice, Kept, Listed, Rise, RunnerUp};
pub use data_used::{DataUsed, QuestionsUsed};
pub use draws::{Draws, Uniforms};
pub use evidence::{Evidence, Measured};
pub use final_states::FinalStates;
pub use journal::{Journal, MeasuredOn, Recalled};
pub use measure::{Sources, measure, measure_weights, measure_with};
pub(crate) use measure::{reserved_bytes, with_parts};
pub use metrics::{
    Coalitions, Drawn, Evaluate, LogitDistance, METRICS, Metric, Mixture, Needs, OfOutputs, OfWeights, Order, Pair,
    Sizes, Subject, TokenLogits, Tokens, Weight, metric, of_subsets,
};
pub use mixtures::{Against, Mixtures};
#[cfg(test)]
pub(crate) use moments::Moments;
pub use moments::Scores;
pub use observer::Watch;
pub use parts::{PartOf, Together};
pub use probe::Probe;
pub use questions::{Questions, measure_questions};
pub(crate) use questions::{check_questions, question_bytes};
pub(crate) use removals::rises;
pub use removals::{Removals, without};
pub use shared::Shared;
pub use streams::Streams;
pub(crate) use texts::check_size;
pub use texts::{Agreement, OfText, Transfer, together};
pub use unfinished::Unfinished;
