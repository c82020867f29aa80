//! Ranks that change over the depth of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::LoraSettings;
use crate::arch::ModelSpec;
use crate::{Error, Result};

/// Rank of the adapters of each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankSchedule {
    /// The same in all.
    Constant(usize),
    /// On a line over the numbers of the layers, from the lowest adapted layer to the highest, rounded to the nearest
    /// whole number, halves up: the ranks of PRILoRA (Benedek and Wolf, Findings of EACL 2024), which has 4 to 12.
    Linear {
        /// Of the lowest adapted layer.
        bottom: usize,
        /// Of the highest.
        top: usize,
    },
}

impl RankSchedule {
    /// The lowest and the highest rank.
    #[must_use]
    pub fn bounds(self) -> (usize, usize) {
        match self {
            Self::Constant(rank) => (rank, rank),
            Self::Linear { bottom, top } => (bottom.min(top), bottom.max(top)),
        }
    }

    /// The rank of `layer`, where the layers from `lowest` to `highest` are adapted. One layer alone is the lowest.
    fn of(self, layer: usize, (lowest, highest): (usize, usize)) -> usize {
        match self {
            Self::Constant(rank) => rank,
            Self::Linear { bottom, top } => {
                // a rank is no larger than a matrix is wide, a layer's number no larger than its model is deep
                let (span, above) = ((highest - lowest).max(1) as u128, (layer - lowest) as u128);
                let sum = bottom as u128 * (span - above) + top as u128 * above;
                ((2 * sum + span) / (2 * span)) as usize
            }
        }
    }
}

impl From<usize> for RankSchedule {
    fn from(rank: usize) -> Self {
        Self::Constant(rank)
    }
}

impl LoraSettings {
    /// The same with the ranks of `ranks`, those of a line as patterns over the layers (`rank_pattern`), behind the
    /// ones that are there. Where alpha is left open, it follows the rank (`alpha_pattern`), and every update has the
    /// same scale; one that is given is every layer's, and the scale is alpha over the layer's rank.
    ///
    /// # Errors
    /// Request: impossible settings, or a target that the model does not have.
    pub fn with_ranks(mut self, ranks: RankSchedule, spec: &ModelSpec) -> Result<Self> {
        self.rank = ranks.bounds().0;
        let layers: BTreeSet<usize> = self.modules(spec)?.into_iter().map(|(layer, ..)| layer).collect();
        let ends = layers.first().copied().zip(layers.last().copied());
        let (RankSchedule::Linear { .. }, Some(ends)) = (ranks, ends) else { return Ok(self) };
        let mut by_rank = BTreeMap::<usize, Vec<String>>::new();
        for layer in layers {
            by_rank.entry(ranks.of(layer, ends)).or_default().push(layer.to_string());
        }
        for (rank, layers) in by_rank {
            let key = format!(r"layers\.({})\..*", layers.join("|"));
            if self.alpha.is_none() {
                self.alpha_pattern.push(key.clone(), rank as f64);
            }
            self.rank_pattern.push(key, rank);
        }
        Ok(self)
    }
}

impl FromStr for RankSchedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = || Error::request(format!("rank is {text:?}, expected a number, or two from bottom to top: 4..12"));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| fault());
        match text.split_once("..") {
            None => number(text).map(Self::Constant),
            Some((bottom, top)) => Ok(Self::Linear { bottom: number(bottom)?, top: number(top)? }),
        }
    }
}

impl fmt::Display for RankSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(rank) => rank.fmt(f),
            Self::Linear { bottom, top } => write!(f, "{bottom}..{top}"),
        }
    }
}

impl Serialize for RankSchedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Constant(rank) => rank.serialize(serializer),
            Self::Linear { .. } => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for RankSchedule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a rank, or two from bottom to top: \"4..12\"")]
        enum Spelling {
            Number(usize),
            Text(String),
        }
        match Spelling::deserialize(deserializer)? {
            Spelling::Number(rank) => Ok(Self::Constant(rank)),
            Spelling::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn on_a_line_and_rounded_to_the_nearest() {
        let ranks: RankSchedule = "4..12".parse().unwrap();
        let over = |ranks: RankSchedule, ends: (usize, usize)| -> Vec<usize> {
            (ends.0..=ends.1).map(|layer| ranks.of(layer, ends)).collect()
        };
        // 4, 5.6, 7.2, 8.8, 10.4, 12
        assert_eq!(over(ranks, (0, 5)), [4, 6, 7, 9, 10, 12]);
        assert_eq!(over(ranks, (10, 12)), [4, 8, 12]);
        assert_eq!(over(ranks, (3, 3)), [4]);
        // 3, 2.5, 2: halves up
        assert_eq!(over("3..2".parse().unwrap(), (0, 2)), [3, 3, 2]);
        assert_eq!(over(7.into(), (0, 1)), [7, 7]);
        let huge = RankSchedule::Linear { bottom: usize::MAX, top: 1 };
        assert_eq!(over(huge, (0, 1)), [usize::MAX, 1]);
        assert_eq!((ranks.bounds(), RankSchedule::Linear { bottom: 9, top: 2 }.bounds()), ((4, 12), (2, 9)));
    }

    #[test]
    fn numbers_and_text() {
        assert_eq!(
            (json!(RankSchedule::from(64)), json!("4..12".parse::<RankSchedule>().unwrap())),
            (json!(64), json!("4..12"))
        );
        for (written, expected) in
            [(json!(64), 64.into()), (json!("64"), 64.into()), (json!("4..12"), "4..12".parse().unwrap())]
        {
            assert_eq!(serde_json::from_value::<RankSchedule>(written).unwrap(), expected);
        }
        for text in ["4..", "..12", "a", "-1", "4..12..20", ""] {
            let error = text.parse::<RankSchedule>().unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("4..12"), "{error}");
        }
    }
}
