//! Next-token loss over whole sequences, of a model or of the streams at each of its depths.

use candle_core::{Device, Tensor};

use super::{Batch, Model, Observer, tokens_at_once};
use crate::Result;
use crate::progress::Progress;

/// Negative log-likelihood of the predicted tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// Sum over tokens, nats.
    pub sum: f64,
    /// Predicted tokens: all but the first of each sequence, and those that are given.
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

/// Of each sequence of batch `index`, from the stream `x` `[t, d]` that leaves the last layer, or another of which the
/// final norm and the head are to make something.
pub(super) fn score(model: &Model, batches: &[Batch], index: usize, x: &Tensor) -> Result<Vec<Loss>> {
    let batch = &batches[index];
    let segments = batch.layout.segments();
    let targets = batch.targets();
    let rows: Vec<u32> = (0..targets.len()).filter(|row| targets[*row].is_some()).map(|row| row as u32).collect();
    let mut scored = Vec::new();
    if !rows.is_empty() {
        let candidates: Vec<&[u32]> = rows.iter().map(|row| &batch.ids[*row as usize + 1..*row as usize + 2]).collect();
        let x = x.index_select(&Tensor::from_slice(&rows, rows.len(), x.device())?, 0)?;
        let place = |row: usize| Batch::place(batches, index, rows[row] as usize);
        scored = model.score(&x, &candidates, &place)?;
    }
    let mut scored = scored.iter().flatten();
    let losses = segments.iter().map(|segment| {
        let tokens = targets[segment.start..segment.start + segment.len].iter().flatten().count();
        let own = scored.by_ref().take(tokens).map(|scored| f64::from(scored.log_likelihood));
        Loss { sum: -own.sum::<f64>(), tokens }
    });
    Ok(losses.collect())
}

struct Scorer<'a> {
    model: &'a Model,
    batches: &'a [Batch],
    /// The first depth that is scored.
    from: usize,
    /// Of each depth from there on and each sequence, in order.
    losses: Vec<Vec<Loss>>,
}

impl Observer for Scorer<'_> {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> Result<()> {
        if place >= self.from {
            self.losses[place - self.from].extend(score(self.model, self.batches, batch, x)?);
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
    let mut losses = losses_at_depths(model, sequences, (model.layers(), pass_tokens), what, progress)?;
    Ok(losses.pop().unwrap_or_default())
}

/// Of each of `sequences` from the streams that enter each of the layers `from` on and leave the last:
/// `[depth][sequence]`.
fn losses_at_depths(
    model: &Model,
    sequences: &[Vec<u32>],
    (from, pass_tokens): (usize, usize),
    what: &str,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Loss>>> {
    let batches = Batch::pack(sequences, pass_tokens)?;
    let losses = vec![Vec::with_capacity(sequences.len()); model.layers() + 1 - from];
    let mut scorer = Scorer { model, batches: &batches, from, losses };
    model.run(&batches, &mut scorer, what, progress)?;
    Ok(scorer.losses)
}

impl Model {
    /// Negative log-likelihood as in [`Model::losses`] of what final norm and head make of the stream at each depth:
    /// what enters each layer, and what leaves the last, `[l+1][sequence]`.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub(crate) fn losses_at_depths(
        &self,
        sequences: &[Vec<u32>],
        what: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Loss>>> {
        losses_at_depths(self, sequences, (0, tokens_of_a_batch(&self.device)), what, progress)
    }
}

/// Tokens that go through a layer together: the same whatever memory there is, since sums hang on it.
pub(crate) fn tokens_of_a_batch(device: &Device) -> usize {
    if device.is_cuda() { tokens_at_once(device) } else { 512 }
}
