//! Next-token loss over whole sequences.

use candle_core::Tensor;

use super::{Batch, Model, Observer};
use crate::Result;
use crate::progress::Progress;

/// Negative log-likelihood of the predicted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
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

    /// Of all sequences together.
    #[must_use]
    pub fn total(losses: &[Self]) -> Self {
        losses.iter().fold(Self::default(), |all, own| Self { sum: all.sum + own.sum, tokens: all.tokens + own.tokens })
    }
}

struct Scorer<'a> {
    model: &'a Model,
    batches: &'a [Batch],
    /// Of each sequence, in order.
    losses: Vec<Loss>,
}

impl Observer for Scorer<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place < self.model.layers() {
            return Ok(());
        }
        let (index, batch) = (batch, &self.batches[batch]);
        let segments = batch.layout.segments();
        let rows: Vec<u32> = segments.iter().flat_map(|s| s.start..s.start + s.len - 1).map(|row| row as u32).collect();
        let mut scored = Vec::new();
        if !rows.is_empty() {
            let targets: Vec<&[u32]> =
                rows.iter().map(|row| &batch.ids[*row as usize + 1..*row as usize + 2]).collect();
            let x = x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?;
            let place = |row: usize| Batch::place(self.batches, index, rows[row] as usize);
            scored = self.model.score(&x, &targets, &place)?;
        }
        let mut scored = scored.iter().flatten();
        for segment in segments {
            let own = scored.by_ref().take(segment.len - 1).map(|scored| f64::from(scored.log_likelihood));
            self.losses.push(Loss { sum: -own.sum::<f64>(), tokens: segment.len - 1 });
        }
        Ok(())
    }
}

/// Of each of `sequences`, `pass_tokens` tokens of them at a time.
pub(super) fn losses(
    model: &Model,
    sequences: &[Vec<u32>],
    pass_tokens: usize,
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<Loss>> {
    let batches = Batch::pack(sequences, pass_tokens)?;
    let mut scorer = Scorer { model, batches: &batches, losses: Vec::with_capacity(sequences.len()) };
    model.run(&batches, &mut scorer, what, progress)?;
    Ok(scorer.losses)
}
