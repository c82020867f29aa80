//! Hidden states: streams of the model in training that are held against the teacher's at the same depth.
//!
//! The loss is the mean squared difference, over tokens and channels, of what enters a layer of the model and what
//! enters the layer of the teacher that it stands for (the auxiliary loss of arXiv 2403.17887, eq. 8), summed over the
//! depths. Its gradient joins the stream's on the way back.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::settings::HealSettings;
use crate::model::{Batch, Model, Observer};
use crate::progress::Silent;
use crate::provenance::Provenance;
use crate::weights::lora::LayerList;
use crate::{Error, Result, ops};

/// Which streams of the model are held against the teacher's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HiddenStates {
    /// Where the stack has something other than the teacher's next layer, as the model's `prune.json` tells.
    Seam,
    /// What enters these layers; the number of layers is what leaves the last.
    At(LayerList),
}

impl FromStr for HiddenStates {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "seam" { Ok(Self::Seam) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for HiddenStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seam => f.write_str("seam"),
            Self::At(layers) => layers.fmt(f),
        }
    }
}

impl Serialize for HiddenStates {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Seam => serializer.collect_str(self),
            Self::At(layers) => layers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HiddenStates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Text(String),
            At(LayerList),
        }
        match Spelling::deserialize(deserializer) {
            Ok(Spelling::Text(text)) => text.parse().map_err(de::Error::custom),
            Ok(Spelling::At(layers)) => Ok(Self::At(layers)),
            Err(_) => {
                Err(de::Error::custom("expected \"seam\", or layers: \"8-15,20\", a number or a list of numbers"))
            }
        }
    }
}

/// A depth of the model and the teacher's that it stands for: what enters the layer of this number, or, at the number
/// of layers, what leaves the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPair {
    /// The model's.
    pub model: usize,
    /// The teacher's.
    pub teacher: usize,
}

impl HealSettings {
    /// The depths that are held against the teacher's, ascending: of a model with `layers` layers, of which the lowest
    /// trained one is `lowest`, and a teacher with `of_teacher`; `history` is the model's `prune.json`.
    ///
    /// # Errors
    /// Request: nothing tells which layer stands for which, no seam, a layer that is not there or below which nothing
    /// is trained.
    pub fn stream_pairs(
        &self,
        history: Option<&Provenance>,
        (layers, lowest): (usize, usize),
        of_teacher: usize,
    ) -> Result<Vec<StreamPair>> {
        let Some(wanted) = &self.hidden_states else { return Ok(Vec::new()) };
        let refused = |why: String| Err(Error::request(format!("hidden_states {wanted}: {why}")));
        let same = |history: &&Provenance| history.origin.layers == of_teacher && history.layers.len() == layers;
        let history = history.filter(same);
        let (stack, inserted) = match history {
            Some(history) => (history.layers.clone(), &history.inserted[..]),
            None if layers == of_teacher => ((0..layers).collect(), &[][..]),
            None => {
                return refused(format!(
                    "the model has {layers} layers, the teacher {of_teacher}, and no prune.json tells which stands for \
                     which: the teacher has to be the model that it speaks of"
                ));
            }
        };
        // what enters a layer that was put in is what enters the next of the teacher's own
        let teachers = |depth: usize| {
            let own = (depth..layers).find(|layer| !inserted.contains(layer));
            own.map_or(of_teacher, |layer| stack[layer])
        };
        let lacks = |layer: usize| history.is_some_and(|history| history.without.contains_key(&layer));
        let is_seam = |depth: &usize| teachers(*depth) != teachers(depth - 1) + 1 || lacks(depth - 1);
        let depths: Vec<usize> = match wanted {
            HiddenStates::Seam => (1..=layers).filter(is_seam).collect(),
            HiddenStates::At(at) => at.iter().collect(),
        };
        if depths.is_empty() {
            return refused("the model has every layer of the teacher, and no seam".to_owned());
        }
        if let Some(depth) = depths.iter().find(|depth| **depth > layers) {
            return refused(format!(
                "the model has {layers} layers: {depth} is neither one of them nor what leaves them"
            ));
        }
        let reached = |depth: &&usize| **depth > lowest;
        let is_seam = *wanted == HiddenStates::Seam;
        match depths.iter().find(|depth| !reached(depth)) {
            Some(depth) if !is_seam || !depths.iter().any(|depth| reached(&depth)) => {
                return refused(format!("nothing is trained below layer {depth}: its stream stays what it is"));
            }
            _ => {}
        }
        let pair = |depth: &usize| StreamPair { model: *depth, teacher: teachers(*depth) };
        Ok(depths.iter().filter(reached).map(pair).collect())
    }

    /// What the differences of hidden states are multiplied with.
    #[must_use]
    pub fn hidden_weight(&self) -> f64 {
        self.hidden_weight.unwrap_or(1.0)
    }
}

/// What a pass holds against the teacher.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    /// Depths of the model.
    pub(super) pairs: &'a [StreamPair],
    /// The teacher's streams of the batch, by its depth.
    pub(super) streams: &'a BTreeMap<usize, Tensor>,
    /// Tokens of the whole step.
    pub(super) tokens: usize,
    /// What the differences are multiplied with.
    pub(super) weight: f64,
}

/// The differences of a pass.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// Share of the pass in the mean squared difference of the step, not weighted.
    pub(super) mean: f64,
    gradients: BTreeMap<usize, Tensor>,
}

impl Differences {
    /// Looks at the stream `x` of the model at `depth`.
    pub(super) fn look(&mut self, held: Option<&Held<'_>>, depth: usize, x: &Tensor) -> Result<()> {
        let Some(held) = held else { return Ok(()) };
        let Some(pair) = held.pairs.iter().find(|pair| pair.model == depth) else { return Ok(()) };
        let teacher = held.streams.get(&pair.teacher).ok_or_else(|| Error::work("the teacher gave no such stream"))?;
        let difference = (x - teacher)?;
        let numbers = (held.tokens * x.dim(1)?) as f64;
        self.mean += ops::square_sums(&[&difference])?.iter().sum::<f64>() / numbers;
        if held.weight > 0.0 {
            self.gradients.insert(depth, (difference * (2.0 * held.weight / numbers))?);
        }
        Ok(())
    }

    /// The gradient `dx` of the stream at `depth` with what was looked at there.
    pub(super) fn join(&mut self, depth: usize, dx: Tensor) -> Result<Tensor> {
        match self.gradients.remove(&depth) {
            Some(own) => Ok((dx + own)?),
            None => Ok(dx),
        }
    }
}

/// Keeps the streams of a teacher at some depths.
pub(super) struct TeacherStreams {
    depths: Vec<usize>,
    batches: Vec<BTreeMap<usize, Tensor>>,
}

impl TeacherStreams {
    /// Of each batch, the streams of `pairs` and what leaves the last layer.
    pub(super) fn of(model: &Model, batches: &[Batch], pairs: &[StreamPair]) -> Result<Vec<BTreeMap<usize, Tensor>>> {
        let depths = pairs.iter().map(|pair| pair.teacher).chain([model.layers()]).collect();
        let mut kept = Self { depths, batches: vec![BTreeMap::new(); batches.len()] };
        model.run(batches, &mut kept, "teacher", &Silent)?;
        Ok(kept.batches)
    }
}

impl Observer for TeacherStreams {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if self.depths.contains(&place) {
            self.batches[batch].insert(place, x.clone());
        }
        Ok(())
    }

    fn streams_kept(&self) -> usize {
        self.depths.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::plan::{Place, PlannedFor, SubLayers};

    fn history(layers: usize, stack: &[Place]) -> Provenance {
        let origin = PlannedFor { id: "a".into(), revision: None, fingerprint: "f".into(), layers };
        let mut history = Provenance::new(origin);
        history.push_stack(Map::new(), stack);
        history
    }

    fn pairs(
        at: &str,
        history: Option<&Provenance>,
        layers: (usize, usize),
        teacher: usize,
    ) -> Result<Vec<[usize; 2]>> {
        let settings = HealSettings { hidden_states: Some(at.parse()?), ..HealSettings::default() };
        let pairs = settings.stream_pairs(history, layers, teacher)?;
        Ok(pairs.into_iter().map(|pair| [pair.model, pair.teacher]).collect())
    }

    #[test]
    fn a_layer_stands_for_the_one_that_the_plan_names() {
        let cut = history(8, &[0, 1, 4, 5, 6].map(Place::of));
        assert_eq!(pairs("seam", Some(&cut), (5, 0), 8).unwrap(), [[2, 4], [5, 8]]);
        assert_eq!(pairs("1-3,5", Some(&cut), (5, 0), 8).unwrap(), [[1, 1], [2, 4], [3, 5], [5, 8]]);
        // below what is trained nothing can be moved: of the seams those that can are taken
        assert_eq!(pairs("seam", Some(&cut), (5, 3), 8).unwrap(), [[5, 8]]);
        for (at, layers, teacher, words) in [
            ("2,5", (5, 2), 8, "below layer 2"),
            ("0", (5, 0), 8, "below layer 0"),
            ("seam", (5, 5), 8, "below layer 2"),
            ("6", (5, 0), 8, "6 is neither"),
            ("seam", (5, 0), 7, "no prune.json tells"),
            ("seam", (8, 0), 8, "no seam"),
        ] {
            let error = pairs(at, Some(&cut), layers, teacher).unwrap_err();
            assert!(error.to_string().contains(words) && error.exit_code() == 2, "{error}");
        }
        assert_eq!(pairs("3", None, (5, 0), 5).unwrap(), [[3, 3]]);
        // a sub-layer that is gone, layers that were put in
        let without = Place { without: SubLayers { attention: true, mlp: false }, ..Place::of(1) };
        let halved = history(3, &[Place::of(0), without, Place::of(2)]);
        assert_eq!(pairs("seam", Some(&halved), (3, 0), 3).unwrap(), [[2, 2]]);
        let grown = history(3, &[Place::of(0), Place { inserted: true, ..Place::of(0) }, Place::of(1), Place::of(2)]);
        assert_eq!(pairs("1-4", Some(&grown), (4, 0), 3).unwrap(), [[1, 1], [2, 1], [3, 2], [4, 3]]);
        assert_eq!(pairs("seam", Some(&grown), (4, 0), 3).unwrap(), [[2, 1]]);
    }

    #[test]
    fn as_text_and_in_files() {
        let read = |text: &str| toml::from_str::<HealSettings>(text).map(|settings| settings.hidden_states.unwrap());
        assert_eq!(read("hidden_states = \"seam\"").unwrap(), HiddenStates::Seam);
        assert_eq!(read("hidden_states = [3, 5]").unwrap(), "3,5".parse().unwrap());
        assert!(read("hidden_states = {}").unwrap_err().to_string().contains("seam"));
        let json = serde_json::to_value(HiddenStates::Seam).unwrap();
        assert_eq!(serde_json::from_value::<HiddenStates>(json).unwrap(), HiddenStates::Seam);
    }
}
