//! Token sequences out of tokenised documents.

use std::collections::VecDeque;

use crate::{Error, Result};

/// How documents become sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// One sequence a document, cut off after `seq_len` tokens.
    #[default]
    Document,
    /// Documents one after the other, cut every `seq_len` tokens; what is left at the very end is dropped.
    Packed,
    /// As [`Packing::Packed`], but what is left after every 1000 documents is dropped and empty documents are kept, as
    /// Hugging Face's `run_clm.py` does it.
    RunClm,
}

/// Documents that `datasets.map(batched=True)` hands to `run_clm.py` at a time.
const RUN_CLM_BATCH: u64 = 1000;

/// The shape of the sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Tokens of a sequence, at most.
    pub seq_len: usize,
    /// How documents become sequences.
    pub packing: Packing,
    /// Documents with fewer tokens make no sequence of their own.
    pub min_tokens: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { seq_len: 2048, packing: Packing::Document, min_tokens: 2 }
    }
}

impl Shape {
    /// Refuses a shape that no sequence has.
    ///
    /// # Errors
    /// [`Error::Request`] naming the setting.
    pub(super) fn check(&self) -> Result<()> {
        if self.seq_len < 2 {
            return Err(Error::request(format!(
                "a sequence length of {} is too short, expected 2 or more",
                self.seq_len
            )));
        }
        if self.min_tokens > self.seq_len {
            let (min, len) = (self.min_tokens, self.seq_len);
            return Err(Error::request(format!("at least {min} tokens in sequences of at most {len} cannot be")));
        }
        Ok(())
    }

    /// Whether a document without text is passed over.
    pub(super) fn skips_empty(&self) -> bool {
        self.packing != Packing::RunClm
    }
}

/// What became of the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Documents read.
    pub documents: u64,
    /// Documents passed over because they hold no text.
    pub empty: u64,
    /// Documents passed over because they have too few tokens.
    pub short: u64,
    /// Documents cut off at the sequence length.
    pub truncated: u64,
    /// Sequences made.
    pub sequences: u64,
    /// Tokens in them.
    pub tokens: u64,
    /// Tokens left over by packing, or cut off.
    pub dropped_tokens: u64,
    /// Tokens of the longest sequence.
    pub longest: usize,
}

/// Takes documents in, gives sequences out.
#[derive(Debug)]
pub(super) struct Packer {
    shape: Shape,
    carry: Vec<u32>,
    taken: u64,
    ready: VecDeque<Vec<u32>>,
    pub(super) tally: Tally,
}

impl Packer {
    /// A packer that has taken `taken` documents, the last tokens of which are `carry`.
    pub(super) fn new(shape: Shape, taken: u64, carry: Vec<u32>) -> Self {
        Self { shape, carry, taken, ready: VecDeque::new(), tally: Tally::default() }
    }

    /// The tokens that wait for more to fill a sequence.
    pub(super) fn carry(&self) -> &[u32] {
        &self.carry
    }

    /// Sequences that are complete.
    pub(super) fn ready(&mut self) -> &mut VecDeque<Vec<u32>> {
        &mut self.ready
    }

    /// Takes one document.
    pub(super) fn take(&mut self, mut tokens: Vec<u32>) {
        self.taken += 1;
        if self.shape.packing == Packing::Document {
            if tokens.len() < self.shape.min_tokens {
                self.tally.short += 1;
                return;
            }
            if let Some(over) = tokens.len().checked_sub(self.shape.seq_len).filter(|over| *over > 0) {
                self.tally.truncated += 1;
                self.tally.dropped_tokens += over as u64;
                tokens.truncate(self.shape.seq_len);
            }
            self.give(tokens);
            return;
        }
        self.carry.extend(tokens);
        let whole = self.carry.len() / self.shape.seq_len * self.shape.seq_len;
        let rest = self.carry.split_off(whole);
        for sequence in std::mem::replace(&mut self.carry, rest).chunks(self.shape.seq_len) {
            self.give(sequence.to_vec());
        }
        if self.shape.packing == Packing::RunClm && self.taken.is_multiple_of(RUN_CLM_BATCH) {
            self.drop_rest();
        }
    }

    /// Drops what waits: the text is over.
    pub(super) fn drop_rest(&mut self) {
        self.tally.dropped_tokens += self.carry.len() as u64;
        self.carry.clear();
    }

    fn give(&mut self, sequence: Vec<u32>) {
        self.tally.sequences += 1;
        self.tally.tokens += sequence.len() as u64;
        self.tally.longest = self.tally.longest.max(sequence.len());
        self.ready.push_back(sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(packing: Packing, seq_len: usize, documents: &[usize]) -> (Vec<Vec<u32>>, Tally) {
        let mut packer = Packer::new(Shape { seq_len, packing, min_tokens: 2 }, 0, Vec::new());
        let mut next = 0;
        for length in documents {
            packer.take((next..next + *length as u32).collect());
            next += *length as u32;
        }
        packer.drop_rest();
        (packer.ready().drain(..).collect(), packer.tally)
    }

    #[test]
    fn one_sequence_a_document() {
        let (sequences, tally) = pack(Packing::Document, 3, &[2, 1, 5, 0, 3]);
        assert_eq!(sequences, [vec![0, 1], vec![3, 4, 5], vec![8, 9, 10]]);
        assert_eq!((tally.short, tally.truncated, tally.dropped_tokens, tally.tokens, tally.longest), (2, 1, 2, 8, 3));
    }

    #[test]
    fn packing_loses_only_the_last_remainder() {
        let (sequences, tally) = pack(Packing::Packed, 4, &[3, 6, 0, 2]);
        assert_eq!(sequences, [vec![0, 1, 2, 3], vec![4, 5, 6, 7]]);
        assert_eq!((tally.dropped_tokens, tally.sequences, tally.tokens), (3, 2, 8));
    }

    #[test]
    fn run_clm_drops_the_remainder_of_every_thousand_documents() {
        let (sequences, tally) = pack(Packing::RunClm, 999, &[1; 2000]);
        assert_eq!(sequences.len(), 2);
        assert_eq!((sequences[1][0], tally.dropped_tokens), (1000, 2));
        assert_eq!(pack(Packing::Packed, 999, &[1; 2000]).0[1][0], 999);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        for (seq_len, min_tokens) in [(0, 0), (1, 1), (8, 9)] {
            assert!(Shape { seq_len, min_tokens, ..Shape::default() }.check().is_err());
        }
        assert!(Shape::default().check().is_ok());
    }
}
