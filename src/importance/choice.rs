//! The layers to drop for one number of them, as an analysis keeps them.

use serde::{Deserialize, Serialize};

/// Two scores are told apart when they differ by more than this many standard errors of their difference.
const ERRORS_APART: f64 = 2.0;

/// The layers to drop for one n, and how sure that is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The layers to drop, ascending.
    pub drop: Vec<usize>,
    /// Score of the block; for single layers, that of the worst among those dropped.
    pub score: f64,
    /// Its standard error; absent with a single sample.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<f64>,
    /// The next best choice, if there is another.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub runner_up: Option<RunnerUp>,
    /// First layers of the other blocks that cannot be told from this one: their difference is at most two standard
    /// errors of that difference. For single layers, the kept ones that cannot be told from the worst dropped.
    pub rivals: Vec<usize>,
    /// What the loss rises by without these layers, where that was measured beside the score.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<Rise>,
    /// The best by score, where their loss decides: the one that costs least, which this choice drops, first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub short_list: Vec<Listed>,
}

/// What the loss rises by, in nats a token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rise {
    /// The mean over predicted tokens.
    pub mean: f64,
    /// Its standard error over the samples; absent with a single one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<f64>,
}

/// A choice on a short list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its place by score, from 1.
    pub rank: usize,
    /// The layers it drops, ascending.
    pub drop: Vec<usize>,
    /// Its score, as [`Choice::score`].
    pub score: f64,
    /// What the loss rises by without those layers.
    pub loss: Rise,
}

impl Choice {
    /// Number of layers dropped, n.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.drop.len()
    }
}

/// The choice that would come next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunnerUp {
    /// The layers it would drop, ascending.
    pub drop: Vec<usize>,
    /// Its score, as [`Choice::score`].
    pub score: f64,
    /// How much worse than the best that is, never negative.
    pub difference: f64,
    /// Standard error of the difference over the same samples; absent with a single sample.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub difference_stderr: Option<f64>,
}

impl RunnerUp {
    /// Whether it lies within two standard errors; unknown with a single sample.
    #[must_use]
    pub fn is_within_error(&self) -> Option<bool> {
        self.difference_stderr.map(|error| is_within(self.difference, error))
    }
}

/// Whether a difference to the best is no more than two standard errors of it.
pub(crate) fn is_within(difference: f64, error: f64) -> bool {
    difference <= ERRORS_APART * error
}
