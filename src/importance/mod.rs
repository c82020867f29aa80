//! Which layers matter: scores from one pass over text, and the plan that follows from them.
//!
//! A [`Probe`] watches the residual streams of a pass and fills every row of [`METRICS`]; an [`Analysis`] keeps the
//! scores as a file (`analysis.json`); a pick of `methods` turns the scores of one metric into the layers to drop.

mod amount;
mod analysis;
mod check;
mod choice;
mod gram;
mod json;
mod losses;
mod metrics;
mod moments;
mod observer;
mod probe;
mod streams;

pub use amount::{Amount, Protect};
pub use analysis::{Analysis, DataUsed, Searched, scores_of};
pub use choice::{Choice, RunnerUp};
pub use losses::{Losses, without};
pub use metrics::{Evidence, METRICS, Metric, Order, Pair, Subject, Tokens, metric};
#[cfg(test)]
pub(crate) use moments::Moments;
pub use moments::Scores;
pub use observer::Watch;
pub use probe::Probe;
pub use streams::Streams;
