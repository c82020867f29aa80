//! What a repair of `prune cut` came to.

use serde::Serialize;

use crate::importance::rises;
use crate::model::Loss;
use crate::repair::{Found, RefitStep, Repaired, SeamFit, TrainedLayer};

/// Some sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TextSize {
    /// How many.
    pub sequences: usize,
    /// Tokens in them.
    pub tokens: usize,
}

/// A repair, as it was or would be done.
#[derive(Clone, Debug, Serialize)]
pub struct RepairReport {
    /// Its name.
    pub name: &'static str,
    /// The text it is fitted on.
    pub fitted_on: TextSize,
    /// The text that judges it.
    pub judged_by: TextSize,
    /// Bytes of memory that it takes, as computed.
    pub memory_bytes: u64,
    /// Cap on memory, bytes.
    pub memory_cap: u64,
    /// Seconds it may take on this machine, told in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<f64>,
    /// What came of it; absent in a dry run.
    pub result: Option<RepairResult>,
}

/// What came of a repair. Losses are those of the judging text, in nats a token.
#[derive(Clone, Debug, Serialize)]
pub struct RepairResult {
    /// Loss of the model before the cut.
    pub whole: f64,
    /// Loss of the cut alone.
    pub cut: f64,
    /// Loss of the repaired cut.
    pub repaired: f64,
    /// What the repair changes the cut's loss by, sequence by sequence, and its standard error.
    pub change: f64,
    /// Absent with a single judging sequence.
    pub change_stderr: Option<f64>,
    /// The part of the fitted changes that was taken.
    pub step: f64,
    /// The loss with each part that was tried.
    pub steps: Vec<(f64, f64)>,
    /// Tensors that were made anew.
    pub tensors: usize,
    /// Of each output projection behind the first seam, what was fitted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub projections: Vec<RefitStep>,
    /// Of each seam, what was fitted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seams: Vec<SeamFit>,
    /// Of each layer that was trained, what came of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<TrainedLayer>,
    /// Seconds it took.
    pub seconds: f64,
}

/// What came of `repaired`, in so many seconds.
pub(super) fn result(repaired: &Repaired, seconds: f64) -> RepairResult {
    let mean = |losses: &[Loss]| Loss::total(losses).mean();
    let (cut, after) = (repaired.losses_at(0.0), repaired.losses_at(repaired.step));
    let maps = repaired.seam_maps().values().map(|(_, factors)| factors.len()).sum::<usize>();
    let change = rises(cut, &[&after.to_vec()], vec![1], "repair");
    let (projections, seams, layers) = match repaired.found.clone() {
        Found::Projections(steps) => (steps, Vec::new(), Vec::new()),
        Found::Seams(seams) => (Vec::new(), seams, Vec::new()),
        Found::Layers(layers) => (Vec::new(), Vec::new(), layers),
    };
    RepairResult {
        whole: mean(&repaired.whole),
        cut: mean(cut),
        repaired: mean(after),
        change: change.mean[0][0],
        change_stderr: change.error(1, 0),
        step: repaired.step,
        steps: repaired.losses.iter().map(|(step, losses)| (*step, mean(losses))).collect(),
        tensors: repaired.changes(repaired.step).len() + maps,
        projections,
        seams,
        layers,
        seconds,
    }
}
