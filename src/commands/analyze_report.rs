//! What `prune analyze` says it did, or would do.

use std::path::PathBuf;

use serde::Serialize;

use super::against::AgainstReport;
use super::analyze_group::AnalyzeGroup;
use crate::importance::{Analysis, DataUsed};
use crate::model::Residency;

/// What the command did.
#[derive(Debug, Serialize)]
pub struct AnalyzeReport {
    /// The scores and the plan; absent in a dry run.
    pub analysis: Option<Analysis>,
    /// How the pass ran, or would run.
    pub pass: Option<PassReport>,
    /// The processes that do it together; absent for one alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<AnalyzeGroup>,
    /// Files written.
    pub written: Vec<PathBuf>,
}

/// How a pass over the text runs.
#[derive(Debug, Serialize)]
pub struct PassReport {
    /// Layers in memory, or streamed from disk.
    pub residency: Residency,
    /// Bytes of weights in memory at once.
    pub weight_bytes: u64,
    /// Cap on memory, bytes.
    pub memory_bytes: u64,
    /// Sequences.
    pub samples: usize,
    /// Tokens.
    pub tokens: usize,
    /// Where there are several texts, what of each is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<DataUsed>,
    /// Layers computed for each token where every candidate of a metric is; 0 where one pass gives all.
    pub layer_passes: usize,
    /// Questions that are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<AskedReport>,
    /// The passes of the other model and of both together, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<AgainstReport>,
    /// Candidates that an earlier process measured, which this one went on from.
    #[serde(skip_serializing_if = "is_zero")]
    pub recalled: usize,
    /// Seconds of the pass, loading not counted; absent in a dry run.
    pub seconds: Option<f64>,
}

/// Questions and what asking them takes.
#[derive(Debug, Serialize)]
pub struct AskedReport {
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// How many questions.
    pub questions: usize,
    /// Tokens that are run, shared beginnings counted once a pass.
    pub tokens: usize,
    /// Layers computed for each of them.
    pub layer_passes: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}
