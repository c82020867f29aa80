//! What a caller needs who leads streams through a model himself, sub-layer by sub-layer.

use std::sync::Arc;

use candle_core::Tensor;

use super::loss::{self, tokens_of_a_batch};
use super::{Batch, Block, Loss, Model};
use crate::{Context, Result, ops};

impl Model {
    /// `sequences` in batches of a size that sums may hang on: the same whatever memory there is.
    ///
    /// # Errors
    /// An empty sequence.
    pub(crate) fn batches<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Vec<Batch>> {
        Batch::pack(sequences, tokens_of_a_batch(&self.device))
    }

    /// The block at `place`, read where it does not stay in memory.
    ///
    /// # Errors
    /// A weight that cannot be read.
    pub(crate) fn block(&self, place: usize) -> Result<Arc<Block>> {
        self.stack.block(place)
    }

    /// Refuses a stream `[t, d]` that enters `place` and is not finite; `token` names a row of it.
    ///
    /// # Errors
    /// As said, with the tensor to blame where there is one.
    pub(crate) fn check_stream(&self, place: usize, x: &Tensor, token: &dyn Fn(usize) -> String) -> Result<()> {
        if ops::all_finite(x)? {
            return Ok(());
        }
        let fault = Err(self.not_finite(place)?);
        match ops::first_not_finite(x)? {
            Some(row) => fault.context(|| token(row)),
            None => fault,
        }
    }

    /// The loss of each sequence of batch `index`, from the stream `x` `[t, d]` that leaves the last layer.
    ///
    /// # Errors
    /// As [`Model::score`].
    pub(crate) fn losses_of_stream(&self, batches: &[Batch], index: usize, x: &Tensor) -> Result<Vec<Loss>> {
        loss::score(self, batches, index, x)
    }
}
