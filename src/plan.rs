//! A plan: what stands at each place of the new stack. A file a person can read, edit and diff, and another tool can
//! make.

use serde::{Deserialize, Serialize};

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
