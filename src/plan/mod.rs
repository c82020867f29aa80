//! A plan: what stands at each place of the new stack. A file a person can read, edit and diff, and another tool can
//! make.
//!
//! ```json
//! {
//!   "for": {"id": "org/name", "fingerprint": "9f2c…", "layers": 32},
//!   "stack": [{"layer": 0}, {"layer": 1, "without": ["attention"]}, {"layer": 31}],
//!   "why": {"strategy": "given"}
//! }
//! ```
//!
//! A place may also say how some of its tensors are made: [`Made`].

mod choose;
mod drop;
mod file;
mod made;
mod notation;
mod place;

pub use choose::layers_for_fraction;
pub use drop::{DropSize, Dropped, parse_drop};
pub use made::{Made, Term};
pub use notation::{Notations, ranges};
pub use place::{Place, SubLayer, SubLayers};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::shown::shown;
use crate::{Context, Error, Result};

/// More layers than any model has; a larger number in a file is a broken file, not a reason to allocate.
pub const MOST_LAYERS: usize = 1 << 16;

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

    /// `org/name` of a model of the hub, whichever of the GGUF models there it is: `org/name:Q4_K_M`,
    /// `org/name/FILE.gguf`.
    #[must_use]
    pub fn repository(&self) -> String {
        let name = self.name().split(':').next().unwrap_or_default();
        name.splitn(3, '/').take(2).collect::<Vec<_>>().join("/")
    }
}

/// What to build from which model, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
        self.stack.iter().map(|place| place.layer).collect()
    }

    /// Source layers that the new stack lacks, ascending.
    #[must_use]
    pub fn dropped(&self) -> Vec<usize> {
        let kept: BTreeSet<usize> = self.stack.iter().map(|place| place.layer).collect();
        (0..self.planned_for.layers).filter(|layer| !kept.contains(layer)).collect()
    }

    /// Whether the new stack is the source's less whole layers: what other tools have words for.
    #[must_use]
    pub fn only_drops_layers(&self) -> bool {
        self.stack.iter().all(|place| place.is_copy() && !place.inserted)
            && self.stack.is_sorted_by(|low, high| low.layer < high.layer)
    }

    /// What goes: layers that no place has, and sub-layers that places are without, by the source's layers.
    #[must_use]
    pub fn gone(&self) -> Dropped {
        let layers = self.dropped().into_iter().collect();
        let parts = self.stack.iter().filter(|place| !place.without.is_empty());
        Dropped { layers, sublayers: parts.map(|place| (place.layer, place.without)).collect() }
    }

    /// Whether `--drop` can say all of it: it names what goes, and nothing is made, repeated or moved.
    #[must_use]
    pub fn only_drops(&self) -> bool {
        let again = Self::drop_named(self.planned_for.clone(), &self.gone());
        again.is_ok_and(|again| again.stack == self.stack)
    }

    /// The stack in words, place by place: `0, 1 without mlp, 1 inserted, 2 with mlp.down_proj.weight made`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let places = self.stack.iter().map(|place| {
            let mut words = place.layer.to_string();
            if place.inserted {
                words += " inserted";
            }
            if !place.without.is_empty() {
                words += &format!(" without {}", place.without);
            }
            match place.made.len() {
                0 => {}
                1 => words += &format!(" with {} made", place.made.keys().map(|name| shown(name)).collect::<String>()),
                count => words += &format!(" with {count} tensors made"),
            }
            words
        });
        places.collect::<Vec<_>>().join(", ")
    }

    /// The stack, in which files go by their names alone: it tells what was done, on whatever machine.
    #[must_use]
    pub fn placeless_stack(&self) -> Vec<Place> {
        let name = |file: &Path| file.file_name().map(PathBuf::from).unwrap_or_default();
        let mut stack = self.stack.clone();
        stack.iter_mut().flat_map(|place| place.made.values_mut()).for_each(|made| made.rename_files(&name));
        stack
    }

    /// Places of layers that were put between those of the source, ascending.
    #[must_use]
    pub fn inserted(&self) -> Vec<usize> {
        self.stack.iter().enumerate().filter(|(_, place)| place.inserted).map(|(at, _)| at).collect()
    }

    /// The files that tensors of the plan are stored in, each once.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let mut files = Vec::new();
        self.stack.iter().flat_map(|place| place.made.values()).for_each(|made| made.files(&mut files));
        files.sort_unstable();
        files.dedup();
        files
    }

    /// Looks at the plan alone: at least one layer stays, and all that it speaks of exist.
    ///
    /// # Errors
    /// A request error that names the layer.
    pub fn check(&self) -> Result<()> {
        let layers = self.planned_for.layers;
        let most = layers.max(self.stack.len());
        if most > MOST_LAYERS {
            return Err(Error::request(format!("the plan is for {most} layers; no model has more than {MOST_LAYERS}")));
        }
        if self.stack.is_empty() {
            return Err(Error::request(format!("the plan drops all {layers} layers; at least one must stay")));
        }
        if let Some(place) = self.stack.iter().find(|place| place.layer >= layers) {
            return Err(Error::request(format!(
                "the plan keeps layer {}, but the model has {layers} layers (0..={})",
                place.layer,
                layers.saturating_sub(1)
            )));
        }
        if self.stack.iter().all(|place| place.without.attention) {
            return Err(Error::request(
                "the plan leaves no layer its attention: no token would see another; at least one must stay",
            ));
        }
        for (at, place) in self.stack.iter().enumerate() {
            for (name, made) in &place.made {
                made.check(layers).context(|| format!("place {at}, tensor {}", shown(name)))?;
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
            stack: kept.iter().copied().map(Place::of).collect(),
            why: serde_json::Map::new(),
        }
    }

    #[test]
    fn kept_and_dropped_split_the_stack() {
        let plan = plan(6, &[0, 1, 4]);
        assert_eq!(plan.kept(), [0, 1, 4]);
        assert_eq!(plan.dropped(), [2, 3, 5]);
        plan.check().unwrap();
        assert!(plan.only_drops_layers());
        for other in [&[0, 1, 1, 4][..], &[0, 4, 1]] {
            let other = self::plan(6, other);
            assert_eq!(other.dropped(), [2, 3, 5]);
            other.check().unwrap();
            assert!(!other.only_drops_layers());
        }
    }

    #[test]
    fn bad_stacks_are_refused() {
        for (kept, word) in
            [(&[][..], "drops all 4 layers"), (&[0, 4], "keeps layer 4, but the model has 4 layers (0..=3)")]
        {
            let error = plan(4, kept).check().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{error}");
        }
        let mut deaf = plan(4, &[0, 1]);
        deaf.stack.iter_mut().for_each(|place| place.without.attention = true);
        assert!(deaf.check().unwrap_err().to_string().contains("no layer its attention"));
        deaf.stack[1] = Place::of(1);
        deaf.check().unwrap();
        assert!(!deaf.only_drops_layers());
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
