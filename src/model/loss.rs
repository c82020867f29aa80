//! Next-token loss over whole sequences.

use candle_core::Tensor;

use super::{Batch, Model, Observer};
use crate::Result;
use crate::progress::Progress;

/// Negative log-likelihood of the predicted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Sum over tokens, nats.
    pub sum: f64,
    /// Predicted tokens: all but the first of each sequence.
    pub tokens: usize,
}

impl Loss {
    /// Nats a token.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }
}

struct Scorer<'a> {
    model: &'a Model,
    batches: &'a [Batch],
    loss: Loss,
}

impl Observer for Scorer<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place < self.model.layers() {
            return Ok(());
        }
        let (index, batch) = (batch, &self.batches[batch]);
        let segments = batch.layout.segments().iter();
        let rows: Vec<u32> = segments.flat_map(|s| s.start..s.start + s.len - 1).map(|row| row as u32).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let targets: Vec<&[u32]> = rows.iter().map(|row| &batch.ids[*row as usize + 1..*row as usize + 2]).collect();
        let x = x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?;
        let place = |row: usize| Batch::place(self.batches, index, rows[row] as usize);
        for scored in self.model.score(&x, &targets, &place)?.iter().flatten() {
            self.loss.sum -= f64::from(scored.log_likelihood);
        }
        self.loss.tokens += rows.len();
        Ok(())
    }
}

pub(super) fn loss(model: &Model, sequences: &[Vec<u32>], what: &str, progress: &dyn Progress) -> Result<Loss> {
    let batches = Batch::pack(sequences, model.pass_tokens(0))?;
    let mut scorer = Scorer { model, batches: &batches, loss: Loss::default() };
    model.run(&batches, &mut scorer, what, progress)?;
    Ok(scorer.loss)
}
