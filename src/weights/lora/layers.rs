//! Which layers get an adapter.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::plan::{Dropped, MOST_LAYERS, parse_drop, ranges};
use crate::{Error, Result};

/// Some layers of a model, from 0: PEFT's `layers_to_transform`. Written as a list of numbers, read as text as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerList(BTreeSet<usize>);

impl LayerList {
    /// Whether `layer` is one of them.
    #[must_use]
    pub fn contains(&self, layer: usize) -> bool {
        self.0.contains(&layer)
    }

    /// From the lowest up.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = usize> {
        self.0.iter().copied()
    }

    /// Refuses layers that a model of `layers` layers does not have.
    ///
    /// # Errors
    /// Request: names the first of them.
    pub fn check(&self, layers: usize) -> Result<()> {
        match self.iter().find(|layer| *layer >= layers) {
            None => Ok(()),
            Some(layer) => Err(Error::request(format!(
                "layers_to_transform names layer {layer}, but the model has {layers} layers (0..={})",
                layers.saturating_sub(1)
            ))),
        }
    }
}

impl FromIterator<usize> for LayerList {
    /// These; one at least.
    fn from_iter<T: IntoIterator<Item = usize>>(layers: T) -> Self {
        Self(layers.into_iter().collect())
    }
}

impl FromStr for LayerList {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Dropped { layers, sublayers } = parse_drop(text, MOST_LAYERS)?;
        match sublayers.is_empty() {
            true => Ok(Self(layers)),
            false => Err(Error::request(format!(
                "`{text}` names sub-layers, expected layers such as 8-15,20; --target names what of them is adapted"
            ))),
        }
    }
}

impl fmt::Display for LayerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ranges(self.iter()))
    }
}

impl Serialize for LayerList {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for LayerList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected layers: \"8-15,20\", a number or a list of numbers")]
        enum Spelling {
            Text(String),
            One(usize),
            List(Vec<usize>),
        }
        let layers: BTreeSet<usize> = match Spelling::deserialize(deserializer)? {
            Spelling::Text(text) => return text.parse().map_err(de::Error::custom),
            Spelling::One(layer) => [layer].into(),
            Spelling::List(layers) => layers.into_iter().collect(),
        };
        match layers.is_empty() {
            true => Err(de::Error::custom("no layer: name at least one, or leave layers_to_transform out")),
            false => Ok(Self(layers)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_text_and_as_a_list() {
        let layers: LayerList = "8-10,20".parse().unwrap();
        assert_eq!((layers.to_string(), json!(layers)), ("8..=10, 20".to_owned(), json!([8, 9, 10, 20])));
        for written in [json!("20,8..=10"), json!([20, 8, 9, 10]), json!("8..11,20")] {
            assert_eq!(serde_json::from_value::<LayerList>(written).unwrap(), layers);
        }
        assert_eq!(serde_json::from_value::<LayerList>(json!(3)).unwrap(), "3".parse().unwrap());
        assert!(layers.check(21).is_ok() && layers.contains(9) && !layers.contains(11));
        let error = layers.check(20).unwrap_err().to_string();
        assert!(error.contains("layer 20") && error.contains("20 layers (0..=19)"), "{error}");
        for (text, word) in [("attn:3", "sub-layers"), ("3-", "no layer or range"), ("3,3", "twice")] {
            let error = text.parse::<LayerList>().unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(word), "{error}");
        }
        assert!(serde_json::from_value::<LayerList>(json!([])).is_err());
    }
}
