//! `prune.json`: where a checkpoint came from and what was done to it, one step after the other. It holds no date and
//! no place of the output, so that the same input gives the same bytes.
//!
//! ```json
//! {
//!   "prune": "0.1.0",
//!   "origin": {"id": "org/name", "revision": "…", "fingerprint": "…", "layers": 32},
//!   "layers": [0, 1, 31],
//!   "steps": [{"step": "cut", "…": "…"}]
//! }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::files::{self, Bound};
use crate::plan::{Dropped, MOST_LAYERS, Place, PlannedFor, SubLayers};
use crate::progress::Progress;
use crate::{Error, Result};

/// The file's name in a checkpoint directory.
pub const FILE: &str = "prune.json";

/// The history of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of prune that wrote the file last.
    #[serde(rename = "prune")]
    pub version: String,
    /// The model the first step started from.
    pub origin: PlannedFor,
    /// For each layer of this checkpoint, its number in the origin.
    pub layers: Vec<usize>,
    /// By layer of this checkpoint, the sub-layers that it was left without.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without: BTreeMap<usize, SubLayers>,
    /// Layers of this checkpoint that were put between those of the origin, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inserted: Vec<usize>,
    /// What was done, the first step first; each names its command as `step`.
    pub steps: Vec<Map<String, Value>>,
}

impl Provenance {
    /// The history of a model that no step was taken on.
    #[must_use]
    pub fn new(origin: PlannedFor) -> Self {
        let layers = (0..origin.layers).collect();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { version, origin, layers, without: BTreeMap::new(), inserted: Vec::new(), steps: Vec::new() }
    }

    /// The history that lies in the checkpoint directory `dir`; `None` when there is none.
    ///
    /// # Errors
    /// Work: the file is there and cannot be read as one of a model with `layers` layers.
    pub fn read(dir: &Path, layers: usize) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let fault = |fault: String| Error::work(format!("{}: {fault}", path.display()));
        let history: Self = files::json(&path, Bound::CONFIG)?;
        if history.origin.layers > MOST_LAYERS {
            let found = history.origin.layers;
            return Err(fault(format!("speaks of a model of {found} layers; none has more than {MOST_LAYERS}")));
        }
        if history.layers.len() != layers {
            return Err(fault(format!("speaks of {} layers, the checkpoint has {layers}", history.layers.len())));
        }
        if let Some(inserted) = history.inserted.iter().find(|inserted| **inserted >= layers) {
            return Err(fault(format!("says that layer {inserted} was inserted, the checkpoint has {layers} layers")));
        }
        Ok(Some(history))
    }

    /// The history of the `model` in `dir`: what lies there, or none yet. One that cannot be read is no reason to stop.
    #[must_use]
    pub fn of(dir: &Path, model: &PlannedFor, progress: &dyn Progress) -> Self {
        let known = Self::read(dir, model.layers).unwrap_or_else(|error| {
            progress.warn(&format!("{error}; the history starts anew"));
            None
        });
        known.unwrap_or_else(|| Self::new(model.clone()))
    }

    /// What of the origin is gone.
    #[must_use]
    pub fn gone(&self) -> Dropped {
        let layers = (0..self.origin.layers).filter(|layer| !self.layers.contains(layer)).collect();
        let of = |(place, without): (&usize, &SubLayers)| Some((*self.layers.get(*place)?, *without));
        Dropped { layers, sublayers: self.without.iter().filter_map(of).collect() }
    }

    /// Whether it has layers twice, in another order, or with tensors that were made otherwise: more than a list of
    /// what is gone can say.
    #[must_use]
    pub fn is_rebuilt(&self) -> bool {
        let places = self.steps.iter().filter_map(|step| step.get("stack")?.as_array()).flatten();
        !self.layers.is_sorted_by(|low, high| low < high) || places.into_iter().any(|place| place.get("made").is_some())
    }

    /// Whether it is the origin's layers, all of them in order, and layers between them.
    #[must_use]
    pub fn only_grows(&self) -> bool {
        let own = self.layers.iter().enumerate().filter(|(place, _)| !self.inserted.contains(place));
        !self.inserted.is_empty() && self.without.is_empty() && own.map(|(_, layer)| *layer).eq(0..self.origin.layers)
    }

    /// The repairs that its cuts were given, the first one first.
    pub fn repairs(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| step.get("repair")?.get("name")?.as_str())
    }

    /// Whether one of those repairs trained layers.
    #[must_use]
    pub fn trained_in_repair(&self) -> bool {
        self.steps.iter().filter_map(|step| step.get("repair")).any(|repair| repair.get("layers").is_some())
    }

    /// How the checkpoint says what its layers lack; `None` where they lack nothing.
    #[must_use]
    pub fn format(&self) -> Option<&str> {
        let formats = self.steps.iter().rev().filter_map(|step| step.get("settings")?.get("format")?.as_str());
        formats.into_iter().next().filter(|_| !self.without.is_empty())
    }

    /// Whether a repair put linear maps behind layers.
    #[must_use]
    pub fn has_seam_maps(&self) -> bool {
        self.steps.iter().filter_map(|step| step.get("repair")).any(|repair| repair.get("seam_maps").is_some())
    }

    /// Training brings back what only zeros had left out.
    pub fn trained(&mut self) {
        if self.format() == Some("zeros") {
            self.without.clear();
        }
    }

    /// The last model that still had all layers: the origin, or what was made of it before the first cut.
    #[must_use]
    pub fn uncut(&self) -> PlannedFor {
        let first = self.steps.iter().find(|step| step.get("stack").is_some());
        if let Some(source) = first.and_then(|step| serde_json::from_value(step.get("source")?.clone()).ok()) {
            return source;
        }
        let sources = self.steps.iter().rev().filter_map(|step| step.get("source"));
        let mut models = sources.filter_map(|source| serde_json::from_value::<PlannedFor>(source.clone()).ok());
        models.find(|model| model.layers == self.origin.layers).unwrap_or_else(|| self.origin.clone())
    }

    /// Takes a step that leaves all layers where they are.
    pub fn push(&mut self, step: Map<String, Value>) {
        self.version = env!("CARGO_PKG_VERSION").to_owned();
        self.steps.push(step);
    }

    /// Takes a step after which `stack` stands.
    pub fn push_stack(&mut self, step: Map<String, Value>, stack: &[Place]) {
        let known = |place: &Place| self.without.get(&place.layer).copied().unwrap_or_default().and(place.without);
        let without = stack.iter().map(known).enumerate().filter(|(_, without)| !without.is_empty()).collect();
        let is_inserted = |place: &Place| place.inserted || self.inserted.contains(&place.layer);
        let inserted = stack.iter().enumerate().filter(|(_, place)| is_inserted(place)).map(|(at, _)| at).collect();
        self.inserted = inserted;
        self.layers = stack.iter().filter_map(|place| self.layers.get(place.layer).copied()).collect();
        self.without = without;
        self.push(step);
    }

    /// The file's text: indented JSON, a newline at the end.
    ///
    /// # Errors
    /// None in practice; whatever the JSON writer reports.
    pub fn to_json(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).map_err(|error| Error::work(error.to_string()))?;
        text.push('\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_told_by_layers_of_the_origin() {
        let origin = PlannedFor { id: "a".into(), revision: None, fingerprint: "f".into(), layers: 4 };
        let mut history = Provenance::new(origin);
        let without = |layer, attention, mlp| Place { without: SubLayers { attention, mlp }, ..Place::of(layer) };
        history.push_stack(Map::new(), &[Place::of(0), Place::of(2), without(3, true, false)]);
        history.push_stack(Map::new(), &[without(1, false, true), Place::of(2)]);
        assert_eq!(history.gone().to_string(), "0..=1, attention:3, mlp:2");
        assert!(!history.is_rebuilt());
        let zeros = serde_json::json!({"settings": {"format": "zeros"}}).as_object().cloned().unwrap();
        let mut trained = history.clone();
        trained.push(zeros);
        trained.trained();
        assert!(trained.gone().are_layers());
        let mut grown = Provenance::new(history.origin.clone());
        let inserted = |layer| Place { inserted: true, ..Place::of(layer) };
        grown.push_stack(
            Map::new(),
            &[Place::of(0), Place::of(1), inserted(1), Place::of(2), Place::of(3), inserted(3)],
        );
        assert_eq!((grown.layers.as_slice(), grown.inserted.as_slice()), (&[0, 1, 1, 2, 3, 3][..], &[2, 5][..]));
        assert!(grown.only_grows() && grown.is_rebuilt());
        // layers move, and stay inserted
        grown.push_stack(Map::new(), &[1, 2, 3, 5].map(Place::of));
        assert_eq!((grown.inserted.as_slice(), grown.only_grows()), (&[1, 3][..], false));
        history.push_stack(Map::new(), &[1, 0, 1].map(Place::of));
        assert_eq!(history.layers, [3, 2, 3]);
        assert!(history.is_rebuilt());
    }

    #[test]
    fn steps_add_up() {
        let origin = PlannedFor { id: "a".into(), revision: None, fingerprint: "f".into(), layers: 6 };
        let mut history = Provenance::new(origin);
        history.push_stack(Map::new(), &[0, 1, 4, 5].map(Place::of));
        history.push_stack(Map::new(), &[0, 2, 3].map(Place::of));
        history.push(Map::new());
        assert_eq!((history.layers.as_slice(), history.steps.len()), (&[0, 4, 5][..], 3));

        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Provenance::read(dir.path(), 3).unwrap(), None);
        std::fs::write(dir.path().join(FILE), history.to_json().unwrap()).unwrap();
        assert_eq!(Provenance::read(dir.path(), 3).unwrap(), Some(history));
        assert!(Provenance::read(dir.path(), 4).unwrap_err().to_string().contains("speaks of 3 layers"));
        let many = PlannedFor { id: "a".into(), revision: None, fingerprint: "f".into(), layers: 4_000_000_000 };
        let one = Provenance { layers: vec![0], ..Provenance::new(PlannedFor { layers: 1, ..many.clone() }) };
        let many = Provenance { origin: many, ..one };
        std::fs::write(dir.path().join(FILE), many.to_json().unwrap()).unwrap();
        assert!(Provenance::read(dir.path(), 1).unwrap_err().to_string().contains("none has more than"));
        std::fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(Provenance::read(dir.path(), 3).unwrap_err().to_string().contains("prune.json"));
    }
}
