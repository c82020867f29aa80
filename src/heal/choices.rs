//! What of a healing is one of a few: how weights are held, what is trained, what the adapter is merged onto.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::weights::lora::LayerList;
use crate::{Error, Result};

/// How the frozen weights are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// In four bits.
    Nf4,
    /// As they are on disk.
    None,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Train {
    /// Adapters.
    Lora,
    /// The head, the final norm and the last so many layers ("Reassessing Layer Pruning in LLMs", arXiv 2411.15558).
    Last(usize),
    /// The layers of `layers_to_transform`, whole, and nothing else (Llama SLayer, arXiv 2410.02330).
    Layers,
}

impl Train {
    /// Whether the final norm and the head are trained.
    #[must_use]
    pub fn trains_head(self) -> bool {
        matches!(self, Self::Last(_))
    }
}

impl FromStr for Train {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "lora" => return Ok(Self::Lora),
            "layers" => return Ok(Self::Layers),
            _ => {}
        }
        let layers = text.strip_prefix("lm-head+last").and_then(|layers| layers.parse().ok());
        layers.map(Self::Last).ok_or_else(|| {
            Error::request(format!(
                "train is {text:?}, expected \"lora\", \"layers\" or \"lm-head+last3\" (any number of layers)"
            ))
        })
    }
}

impl fmt::Display for Train {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lora => f.write_str("lora"),
            Self::Layers => f.write_str("layers"),
            Self::Last(layers) => write!(f, "lm-head+last{layers}"),
        }
    }
}

impl Serialize for Train {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Train {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The layers that are trained, by adapters or whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrainedLayers {
    /// Those that `prune grow` inserted, as the model's `prune.json` tells.
    Inserted,
    /// These.
    Named(LayerList),
}

impl TrainedLayers {
    /// The layers, once they are known by number.
    #[must_use]
    pub fn named(&self) -> Option<&LayerList> {
        match self {
            Self::Inserted => None,
            Self::Named(layers) => Some(layers),
        }
    }
}

impl FromStr for TrainedLayers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "inserted" { Ok(Self::Inserted) } else { text.parse().map(Self::Named) }
    }
}

impl fmt::Display for TrainedLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inserted => f.write_str("inserted"),
            Self::Named(layers) => layers.fmt(f),
        }
    }
}

impl Serialize for TrainedLayers {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Inserted => serializer.collect_str(self),
            Self::Named(layers) => layers.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TrainedLayers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Text(String),
            Named(LayerList),
        }
        match Spelling::deserialize(deserializer) {
            Ok(Spelling::Text(text)) => text.parse().map_err(de::Error::custom),
            Ok(Spelling::Named(layers)) => Ok(Self::Named(layers)),
            Err(_) => Err(de::Error::custom(
                "expected layers: \"8-15,20\", \"inserted\", a number or a list of numbers, one at least",
            )),
        }
    }
}

/// Who is told of a run while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Track {
    /// TensorBoard, and what reads its event files.
    Tensorboard,
}

/// The weights that the merged model is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MergeOnto {
    /// Those of the cut model. What of the adapter makes up for the four bits is of no use there.
    #[default]
    Full,
    /// Those that were trained against: the cut model's after four bits, as numbers of its own type.
    Quantized,
}
