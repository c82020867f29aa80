//! What people type to say what goes: `21-28,attn:30`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{SubLayer, SubLayers, ranges};
use crate::{Error, Result};

/// More layers than any model has; the file that names one more is broken.
const MOST_LAYERS: usize = 1 << 16;

/// Layers that go whole, and sub-layers that go alone. Written as a list of numbers, or where sub-layers are among them
/// as the text that [`parse_drop`] reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Dropped {
    /// Layers.
    pub layers: BTreeSet<usize>,
    /// Sub-layers by their layer, which stays.
    pub sublayers: BTreeMap<usize, SubLayers>,
}

impl Dropped {
    /// Takes the sub-layer `sublayer` of `layer` as well; with the other one gone, the layer goes whole. `false` where
    /// it was gone before.
    pub fn insert(&mut self, layer: usize, sublayer: SubLayer) -> bool {
        let known = self.sublayers.get(&layer).copied().unwrap_or_default();
        if self.layers.contains(&layer) || known.contains(sublayer) {
            return false;
        }
        let all = known.with(sublayer);
        if all.is_all() {
            self.sublayers.remove(&layer);
            self.layers.insert(layer);
        } else {
            self.sublayers.insert(layer, all);
        }
        true
    }

    /// Whether only whole layers go.
    #[must_use]
    pub fn are_layers(&self) -> bool {
        self.sublayers.is_empty()
    }

    /// Whether nothing goes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.sublayers.is_empty()
    }

    /// How much goes.
    #[must_use]
    pub fn size(&self) -> DropSize {
        DropSize { sublayers: 2 * self.layers.len() + self.sublayers.len() }
    }
}

impl FromIterator<usize> for Dropped {
    /// These layers.
    fn from_iter<T: IntoIterator<Item = usize>>(layers: T) -> Self {
        Self { layers: layers.into_iter().collect(), ..Self::default() }
    }
}

/// How much goes: `4`, or in halves, `3.5`, for a sub-layer counts as half a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DropSize {
    sublayers: usize,
}

impl DropSize {
    /// So many layers.
    #[must_use]
    pub fn of_layers(layers: usize) -> Self {
        Self { sublayers: 2 * layers }
    }

    /// In layers.
    #[must_use]
    pub fn layers(self) -> f64 {
        self.sublayers as f64 / 2.0
    }
}

impl fmt::Display for DropSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.layers().fmt(f)
    }
}

/// As files have it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Layers(Vec<usize>),
    Named(String),
}

impl From<Dropped> for Written {
    fn from(dropped: Dropped) -> Self {
        match dropped.are_layers() {
            true => Self::Layers(dropped.layers.into_iter().collect()),
            false => Self::Named(dropped.to_string()),
        }
    }
}

impl TryFrom<Written> for Dropped {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Layers(layers) => Ok(layers.into_iter().collect()),
            Written::Named(text) => parse_drop(&text, MOST_LAYERS),
        }
    }
}

impl fmt::Display for Dropped {
    /// `21..=28, attention:30`, which [`parse_drop`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.layers.is_empty() {
            parts.push(ranges(self.layers.iter().copied()));
        }
        for sublayer in SubLayer::ALL {
            let of = self.sublayers.iter().filter(|(_, gone)| gone.contains(sublayer)).map(|(layer, _)| *layer);
            let of = ranges(of);
            if !of.is_empty() {
                parts.extend(of.split(", ").map(|range| format!("{}:{range}", sublayer.name())));
            }
        }
        f.write_str(&parts.join(", "))
    }
}

/// What `text` names: a comma list of single layers (`30`), inclusive ranges (`21-28`, `21..=28`) and half-open ranges
/// (`21..29`), 0-based, for a model of `layers` layers; behind `attn:` or `mlp:` only that sub-layer of them.
///
/// # Errors
/// A request error that quotes the part that is no layer or range, is empty, repeats a layer or leaves the model.
pub fn parse_drop(text: &str, layers: usize) -> Result<Dropped> {
    let mut dropped = Dropped::default();
    for part in text.split(',') {
        let part = part.trim();
        let no_range = || {
            Error::request(format!(
                "`{part}` in `{text}` is no layer or range; write for example 30, 21-28, 21..=28, 21..29, attn:30 or \
                 mlp:21-28"
            ))
        };
        let (sublayer, range) = match part.split_once(':') {
            None => (None, part),
            Some(("attn" | "attention", range)) => (Some(SubLayer::Attention), range),
            Some(("mlp", range)) => (Some(SubLayer::Mlp), range),
            Some(_) => return Err(no_range()),
        };
        let (first, end) = bounds(range).ok_or_else(no_range)?;
        if first >= end {
            return Err(Error::request(format!("the range `{part}` names no layer")));
        }
        if end > layers {
            return Err(Error::request(format!(
                "`{part}` names layer {}, but the model has {layers} layers (0..={})",
                end - 1,
                layers.saturating_sub(1)
            )));
        }
        for layer in first..end {
            let is_new = match sublayer {
                Some(sublayer) => dropped.insert(layer, sublayer),
                None => !dropped.sublayers.contains_key(&layer) && dropped.layers.insert(layer),
            };
            if !is_new {
                return Err(Error::request(format!("`{text}` names layer {layer} twice")));
            }
        }
    }
    Ok(dropped)
}

/// First layer and the one after the last.
fn bounds(part: &str) -> Option<(usize, usize)> {
    let number = |text: &str| -> Option<usize> {
        let text = text.trim();
        // `parse` would accept a sign
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    if let Some((first, last)) = part.split_once("..=").or_else(|| part.split_once('-')) {
        return Some((number(first)?, number(last)?.checked_add(1)?));
    }
    if let Some((first, end)) = part.split_once("..") {
        return Some((number(first)?, number(end)?));
    }
    let layer = number(part)?;
    Some((layer, layer.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_write_a_range() {
        let expected: BTreeSet<usize> = (21..=28).collect();
        for text in ["21-28", "21..=28", "21..29", " 21 - 28 ", "21-24,25,26..=28", "28,27,21-26"] {
            let found = parse_drop(text, 32).unwrap();
            assert_eq!((found.layers, found.sublayers.len()), (expected.clone(), 0), "{text}");
        }
        assert_eq!(parse_drop("0,31", 32).unwrap().layers, [0, 31].into());
    }

    #[test]
    fn a_sublayer_goes_alone_or_with_the_other_as_the_layer() {
        let (attention, mlp) = (SubLayers { attention: true, mlp: false }, SubLayers { attention: false, mlp: true });
        let found = parse_drop("9, attn:7, mlp:3-5, attention: 4", 32).unwrap();
        assert_eq!(found.layers, [4, 9].into());
        assert_eq!(found.sublayers, [(3, mlp), (5, mlp), (7, attention)].into());
        assert_eq!(found.to_string(), "4, 9, attention:7, mlp:3, mlp:5");
        assert!(!found.are_layers() && parse_drop("attn:1,mlp:1", 32).unwrap().are_layers());
        assert_eq!(found.size().to_string(), "3.5");
        assert_eq!(parse_drop("3-6", 32).unwrap().size().to_string(), "4");
    }

    #[test]
    fn faults_are_quoted() {
        for (text, word) in [
            ("", "`` in `` is no layer"),
            ("21-", "`21-` in"),
            ("a", "`a` in `a`"),
            ("-3", "`-3` in"),
            ("+3", "`+3` in"),
            ("1,,2", "`` in `1,,2`"),
            ("3..3", "`3..3` names no layer"),
            ("28-21", "`28-21` names no layer"),
            ("32", "names layer 32, but the model has 32 layers (0..=31)"),
            ("0-18446744073709551614", "names layer 18446744073709551614"),
            ("0-18446744073709551615", "is no layer or range"),
            ("1-3,3", "names layer 3 twice"),
            ("3,attn:3", "names layer 3 twice"),
            ("mlp:3,3", "names layer 3 twice"),
            ("mlp:3,mlp:2-3", "names layer 3 twice"),
            ("ffn:3", "`ffn:3` in `ffn:3`"),
            ("mlp:", "`mlp:` in"),
        ] {
            let error = parse_drop(text, 32).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(attn:|mlp:|[-0-9., =x]){0,24}|\\PC{0,16}", layers in 0usize..200) {
            if let Ok(named) = parse_drop(&text, layers) {
                prop_assert!(named.layers.iter().chain(named.sublayers.keys()).all(|layer| *layer < layers));
            }
        }

        #[test]
        fn what_we_print_is_what_we_read(
            layers in proptest::collection::btree_set(0usize..64, 1..40),
            parts in proptest::collection::btree_map(0usize..64, any::<bool>(), 0..40),
        ) {
            let mut named = Dropped { layers, ..Dropped::default() };
            for (layer, is_mlp) in parts {
                named.insert(layer, SubLayer::ALL[usize::from(is_mlp)]);
            }
            prop_assert_eq!(parse_drop(&named.to_string(), 64).unwrap(), named.clone());
            let written = serde_json::to_value(&named).unwrap();
            prop_assert_eq!(written.is_array(), named.are_layers());
            prop_assert_eq!(serde_json::from_value::<Dropped>(written).unwrap(), named);
        }
    }
}
