//! What of a healing is one of a few: how weights are held, what is trained, what the adapter is merged onto.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
}

impl FromStr for Train {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "lora" {
            return Ok(Self::Lora);
        }
        let layers = text.strip_prefix("lm-head+last").and_then(|layers| layers.parse().ok());
        layers.map(Self::Last).ok_or_else(|| {
            Error::request(format!("train is {text:?}, expected \"lora\" or \"lm-head+last3\" (any number of layers)"))
        })
    }
}

impl fmt::Display for Train {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lora => f.write_str("lora"),
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
