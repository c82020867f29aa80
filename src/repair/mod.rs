//! Repairs: what is put at the seams of a cut, fitted in closed form on text, or a layer beside a gap that learns it,
//! so that a checkpoint in the source's own form comes of it. No gradient goes through more than one layer.
//!
//! Two streams of the same text advance together, layer by layer: that of the whole model and that of the cut one. At a
//! seam the whole model's runs ahead over the gap. What the two differ by there is what a repair explains from what the
//! layer before the seam gives, or, with [`refit`](REPAIRS), from what enters each output projection behind it.
//! Memory is the streams and the sums of one projection, whatever the model's size.
//!
//! Every fourth sequence judges and takes no part in a fit.
//!
//! A merge needs no text: the layer before a gap becomes a sum of itself and of the layers that go ([`merged`]). A
//! layer that learns its gap is trained on streams of the whole model, which are recorded once, in memory or on disk.
//!
//! A layer that is inserted may be predicted from all others ([`predict`]), which trains a small network on weights
//! alone.
//!
//! # Add a repair
//! A repair at the seams is a file here and a line in [`REPAIRS`]: a function from the sums over the tokens of the
//! fitting text to a [`SeamEstimate`] of the stream behind the gap, α·Y + P·T + b, where P is the update of the last
//! sub-layer before the seam and Y the stream that the update is added to. The map T and b go into that sub-layer's
//! output projection, and α divides the output projections of all later sub-layers, whose norms do not see the size of
//! the stream. The report says what share of the difference the estimate explains.
//!
//! ```
//! use prune::arch::ModelSpec;
//! use prune::checkpoint::{ByteSize, Checkpoint};
//! use prune::model::{Model, ModelOptions};
//! use prune::plan::{Plan, PlannedFor};
//! use prune::progress::Silent;
//! use prune::repair::{Found, How, Map, Repair, RepairTask, SeamEstimate, fit};
//! use prune::surgery::{Cut, CutOptions};
//! use std::sync::Arc;
//!
//! /// The last update before the seam taken so many times that it comes closest to what the gap did.
//! const LOUDER: Repair = Repair {
//!     name: "louder",
//!     about: "the last update before a seam times a number",
//!     reference: "this example",
//!     opens_everywhere: true,
//!     how: How::Seams(|sums| {
//!         let (mut own, mut both) = (0.0, 0.0);
//!         for at in (0..sums.d * sums.d).step_by(sums.d + 1) {
//!             own += sums.gram[at];
//!             both += sums.with_target[at] - sums.with_stream[at];
//!         }
//!         Ok(SeamEstimate { scale: 1.0, map: Map::Times(both / own), bias: None })
//!     }),
//! };
//!
//! let dir = tempfile::tempdir()?;
//! prune::pico::write(dir.path())?;
//! let source = Arc::new(Checkpoint::open_dir(dir.path())?);
//! let identity =
//!     PlannedFor { id: "pico".into(), revision: None, fingerprint: source.fingerprint(), layers: 4 };
//! let plan = Plan::drop_layers(identity.clone(), &[2].into())?;
//! let options = CutOptions { max_shard_size: ByteSize(1 << 30), allow_unsliced: &[], format: None };
//! let cut = Cut::new(&source, &identity, plan.clone(), &options)?;
//!
//! let open = |checkpoint| Model::open(checkpoint, &ModelOptions::default(), &Silent);
//! let (whole, pruned) = (open(source.clone())?, open(Arc::new(cut.blueprint().open()?))?);
//! let text: Vec<Vec<u32>> = (0..12).map(|row| (0..30).map(|at| (at * 7 + row * 3) % 64).collect()).collect();
//! let judging: Vec<bool> = (0..12).map(|row| row % 4 == 0).collect();
//! let (first, keeps, changed) = (true, true, false);
//! let (plan, sequences, judging) = (&plan, &text, &judging);
//! let (rank, training, spill, state) = (None, None, None, None);
//! let (whole, cut_model) = (&whole, &pruned);
//! let task = RepairTask {
//!     whole, cut: cut_model, plan, changed, sequences, judging, first, keeps, rank, training, spill, state
//! };
//! let repaired = fit(&LOUDER, &task, &Silent)?;
//!
//! let Found::Seams(seams) = &repaired.found else { unreachable!() };
//! assert!(seams.len() == 1 && seams[0].explained > 0.0);
//! // the tensor that is made otherwise, in a checkpoint to be written or run
//! let copied = cut.blueprint().copied().count();
//! let cut = cut.repaired(repaired.changes(repaired.step), serde_json::json!({"name": LOUDER.name}))?;
//! assert_eq!(cut.blueprint().copied().count(), copied - 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bias;
mod change;
mod check;
mod counted;
mod course;
mod fit;
mod fold;
mod hadamard;
mod joint;
mod layer_fit;
mod lesa;
mod lesa_network;
mod maps;
mod merge;
mod normal;
mod recorded;
mod refit;
mod scale;
mod seam;
mod sums;
mod trained;
mod training_state;
mod units;

pub use check::{RepairNeeds, TextTokens};
pub use fit::{Found, RepairTask, Repaired, fit};
pub use lesa::{Decomposed, Predicted, lesa_bytes, predict};
pub use maps::SeamMapping;
pub use merge::merged;
pub use refit::RefitStep;
pub use seam::SeamFit;
pub use sums::{Map, SeamEstimate, SeamSums};
pub use trained::{LayerTraining, Neighbor, TrainedLayer};
pub use training_state::TrainingState;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// One repair, a row of [`REPAIRS`].
#[derive(Debug)]
pub struct Repair {
    /// What `--repair` calls it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// Whether what comes of it opens wherever the source does.
    pub opens_everywhere: bool,
    /// How it is fitted.
    pub how: How,
}

/// How a repair is fitted.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Every output projection behind the first seam, one after the other.
    Projections,
    /// At each seam, from sums over the tokens of the fitting text.
    Seams(fn(&SeamSums) -> Result<SeamEstimate>),
    /// The same, where what is fitted needs a bias of the projection before the seam.
    BiasAtSeams(fn(&SeamSums) -> Result<SeamEstimate>),
    /// By a linear map of the stream at each seam, which no standard file has.
    Maps(SeamMapping),
    /// Not at all: what the layer before a gap and the layers of the gap are taken times in a sum that takes its
    /// place. `None` leaves a tensor as it is. Whether it is a projection's, and the number of layers of the gap.
    Merged(fn(bool, usize) -> Option<Vec<f64>>),
    /// By training the layer beside each gap, so where nobody says otherwise.
    Trained(Neighbor, LayerTraining),
}

impl Repair {
    /// Whether it is fitted on text.
    #[must_use]
    pub fn needs_text(&self) -> bool {
        !matches!(self.how, How::Merged(_))
    }

    /// Whether a rank can be chosen.
    #[must_use]
    pub fn has_rank(&self) -> bool {
        matches!(self.how, How::Maps(SeamMapping { rank: Some(_), .. }))
    }

    /// Whether it makes a cut follow its whole model that has been trained since.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self.how, How::Projections | How::Seams(_) | How::BiasAtSeams(_))
    }

    /// Whether it puts linear maps behind layers, which no standard file has.
    #[must_use]
    pub fn has_maps(&self) -> bool {
        matches!(self.how, How::Maps(_))
    }

    /// How it trains layers where nobody says otherwise; `None` where it trains none.
    #[must_use]
    pub fn training(&self) -> Option<LayerTraining> {
        match self.how {
            How::Trained(_, training) => Some(training),
            _ => None,
        }
    }
}

/// The repairs.
pub const REPAIRS: &[Repair] = &[
    refit::REFIT,
    fold::FOLD,
    fold::FOLD_PLAIN,
    joint::JOINT,
    scale::SCALE,
    bias::BIAS,
    maps::OPERATOR,
    maps::REDUCED_RANK,
    maps::PATCH,
    maps::PATCH_DIAGONAL,
    merge::RDSC,
    merge::AVERAGE,
    trained::STREAMLINE,
    trained::XMERGE,
];

/// What `best` stands for: what has brought most back on real models.
pub const BEST: (&str, &Repair) = ("best", &refit::REFIT);

/// The row called `name`, or [`BEST`].
///
/// # Errors
/// Request: no such row; the message names the nearest and lists all.
pub fn repair(name: &str) -> Result<&'static Repair> {
    let best = (name == BEST.0).then_some(BEST.1).and_then(|best| REPAIRS.iter().find(|row| row.name == best.name));
    best.or_else(|| REPAIRS.iter().find(|row| row.name == name)).ok_or_else(|| {
        let known: Vec<&str> = REPAIRS.iter().map(|row| row.name).collect();
        let likeness = |known: &&&str| strsim::jaro_winkler(name, known);
        let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let meant = nearest.filter(|near| likeness(near) > 0.7).map(|near| format!(", did you mean {near}?"));
        Error::request(format!(
            "no repair is called {name:?}{} there are {}",
            meant.as_deref().unwrap_or(";"),
            known.join(", ")
        ))
    })
}

impl Serialize for Repair {
    /// As its name.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl PartialEq for Repair {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Repair {}

impl<'de> Deserialize<'de> for &'static Repair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        repair(&name).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_the_nearest_is_named() {
        let mut names: Vec<&str> = REPAIRS.iter().map(|row| row.name).collect();
        assert!(names.iter().all(|name| repair(name).is_ok_and(|row| row.name == *name && !row.reference.is_empty())));
        names.dedup();
        assert_eq!(names.len(), REPAIRS.len());
        let error = repair("refitt").unwrap_err();
        assert!(error.to_string().contains("did you mean refit?") && error.exit_code() == 2, "{error}");
        assert!(repair("xyz").unwrap_err().to_string().contains("there are refit, fold"));
    }
}
