//! Growth: layers put between those of a model. How an inserted layer comes to be is a row of [`GROWTHS`]; what comes
//! of it is a [`Plan`] like any other, whose inserted places are copies of layers or sums of them.
//!
//! An inserted layer is of the kind of the layer before it: its window, its position in lists of the config.
//!
//! # Add a growth
//! A line in [`GROWTHS`]: a function from the layer that the new one comes after to its [`Place`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, json};

use super::cut::has_one_stack;
use super::format::last_modules;
use super::names::Stack;
use super::tensors::is_numbers;
use crate::arch::{ModelSpec, is_of_module};
use crate::checkpoint::{Checkpoint, Entry};
use crate::plan::{Made, Place, Plan, PlannedFor, Term, ranges};
use crate::{Error, Result};

/// A way to make layers that are inserted, a row of [`GROWTHS`].
#[derive(Debug)]
pub struct Growth {
    /// What `--by` calls it.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Where it comes from.
    pub reference: &'static str,
    /// Whether the grown model computes what its source does.
    pub keeps_function: bool,
    /// Whether the matrices of a new layer are learned from all layers (`repair::predict`).
    pub predicts: bool,
    place: fn(&Layers<'_>, usize) -> Result<Place>,
}

/// Every growth.
pub const GROWTHS: &[Growth] = &[
    Growth {
        name: "mean",
        about: "the mean of the layers on both sides, the projections that end its attention and MLP zero: the model \
                computes what it did",
        reference: "Llama SLayer, arXiv 2410.02330",
        keeps_function: true,
        predicts: false,
        place: |layers, layer| mean(layers, layer, true),
    },
    Growth {
        name: "copy",
        about: "the layer before it once more, bit for bit",
        reference: "depth up-scaling, SOLAR, arXiv 2312.15166",
        keeps_function: false,
        predicts: false,
        place: |_, layer| Ok(Place::of(layer)),
    },
    Growth {
        name: "lesa",
        about: "matrices that a small network, which learns from all layers in one basis each, tells from the layers on \
                both sides; norms the mean of theirs",
        reference: "LESA, arXiv 2502.13794",
        keeps_function: false,
        predicts: true,
        place: |layers, layer| mean(layers, layer, false),
    },
];

/// The growth called `name`.
///
/// # Errors
/// Request: there is none; the message lists all.
pub fn growth(name: &str) -> Result<&'static Growth> {
    GROWTHS.iter().find(|growth| growth.name == name).ok_or_else(|| {
        let known: Vec<&str> = GROWTHS.iter().map(|growth| growth.name).collect();
        Error::request(format!("no growth is called {name:?}; there are {}", known.join(", ")))
    })
}

/// The plan that puts a layer made by `growth` after each of the layers `after` of `source`, which is the model
/// `model`.
///
/// # Errors
/// Request: a layer that is not there, or that the growth cannot make a layer from: no layer behind it, others of
/// another kind, weights in codes, a family whose sub-layers are not known. Work: tensors that disagree with the
/// config.
pub fn grow(source: &Checkpoint, model: &PlannedFor, after: &BTreeSet<usize>, growth: &Growth) -> Result<Plan> {
    has_one_stack(source)?;
    let layers = Layers { source, stack: Stack::of(source)? };
    // what is not there is refused before anything is made of it
    let nothing = after.iter().map(|layer| (*layer, Vec::new())).collect();
    Plan::insert(model.clone(), &nothing, Map::new())?;
    let places = after.iter().map(|layer| Ok((*layer, vec![(growth.place)(&layers, *layer)?])));
    let why = json!({"strategy": "grow", "by": growth.name, "after": ranges(after.iter().copied())});
    Plan::insert(model.clone(), &places.collect::<Result<_>>()?, why.as_object().cloned().unwrap_or_default())
}

/// The plan that has the layers `repeated` of the model `model`, which are neighbours, twice: once more behind the last
/// of them, in their order.
///
/// # Errors
/// Request: a layer that is not there, layers that are no neighbours.
pub fn repeat(model: &PlannedFor, repeated: &BTreeSet<usize>) -> Result<Plan> {
    let (Some(first), Some(last)) = (repeated.first(), repeated.last()) else {
        return Err(Error::request("no layer is to be repeated"));
    };
    if last - first + 1 != repeated.len() {
        return Err(Error::request(format!(
            "layers {} are no range: what is repeated lies side by side, such as 8-15",
            ranges(repeated.iter().copied())
        )));
    }
    let places = repeated.iter().copied().map(Place::of).collect();
    let why = json!({"strategy": "grow", "by": "copy", "repeat": ranges(repeated.iter().copied())});
    let after: BTreeMap<usize, Vec<Place>> = [(*last, places)].into();
    Plan::insert(model.clone(), &after, why.as_object().cloned().unwrap_or_default())
}

/// The layers of a source, by the names of their tensors.
struct Layers<'a> {
    source: &'a Checkpoint,
    stack: Stack,
}

impl Layers<'_> {
    /// The tensors of `layer` by their names within it.
    fn tensors(&self, layer: usize) -> BTreeMap<&str, &Entry> {
        let all = self.source.index.tensors.values();
        let own = all.filter_map(|entry| match self.stack.within(&entry.name)? {
            (found, within) if found == layer => Some((within, entry)),
            _ => None,
        });
        own.collect()
    }
}

/// Every tensor the mean of its neighbours'; in Llama SLayer's layer zeros where a sub-layer ends.
fn mean(layers: &Layers<'_>, layer: usize, ends_in_zeros: bool) -> Result<Place> {
    let by = if ends_in_zeros { "mean" } else { "lesa" };
    let refused = |why: String| Err(Error::request(format!("--by {by} after layer {layer}: {why}")));
    let spec = match ModelSpec::from_config(&layers.source.config) {
        Ok(spec) => spec,
        Err(error) => {
            return refused(format!(
                "which tensors end a sub-layer is known of computed families alone, and this one is not computed \
                 ({error}); --by copy needs names only"
            ));
        }
    };
    if spec.experts.is_some() {
        return refused(format!(
            "expert 3 of one layer is not expert 3 of the next, so there is no mean of the layers of a {}; --by copy \
             repeats them",
            spec.model_type
        ));
    }
    let next = layer + 1;
    if next >= spec.layers {
        return refused(
            "it is the last, there is no layer behind it to take the mean with; --by copy repeats it".into(),
        );
    }
    let (own, other) = (layers.tensors(layer), layers.tensors(next));
    let shapes = |tensors: &BTreeMap<&str, &Entry>| -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(name, entry)| ((*name).to_owned(), entry.shape.clone())).collect()
    };
    if let Some(entry) = own
        .values()
        .chain(other.values())
        .find(|entry| !is_numbers(entry.dtype) || layers.source.index.four_bit_state(&entry.name).is_some())
    {
        return refused(format!(
            "tensor {} is stored in codes ({}), of which there is no mean; start from a checkpoint in f32, f16 or bf16, \
             or repeat layers with --by copy",
            entry.name, entry.dtype
        ));
    }
    if shapes(&own) != shapes(&other) {
        return refused(format!("layers {layer} and {next} have different tensors, of which there is no mean"));
    }
    let kinds = spec.sublayers(layer).into_iter().flat_map(|residual| residual.sum);
    let ends: BTreeSet<String> = kinds.flat_map(|kind| last_modules(&spec, kind)).collect();
    let is_end = |name: &str| ends_in_zeros && ends.iter().any(|module| is_of_module(name, module));
    let half = |layer| Term { times: 0.5, of: Made::Layer(layer) };
    let made = own.keys().map(|name| {
        let made = if is_end(name) { Made::Zeros } else { Made::Sum(vec![half(layer), half(next)]) };
        ((*name).to_owned(), made)
    });
    Ok(Place { made: made.collect(), ..Place::of(layer) })
}

impl Serialize for Growth {
    /// As its name.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for &'static Growth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        growth(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
