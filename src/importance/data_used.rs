//! What an analysis was measured on, as its file tells it.

use serde::{Deserialize, Serialize};

/// The text the scores were taken on; no samples where they come from weights alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataUsed {
    /// File, directory or data set, as the user gave it.
    pub source: String,
    /// Samples, each a sequence of tokens.
    pub samples: usize,
    /// Tokens of all samples.
    pub tokens: u64,
    /// Longest sample allowed, in tokens.
    pub seq_len: usize,
    /// Seed of the choice of samples.
    pub seed: u64,
    /// The questions, where some were asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asked: Option<QuestionsUsed>,
}

/// The questions that scores were taken on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionsUsed {
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// How many questions.
    pub questions: usize,
}
