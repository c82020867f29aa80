//! Where the sequences of a step come from.

use crate::Result;
use crate::data::{Position, TextMixture, Tokenizer};

/// An endless supply of token sequences that can be taken up again where it was left.
pub trait Samples {
    /// The sequences of the next step, `count` of them, or fewer where an epoch ends.
    ///
    /// # Errors
    /// Work: the text cannot be read. Interrupted.
    fn take(&mut self, count: usize) -> Result<Vec<Vec<u32>>>;

    /// Where the next sequence stands.
    fn position(&self) -> Position;
}

/// Sequences of texts.
pub struct TextSamples<'a> {
    /// The texts.
    pub stream: TextMixture,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

impl Samples for TextSamples<'_> {
    fn take(&mut self, count: usize) -> Result<Vec<Vec<u32>>> {
        self.stream.take(self.tokenizer, count)
    }

    fn position(&self) -> Position {
        self.stream.position()
    }
}

/// Given sequences, in their order, over and over; the last step of an epoch takes what is left, as the Hugging Face
/// Trainer does.
#[derive(Clone, Debug)]
pub struct FixedSamples {
    rows: Vec<Vec<u32>>,
    next: usize,
    epoch: u64,
}

impl FixedSamples {
    /// From the first of `rows`, or from `position`.
    #[must_use]
    pub fn new(rows: Vec<Vec<u32>>, position: Option<&Position>) -> Self {
        Self { rows, next: position.map_or(0, |position| position.next), epoch: position.map_or(0, |p| p.epoch) }
    }
}

impl Samples for FixedSamples {
    fn take(&mut self, count: usize) -> Result<Vec<Vec<u32>>> {
        if self.next >= self.rows.len() {
            (self.next, self.epoch) = (0, self.epoch + 1);
        }
        let end = (self.next + count).min(self.rows.len());
        let rows = self.rows[self.next..end].to_vec();
        self.next = end;
        Ok(rows)
    }

    fn position(&self) -> Position {
        Position { epoch: self.epoch, next: self.next, ..Position::default() }
    }
}
