//! What stands at one place of the new stack.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Made;
use crate::{Error, Result};

/// A layer of the source, less some of its sub-layers, with some of its tensors made otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The layer of the source.
    pub layer: usize,
    /// Whether it was put between the layers of the source, and is none of them.
    #[serde(default, skip_serializing_if = "is_not")]
    pub inserted: bool,
    /// Its sub-layers that are left out.
    #[serde(default, skip_serializing_if = "SubLayers::is_empty")]
    pub without: SubLayers,
    /// Its tensors that are made otherwise, by their names within the layer: `mlp.down_proj.weight`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub made: BTreeMap<String, Made>,
}

impl Place {
    /// The layer as it is.
    #[must_use]
    pub fn of(layer: usize) -> Self {
        Self { layer, inserted: false, without: SubLayers::default(), made: BTreeMap::new() }
    }

    /// Whether it is the source's layer bit for bit.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.without.is_empty() && self.made.is_empty()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_not(inserted: &bool) -> bool {
    !inserted
}

/// A residual update within a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubLayer {
    /// Attention, with its norm.
    Attention,
    /// The MLP, of whatever kind, with its norm.
    Mlp,
}

impl SubLayer {
    /// All of them, in the order in which a layer has them.
    pub const ALL: [Self; 2] = [Self::Attention, Self::Mlp];

    /// As plans and configs call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attention => "attention",
            Self::Mlp => "mlp",
        }
    }
}

/// Some of the sub-layers of a layer: `["attention"]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<SubLayer>", from = "Vec<SubLayer>")]
pub struct SubLayers {
    /// Attention.
    pub attention: bool,
    /// The MLP, of whatever kind.
    pub mlp: bool,
}

impl SubLayers {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is all a layer has.
    #[must_use]
    pub fn is_all(self) -> bool {
        self.attention && self.mlp
    }

    /// Whether `sublayer` is among them.
    #[must_use]
    pub fn contains(self, sublayer: SubLayer) -> bool {
        match sublayer {
            SubLayer::Attention => self.attention,
            SubLayer::Mlp => self.mlp,
        }
    }

    /// These and `sublayer`.
    #[must_use]
    pub fn with(self, sublayer: SubLayer) -> Self {
        match sublayer {
            SubLayer::Attention => Self { attention: true, ..self },
            SubLayer::Mlp => Self { mlp: true, ..self },
        }
    }

    /// These and `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { attention: self.attention || other.attention, mlp: self.mlp || other.mlp }
    }

    /// One by one, in the order in which a layer has them.
    pub fn iter(self) -> impl Iterator<Item = SubLayer> {
        SubLayer::ALL.into_iter().filter(move |sublayer| self.contains(*sublayer))
    }

    /// Those called `names`, each once.
    ///
    /// # Errors
    /// Work: a name that is none of them.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        names.into_iter().try_fold(Self::default(), |all, name| {
            let found = SubLayer::ALL.into_iter().find(|sublayer| sublayer.name() == name);
            found.map(|sublayer| all.with(sublayer)).ok_or_else(|| {
                Error::work(format!("a layer has no sub-layer {name:?}; expected \"attention\" or \"mlp\""))
            })
        })
    }
}

impl From<SubLayers> for Vec<SubLayer> {
    fn from(sublayers: SubLayers) -> Self {
        sublayers.iter().collect()
    }
}

impl From<Vec<SubLayer>> for SubLayers {
    fn from(sublayers: Vec<SubLayer>) -> Self {
        sublayers.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Display for SubLayers {
    /// `attention and mlp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().map(SubLayer::name).collect::<Vec<_>>().join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plain_layer_is_its_number_alone() {
        assert_eq!(serde_json::to_value(Place::of(7)).unwrap(), json!({"layer": 7}));
        assert_eq!(serde_json::from_value::<Place>(json!({"layer": 7})).unwrap(), Place::of(7));
        let without = json!({"layer": 7, "without": ["attention", "mlp"]});
        let place: Place = serde_json::from_value(without.clone()).unwrap();
        assert!(place.without.is_all() && !place.is_copy());
        assert_eq!(serde_json::to_value(place).unwrap(), without);
        let inserted = json!({"layer": 7, "inserted": true});
        let place: Place = serde_json::from_value(inserted.clone()).unwrap();
        assert!(place.inserted && place.is_copy() && place != Place::of(7));
        assert_eq!(serde_json::to_value(place).unwrap(), inserted);
    }

    #[test]
    fn names_are_those_of_configs() {
        let mlp = SubLayers::named(["mlp", "mlp"]).unwrap();
        assert_eq!((mlp, mlp.to_string()), (SubLayers { attention: false, mlp: true }, "mlp".to_owned()));
        assert!(SubLayers::named(["ffn"]).unwrap_err().to_string().contains("\"ffn\""));
    }
}
