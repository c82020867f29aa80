//! The tokens of one forward pass.

use std::ops::Range;
use std::sync::Arc;

use crate::Result;
use crate::data::marked::{self, is_given};
use crate::ops::Layout;

/// A flat list of tokens and how they hang together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `[t]`.
    pub ids: Vec<u32>,
    /// Which tokens form a sequence.
    pub layout: Arc<Layout>,
    /// Which tokens are given, so that the loss does not count them, `[t]`; empty where none is.
    pub given: Vec<bool>,
    /// Sequences that stand before the first one of a pass that begins with this batch.
    pub before: usize,
}

impl Batch {
    /// Independent sequences of tokens ([`marked`]), one after the other.
    ///
    /// # Errors
    /// An empty sequence.
    pub fn sequences<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Self> {
        let layout = Layout::sequences(sequences.iter().map(|sequence| sequence.as_ref().len()))?;
        let tokens = || sequences.iter().flat_map(|sequence| sequence.as_ref()).copied();
        let given = if tokens().any(is_given) { tokens().map(is_given).collect() } else { Vec::new() };
        Ok(Self { ids: tokens().map(marked::id).collect(), layout: Arc::new(layout), given, before: 0 })
    }

    /// Some neighbours of `batches`, whose sequences keep their numbers.
    #[must_use]
    pub fn part(batches: &[Self], part: Range<usize>) -> Vec<Self> {
        let mut own = batches[part.clone()].to_vec();
        if let Some(first) = own.first_mut() {
            first.before = Self::count(&batches[..part.start]);
        }
        own
    }

    /// Sequences of all of `batches`, parts that hang together counted by themselves.
    #[must_use]
    pub fn count(batches: &[Self]) -> usize {
        batches.iter().map(|batch| batch.layout.segments().len()).sum()
    }

    /// Sequences in order, as many to a batch as fit `max_tokens`; one that is longer has a batch of its own.
    ///
    /// # Errors
    /// An empty sequence.
    pub fn pack<S: AsRef<[u32]>>(sequences: &[S], max_tokens: usize) -> Result<Vec<Self>> {
        let mut batches = Vec::new();
        let (mut start, mut tokens) = (0, 0);
        for (index, sequence) in sequences.iter().enumerate() {
            let len = sequence.as_ref().len();
            if index > start && tokens + len > max_tokens {
                batches.push(Self::sequences(&sequences[start..index])?);
                (start, tokens) = (index, 0);
            }
            tokens += len;
        }
        if start < sequences.len() {
            batches.push(Self::sequences(&sequences[start..])?);
        }
        Ok(batches)
    }

    /// Names token `token` of batch `batch` by its sequence, counted through all `batches`, and its position in it.
    #[must_use]
    pub fn place(batches: &[Self], batch: usize, token: usize) -> String {
        let before = batches.first().map_or(0, |first| first.before) + Self::count(&batches[..batch]);
        let segments = batches[batch].layout.segments();
        let own = segments.partition_point(|segment| segment.start + segment.len <= token);
        let position = token - segments.get(own).map_or(0, |segment| segment.start);
        format!("text {}, token {position} (from 0)", before + own)
    }

    /// For each token, the next of its sequence, if the loss counts that.
    #[must_use]
    pub fn targets(&self) -> Vec<Option<u32>> {
        let mut targets = vec![None; self.tokens()];
        let is_given = |token: usize| self.given.get(token).copied().unwrap_or(false);
        for segment in self.layout.segments() {
            let (first, end) = (segment.start, segment.start + segment.len);
            for next in (first + 1..end).filter(|next| !is_given(*next)) {
                targets[next - 1] = Some(self.ids[next]);
            }
        }
        targets
    }

    /// Tokens of the pass, `t`.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_in_order() {
        let sequences = [vec![1; 3], vec![2; 3], vec![3; 9], vec![4; 1], vec![5; 5]];
        let batches = Batch::pack(&sequences, 6).unwrap();
        let lengths: Vec<Vec<usize>> =
            batches.iter().map(|batch| batch.layout.segments().iter().map(|segment| segment.len).collect()).collect();
        assert_eq!(lengths, [vec![3, 3], vec![9], vec![1, 5]]);
        assert_eq!(batches[2].ids, [4, 5, 5, 5, 5, 5]);
        assert!(Batch::pack(&[Vec::<u32>::new()], 6).is_err());
    }
}
