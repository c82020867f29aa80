//! Token sequences out of tokenised documents.

use std::collections::VecDeque;

use super::marked::{is_given, learned};
use super::separate::{Attention, Separator};
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
    /// What stands between documents.
    pub separator: Separator,
    /// Whether documents of a sequence see each other.
    pub attention: Attention,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            seq_len: 2048,
            packing: Packing::Document,
            min_tokens: 2,
            separator: Separator::default(),
            attention: Attention::default(),
        }
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
    /// Conversations passed over because no token of an answer is left in them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unanswered: u64,
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

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A sequence: one run of tokens, or, where its documents do not see each other, a run for each.
pub(super) type Sequence = Vec<Vec<u32>>;

/// The tokens that wait for more to fill a sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Carry {
    pub(super) tokens: Vec<u32>,
    /// Where documents that see nothing before them begin, the first token aside.
    pub(super) cuts: Vec<usize>,
}

/// Takes documents in, gives sequences out.
#[derive(Debug)]
pub(super) struct Packer {
    shape: Shape,
    carry: Carry,
    taken: u64,
    ready: VecDeque<Sequence>,
    pub(super) tally: Tally,
}

impl Packer {
    /// A packer that has taken `taken` documents, the last tokens of which are `carry`.
    pub(super) fn new(shape: Shape, taken: u64, carry: Carry) -> Self {
        Self { shape, carry, taken, ready: VecDeque::new(), tally: Tally::default() }
    }

    /// The tokens that wait for more to fill a sequence.
    pub(super) fn carry(&self) -> &Carry {
        &self.carry
    }

    /// Sequences that are complete.
    pub(super) fn ready(&mut self) -> &mut VecDeque<Sequence> {
        &mut self.ready
    }

    /// Takes one document.
    pub(super) fn take(&mut self, tokens: Vec<u32>) {
        let length = tokens.len();
        self.take_beginning(tokens, length);
    }

    /// Takes one document of `length` tokens: all of them, or where no sequence needs more the first `seq_len`.
    pub(super) fn take_beginning(&mut self, mut tokens: Vec<u32>, length: usize) {
        self.taken += 1;
        let kept = if self.shape.packing == Packing::Document { self.shape.seq_len } else { usize::MAX };
        if tokens.first().is_some_and(|token| is_given(*token)) && learned(&tokens[..tokens.len().min(kept)]) == 0 {
            self.tally.unanswered += 1;
            return;
        }
        if self.shape.packing == Packing::Document {
            if length < self.shape.min_tokens {
                self.tally.short += 1;
                return;
            }
            if let Some(over) = length.checked_sub(self.shape.seq_len).filter(|over| *over > 0) {
                self.tally.truncated += 1;
                self.tally.dropped_tokens += over as u64;
                tokens.truncate(self.shape.seq_len);
                tokens.shrink_to_fit();
            }
            self.give(vec![tokens]);
            return;
        }
        let (start, seq_len) = (self.carry.tokens.len(), self.shape.seq_len);
        if self.shape.attention == Attention::Within && start > 0 {
            self.carry.cuts.push(start);
        }
        self.carry.tokens.extend(tokens);
        let whole = self.carry.tokens.len() / seq_len * seq_len;
        let rest = self.carry.tokens.split_off(whole);
        let later = self.carry.cuts.iter().filter(|cut| **cut > whole).map(|cut| cut - whole).collect();
        let done = std::mem::replace(&mut self.carry, Carry { tokens: rest, cuts: later });
        for (index, sequence) in done.tokens.chunks(seq_len).enumerate() {
            let own = done.cuts.iter().filter_map(|cut| cut.checked_sub(index * seq_len)).filter(|cut| *cut < seq_len);
            self.give(cut(sequence, own));
        }
        if self.shape.packing == Packing::RunClm && self.taken.is_multiple_of(RUN_CLM_BATCH) {
            self.drop_rest();
        }
    }

    /// Drops what waits: the text is over.
    pub(super) fn drop_rest(&mut self) {
        self.tally.dropped_tokens += self.carry.tokens.len() as u64;
        self.carry = Carry::default();
    }

    fn give(&mut self, mut sequence: Sequence) {
        let least = self.shape.min_tokens;
        sequence.retain(|run| {
            let short = run.len() < least || (run.len() > 1 && learned(run) == 0);
            self.tally.dropped_tokens += if short { run.len() as u64 } else { 0 };
            !short
        });
        if sequence.is_empty() {
            return;
        }
        self.tally.sequences += 1;
        self.tally.tokens += length(&sequence) as u64;
        self.tally.longest = self.tally.longest.max(sequence.iter().map(Vec::len).max().unwrap_or(0));
        self.ready.push_back(sequence);
    }
}

/// Tokens of a sequence.
pub(super) fn length(sequence: &Sequence) -> usize {
    sequence.iter().map(Vec::len).sum()
}

/// `tokens` in runs that begin at `cuts`.
fn cut(tokens: &[u32], cuts: impl Iterator<Item = usize>) -> Sequence {
    let (mut runs, mut start) = (Vec::new(), 0);
    for end in cuts.chain([tokens.len()]).filter(|end| *end > 0) {
        runs.push(tokens[start..end].to_vec());
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(packing: Packing, seq_len: usize, documents: &[usize]) -> (Vec<Vec<u32>>, Tally) {
        let (sequences, tally) = pack_as(Shape { seq_len, packing, ..Shape::default() }, documents);
        assert!(sequences.iter().all(|sequence| sequence.len() == 1));
        (sequences.concat(), tally)
    }

    fn pack_as(shape: Shape, documents: &[usize]) -> (Vec<Sequence>, Tally) {
        let mut packer = Packer::new(shape, 0, Carry::default());
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
    fn documents_that_do_not_see_each_other_are_runs_of_their_own() {
        let shape = Shape { seq_len: 6, packing: Packing::Packed, attention: Attention::Within, ..Shape::default() };
        let (sequences, tally) = pack_as(shape, &[3, 2, 8, 1, 3, 6, 2]);
        let expected: [&[&[u32]]; 4] = [
            // one token of the third document is too few for a run
            &[&[0, 1, 2], &[3, 4]],
            &[&[6, 7, 8, 9, 10, 11]],
            // 12 and 13 alone as well
            &[&[14, 15, 16]],
            &[&[18, 19, 20, 21, 22]],
        ];
        assert_eq!(sequences, expected.map(|runs| runs.iter().map(|run| run.to_vec()).collect::<Sequence>()));
        assert_eq!((tally.sequences, tally.tokens, tally.longest), (4, 19, 6));
        assert_eq!(tally.tokens + tally.dropped_tokens, 25);
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
