//! What the training passes of all kinds of attention have in common: the way through the output projection, some
//! tokens at a time, and back.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;

use super::linear::{Linear, LoraHidden};
use crate::arch::Role;
use crate::model::chunks::{Gathered, rows};
use crate::model::training::{BackwardContext, TrainContext};
use crate::{Error, Result};

/// An output projection in training.
#[derive(Debug)]
pub(super) struct OutputPass<'a> {
    o: &'a Linear,
    /// Whether there is a way back.
    pub(super) save: bool,
    /// What it takes, `[t, h·e]`.
    taken: Option<Tensor>,
    /// Of its adapter, by the first row of a chunk.
    hidden: BTreeMap<usize, LoraHidden>,
    /// On the way back the gradient of what it takes.
    gradient: Option<Gathered>,
}

impl<'a> OutputPass<'a> {
    pub(super) fn new(o: &'a Linear, save: bool) -> Self {
        Self { o, save, taken: None, hidden: BTreeMap::new(), gradient: None }
    }

    /// Sets what it takes of all tokens.
    pub(super) fn take(&mut self, all: Tensor) {
        self.taken = Some(all);
    }

    fn taken(&self, chunk: &Range<usize>) -> Result<Tensor> {
        rows(self.taken.as_ref().ok_or_else(|| Error::work("attention is asked for before its turn"))?, chunk)
    }

    /// The update of the stream in the rows `chunk`.
    pub(super) fn update(&mut self, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor> {
        let mut hidden = LoraHidden::new();
        let update = self.o.forward_saving(&self.taken(chunk)?, training, (Role::O, chunk.start), &mut hidden)?;
        if self.save {
            self.hidden.insert(chunk.start, hidden);
        }
        Ok(update)
    }

    /// From the gradient of the update back to what was taken, where something `further` asks for it.
    pub(super) fn backward(
        &mut self,
        at: &mut BackwardContext<'_>,
        chunk: &Range<usize>,
        dy: &Tensor,
        further: bool,
    ) -> Result<()> {
        let hidden = self.hidden.remove(&chunk.start).unwrap_or_default();
        let taken = self.taken(chunk)?;
        if let Some(part) = self.o.backward(at, (Role::O, chunk.start), &hidden, taken, dy, further)? {
            self.gradient.get_or_insert_with(|| Gathered::new(at.training.tokens())).put(chunk, part)?;
        }
        Ok(())
    }

    /// The gradient of what was taken, of all tokens, once all chunks are back; `None` where nobody asked for it. What
    /// was taken is dropped.
    pub(super) fn gradient(&mut self) -> Option<Tensor> {
        self.taken = None;
        self.gradient.take().and_then(Gathered::some)
    }
}
