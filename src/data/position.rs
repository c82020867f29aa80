//! Where a training run stands in its text.

use super::marked;
use super::pack::{Packing, Shape};
use super::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A place in the stream, small enough to be saved with every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Passes over the whole source that are behind.
    pub epoch: u64,
    /// Documents of this epoch before the window.
    pub document: u64,
    /// Their last tokens, which begin the window's first sequence (packing only).
    pub carry: Vec<u32>,
    /// Where documents begin in them that do not see what stands before, the first token aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<usize>,
    /// Sequences of the window that are behind.
    pub next: usize,
    /// Of a mixture of sources, where the others stand: this is the first one's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Position>,
    /// Of a mixture, the sequences taken so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub taken: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Position {
    /// Passes that are behind over every source.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.beside.iter().map(Self::passes).fold(self.epoch, u64::min)
    }

    /// Refuses a place where no stream can be: a saved one may be anyone's.
    pub(super) fn check(&self, shape: &Shape, tokenizer: &Tokenizer) -> Result<()> {
        let (ends, most) = (1..=self.carry.len(), shape.seq_len.saturating_sub(1));
        let has_most = if shape.packing == Packing::Document { 0 } else { most };
        let is_sound = self.epoch < u64::from(u32::MAX)
            && self.carry.len() <= has_most
            && self.carry.iter().all(|token| tokenizer.has_embedding(marked::id(*token)))
            && self.cuts.is_sorted()
            && self.cuts.iter().all(|cut| ends.contains(cut));
        match is_sound {
            true => Ok(()),
            false => Err(Error::work("the saved place in the text is none that such a text has; begin anew")),
        }
    }
}
