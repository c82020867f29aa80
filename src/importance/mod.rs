//! Which layers matter: scores from one pass over text, and the plan that follows from them.
//!
//! A [`Probe`] watches the residual streams of a pass and fills every row of [`METRICS`]; an [`Analysis`] keeps the
//! scores as a file (`analysis.json`); a pick of `methods` turns the scores of one metric into the layers to drop.
//!
//! # Add a metric
//! A function of the two ends of a block or layer is a row of [`METRICS`] in `metrics.rs` and nothing else:
//! [`Evaluate::Pair`] takes lengths and angle of one token's stream where it enters and where it leaves, and the mean
//! over tokens is the score. The row says whether it speaks of blocks or single layers, of last tokens or all, and
//! whether low or high goes first; the analysis file, `--metric`, figures and picks follow from that.
//!
//! ```
//! use prune::importance::{Evaluate, METRICS, Pair, metric};
//!
//! let Evaluate::Pair(angular) = metric("angular")?.value else { unreachable!() };
//! // squared lengths of the two streams and their inner product: at a right angle
//! assert_eq!(angular(&Pair::new(4.0, 9.0, 0.0)), 0.5);
//! assert!(METRICS.iter().all(|row| !row.reference.is_empty()));
//! # Ok::<(), prune::Error>(())
//! ```

mod amount;
mod analysis;
mod check;
mod choice;
mod evidence;
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
pub use evidence::{Evidence, Measured};
pub use losses::{Losses, rises, without};
pub use metrics::{Evaluate, METRICS, Metric, Order, Pair, Subject, Tokens, metric};
#[cfg(test)]
pub(crate) use moments::Moments;
pub use moments::Scores;
pub use observer::Watch;
pub use probe::Probe;
pub use streams::Streams;
