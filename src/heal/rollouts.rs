//! How long the texts are that a model in training writes itself: short as long as they end in repetitions, longer as
//! these become fewer and the model is cut off in the middle of what it says (ShortOPD, arXiv 2607.13124).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::repeats_from;
use crate::{Error, Result};

/// Tokens of a text at the beginning and at most: `64..512`, or one number where the length stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutTokens {
    /// At the beginning, and never fewer.
    pub from: usize,
    /// Never more.
    pub to: usize,
}

impl Default for RolloutTokens {
    fn default() -> Self {
        Self { from: 64, to: 512 }
    }
}

impl FromStr for RolloutTokens {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) if 0 < from && from <= to => Ok(Self { from, to }),
            _ => Err(Error::request(format!(
                "rollout_tokens is {text:?}, expected numbers from 1: 64..512, the first no more than the second, or 128"
            ))),
        }
    }
}

impl fmt::Display for RolloutTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to } = self;
        if from == to { write!(f, "{from}") } else { write!(f, "{from}..{to}") }
    }
}

impl Serialize for RolloutTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.from == self.to { self.from.serialize(serializer) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for RolloutTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            One(usize),
            Text(String),
        }
        let text = match Spelling::deserialize(deserializer) {
            Ok(Spelling::One(tokens)) => tokens.to_string(),
            Ok(Spelling::Text(text)) => text,
            Err(_) => return Err(de::Error::custom("expected tokens: 128, or \"64..512\"")),
        };
        text.parse().map_err(de::Error::custom)
    }
}

/// What the texts of a step, or of several, were like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutCounts {
    /// Texts.
    pub texts: u64,
    /// Of them, those that end in a repetition.
    pub repeated: u64,
    /// Of them, those that were long enough before the model ended them, and end in none.
    pub cut_off: u64,
    /// Tokens of all.
    pub tokens: u64,
    /// Tokens before the repetitions, of all.
    pub effective: u64,
}

impl RolloutCounts {
    /// Counts a text of these tokens, which is over because the model said so or was `cut_off`.
    pub(super) fn count(&mut self, said: &[u32], cut_off: bool) {
        let effective = repeats_from(said);
        self.texts += 1;
        self.repeated += u64::from(effective.is_some());
        self.cut_off += u64::from(cut_off && effective.is_none());
        self.tokens += said.len() as u64;
        self.effective += effective.unwrap_or(said.len()) as u64;
    }

    fn add(self, other: &Self) -> Self {
        Self {
            texts: self.texts.saturating_add(other.texts),
            repeated: self.repeated.saturating_add(other.repeated),
            cut_off: self.cut_off.saturating_add(other.cut_off),
            tokens: self.tokens.saturating_add(other.tokens),
            effective: self.effective.saturating_add(other.effective),
        }
    }

    /// Share of the texts that end in a repetition.
    #[must_use]
    pub fn repeated_share(&self) -> f64 {
        self.repeated as f64 / self.texts.max(1) as f64
    }
}

/// Steps that are looked back on.
const WINDOW: usize = 4;

/// How long the next texts are, and what was seen of the last. Counts alone: what is saved is what is gone on from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutLength {
    tokens: usize,
    recent: Vec<RolloutCounts>,
}

impl RolloutLength {
    /// Tokens of the next texts at most.
    pub(super) fn tokens(&self, range: RolloutTokens) -> usize {
        self.tokens.clamp(range.from, range.to)
    }

    /// Refuses what no run has: the file may be anyone's.
    pub(super) fn is_sound(&self) -> bool {
        self.recent.len() <= WINDOW && self.recent.iter().all(|counts| counts.repeated <= counts.texts)
    }

    /// After the texts of a step. Where more than half of the last texts end in repetitions, the next are as long as
    /// these were before them; where less than a quarter does and more than half were cut off, an eighth longer.
    pub(super) fn after(&mut self, counts: RolloutCounts, range: RolloutTokens) {
        if counts.texts == 0 {
            return;
        }
        let tokens = self.tokens(range);
        self.recent.push(counts);
        self.recent.drain(..self.recent.len().saturating_sub(WINDOW));
        let seen = self.recent.iter().fold(RolloutCounts::default(), RolloutCounts::add);
        let next = if seen.repeated.saturating_mul(2) > seen.texts {
            usize::try_from(seen.effective.div_ceil(seen.texts.max(1))).unwrap_or(tokens).min(tokens)
        } else if seen.repeated.saturating_mul(4) < seen.texts && seen.cut_off.saturating_mul(2) > seen.texts {
            tokens + (tokens / 8).max(1)
        } else {
            tokens
        };
        self.tokens = next.clamp(range.from, range.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_grow_as_repetitions_fall() {
        let range = RolloutTokens { from: 16, to: 64 };
        let mut length = RolloutLength::default();
        assert_eq!(length.tokens(range), 16);
        let seen =
            |repeated, cut_off, effective| RolloutCounts { texts: 8, repeated, cut_off, tokens: 8 * 64, effective };
        let mut grown = Vec::new();
        for _ in 0..20 {
            length.after(seen(0, 8, 8 * 16), range);
            grown.push(length.tokens(range));
        }
        assert!(grown.is_sorted() && grown[0] == 18 && grown[19] == 64, "{grown:?}");
        // repetitions come back: as long as texts were before them, once they are most of what was seen
        for (repeated, effective, expected) in
            [(8, 24, 64), (8, 24, 64), (8, 24, 22), (8, 24, 22), (0, 40, 22), (0, 40, 22), (0, 40, 22), (0, 40, 24)]
        {
            length.after(seen(repeated, 8 - repeated, 8 * effective), range);
            assert_eq!(length.tokens(range), expected);
        }
        // the model ends its texts itself: there is nothing to be gained
        let mut ended = RolloutLength::default();
        ended.after(seen(0, 1, 8 * 9), range);
        assert_eq!(ended.tokens(range), 16);
        // a step without texts says nothing
        let before = length.clone();
        length.after(RolloutCounts::default(), range);
        assert_eq!(length, before);
    }

    #[test]
    fn lengths_as_text() {
        for (text, from, to) in [("64..512", 64, 512), ("128", 128, 128), ("1..1", 1, 1)] {
            assert_eq!(text.parse::<RolloutTokens>().unwrap(), RolloutTokens { from, to });
        }
        for text in ["0", "0..4", "9..8", "..", "4..", "a", "-1", ""] {
            assert!(text.parse::<RolloutTokens>().unwrap_err().to_string().contains("64..512"), "{text}");
        }
        let range = RolloutTokens::default();
        assert_eq!(serde_json::from_value::<RolloutTokens>(serde_json::to_value(range).unwrap()).unwrap(), range);
        assert_eq!(serde_json::from_value::<RolloutTokens>(serde_json::json!(9)).unwrap(), "9".parse().unwrap());
    }
}
