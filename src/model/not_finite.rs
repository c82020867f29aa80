//! Where a number that is none first appears, and what is to blame for it.

use candle_core::{Device, Tensor};

use super::{Batch, Model, Observer};
use crate::ops::{self, FiniteWatch};
use crate::{Context, Error, Result};

impl Model {
    /// Looks at the residual stream that enters `place`. What is wrong is said at once in main memory, and on a GPU,
    /// which is not waited for at every layer, when the stream leaves the last one.
    pub(super) fn look(
        &self,
        watch: &mut FiniteWatch,
        place: usize,
        x: &Tensor,
        token: &dyn Fn(usize) -> String,
    ) -> Result<()> {
        if watch.look(place, x)? && place < self.layers() {
            return Ok(());
        }
        let Some(place) = watch.first_broken()? else { return Ok(()) };
        let fault = Err(self.not_finite(place)?);
        match ops::first_not_finite(x)? {
            Some(row) => fault.context(|| token(row)),
            None => fault,
        }
    }

    /// Names the layer after which a residual stream is not finite, and the tensor to blame where there is one.
    pub(super) fn not_finite(&self, place: usize) -> Result<Error> {
        let (from, tensors) = if place == 0 {
            let name = self.spec.embedding_tensor(&self.checkpoint.index);
            ("the embedding".to_owned(), vec![name.to_owned()])
        } else {
            let layer = self.stack.source_layer(place - 1);
            let tensors = self.spec.layer_tensors(layer).into_iter().chain(self.spec.seam_tensors(layer));
            (format!("layer {layer}"), tensors.map(|tensor| tensor.name).collect())
        };
        for name in tensors {
            let entry = self.checkpoint.entry(&name)?.clone();
            let weights = self.checkpoint.load_f32(&name, &entry.shape, &Device::Cpu)?;
            if !ops::all_finite(&weights)? {
                return Ok(Error::work(format!(
                    "{}: tensor {name} holds non-finite values",
                    self.checkpoint.source.id
                )));
            }
        }
        Ok(Error::work(format!("{}: {}", self.checkpoint.source.id, overflows(&from))))
    }
}

/// What is said of a part of the model whose weights are not to blame.
pub(super) fn overflows(part: &str) -> String {
    format!(
        "{part} gives non-finite values although its weights are finite; is the checkpoint damaged or its config wrong?"
    )
}

/// The text and position of a token as the observer names it, or counted from 0.
pub(super) fn named(observer: &dyn Observer, batches: &[Batch], batch: usize, token: usize) -> String {
    observer.place(batch, token).unwrap_or_else(|| Batch::place(batches, batch, token))
}
