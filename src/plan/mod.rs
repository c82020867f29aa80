//! A plan: what stands at each place of the new stack. A file a person can read, edit and diff, and another tool can
//! make.
//!
//! ```json
//! {
//!   "for": {"id": "org/name", "fingerprint": "9f2c…", "layers": 32},
//!   "stack": [{"layer": 0}, {"layer": 1}, {"layer": 31}],
//!   "why": {"strategy": "deepest", "layers": 29}
//! }
//! ```

mod choose;
mod drop;
mod file;
mod notation;

pub use choose::layers_for_fraction;
pub use drop::parse_drop;
pub use notation::{Notations, ranges};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// More layers than any model has; a larger number in a file is a broken file, not a reason to allocate.
pub const MOST_LAYERS: usize = 1 << 16;

/// What stands at one place of the new stack. A source layer today; the format leaves room for places made from
/// several layers, or a layer without its attention or MLP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Place {
    /// Layer of the source, copied bit for bit.
    Layer(usize),
}

/// The model a plan was made for, as far as a plan can tell: a cut refuses another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedFor {
    /// Directory or hub id as the user gave it; informative.
    pub id: String,
    /// Commit of the hub repository, where known; informative.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revision: Option<String>,
    /// SHA-256 of the canonical list of tensor names, dtypes and shapes with the config's dimensions: the same for
    /// every copy of a checkpoint, different for another model.
    pub fingerprint: String,
    /// Layers of the source.
    pub layers: usize,
}

impl PlannedFor {
    /// The model to the byte, where that is known: a hub id with the commit in place of a branch, or the directory.
    #[must_use]
    pub fn pinned(&self) -> String {
        match &self.revision {
            Some(revision) => format!("{}@{revision}", self.name()),
            None => self.id.clone(),
        }
    }

    /// Hub id without a revision, or the directory.
    #[must_use]
    pub fn name(&self) -> &str {
        match self.revision {
            Some(_) => self.id.split('@').next().unwrap_or(&self.id),
            None => &self.id,
        }
    }
}

/// What to build from which model, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The source.
    #[serde(rename = "for")]
    pub planned_for: PlannedFor,
    /// The new stack from the embedding up.
    pub stack: Vec<Place>,
    /// How the stack was chosen, for the reader: strategy, metric, block.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty", default)]
    pub why: serde_json::Map<String, serde_json::Value>,
}

impl Plan {
    /// Source layer of each place of the new stack, lowest place first.
    #[must_use]
    pub fn kept(&self) -> Vec<usize> {
        self.stack.iter().map(|Place::Layer(layer)| *layer).collect()
    }

    /// Source layers that the new stack lacks, ascending.
    #[must_use]
    pub fn dropped(&self) -> Vec<usize> {
        let kept = self.kept();
        (0..self.planned_for.layers).filter(|layer| kept.binary_search(layer).is_err()).collect()
    }

    /// Looks at the plan alone: at least one layer stays, all of them exist, none comes twice, and they keep their
    /// order.
    ///
    /// # Errors
    /// A request error that names the layer.
    pub fn check(&self) -> Result<()> {
        let layers = self.planned_for.layers;
        if layers > MOST_LAYERS {
            return Err(Error::request(format!(
                "the plan is for {layers} layers; no model has more than {MOST_LAYERS}"
            )));
        }
        let kept = self.kept();
        if kept.is_empty() {
            return Err(Error::request(format!("the plan drops all {layers} layers; at least one must stay")));
        }
        if let Some(layer) = kept.iter().find(|layer| **layer >= layers) {
            return Err(Error::request(format!(
                "the plan keeps layer {layer}, but the model has {layers} layers (0..={})",
                layers.saturating_sub(1)
            )));
        }
        for pair in kept.windows(2) {
            if pair[0] == pair[1] {
                return Err(Error::request(format!("the plan names layer {} twice", pair[0])));
            }
            if pair[0] > pair[1] {
                return Err(Error::request(format!(
                    "the plan puts layer {} below layer {}; kept layers must stay in order",
                    pair[0], pair[1]
                )));
            }
        }
        Ok(())
    }

    /// [`Plan::check`], and that the plan was made for `model`.
    ///
    /// # Errors
    /// A request error that says both sides where fingerprint or number of layers disagree.
    pub fn check_for(&self, model: &PlannedFor) -> Result<()> {
        let planned = &self.planned_for;
        if planned.fingerprint != model.fingerprint || planned.layers != model.layers {
            return Err(Error::request(format!(
                "the plan was made for {} ({} layers, fingerprint {}), this is {} ({} layers, fingerprint {}); analyze \
                 this model, or cut the one the plan was made for",
                planned.id,
                planned.layers,
                short(&planned.fingerprint),
                model.id,
                model.layers,
                short(&model.fingerprint)
            )));
        }
        self.check()
    }
}

/// The first characters of a fingerprint, enough to tell two apart.
fn short(fingerprint: &str) -> String {
    match fingerprint.char_indices().nth(12) {
        Some((end, _)) => format!("{}…", &fingerprint[..end]),
        None => fingerprint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn model(layers: usize) -> PlannedFor {
        PlannedFor { id: "org/name".into(), revision: None, fingerprint: "0123456789abcdef".into(), layers }
    }

    fn plan(layers: usize, kept: &[usize]) -> Plan {
        Plan {
            planned_for: model(layers),
            stack: kept.iter().map(|layer| Place::Layer(*layer)).collect(),
            why: serde_json::Map::new(),
        }
    }

    #[test]
    fn kept_and_dropped_split_the_stack() {
        let plan = plan(6, &[0, 1, 4]);
        assert_eq!(plan.kept(), [0, 1, 4]);
        assert_eq!(plan.dropped(), [2, 3, 5]);
        plan.check().unwrap();
    }

    #[test]
    fn bad_stacks_are_refused() {
        for (kept, word) in [
            (&[][..], "drops all 4 layers"),
            (&[0, 4], "keeps layer 4, but the model has 4 layers (0..=3)"),
            (&[0, 1, 1], "names layer 1 twice"),
            (&[0, 2, 1], "layer 2 below layer 1"),
        ] {
            let error = plan(4, kept).check().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(plan(usize::MAX, &[0]).check().unwrap_err().to_string().contains("no model has more"));
    }

    #[test]
    fn a_plan_for_another_model_is_refused_with_both_sides() {
        let plan = plan(4, &[0, 1]);
        plan.check_for(&model(4)).unwrap();
        let other = PlannedFor { id: "org/other".into(), fingerprint: "fedcba9876543210".into(), ..model(4) };
        let error = plan.check_for(&other).unwrap_err().to_string();
        for word in ["org/name", "org/other", "0123456789ab…", "fedcba987654…", "4 layers"] {
            assert!(error.contains(word), "{error}");
        }
        let error = plan.check_for(&model(5)).unwrap_err().to_string();
        assert!(error.contains("4 layers") && error.contains("5 layers"), "{error}");
    }
}
