//! What can be measured of a model while layers are being picked.

use super::losses::without_all;
use crate::model::{Loss, Model};
use crate::progress::Progress;
use crate::{Error, Result};

/// Measurements on demand, for picks that look again after each step.
pub trait Evidence {
    /// Layers of the model, L.
    fn layers(&self) -> usize;

    /// The loss of each sequence without each of these sets of layers: `[set][sequence]`. Sets that begin alike share
    /// what they begin with, and each weight is read once for all of them.
    ///
    /// # Errors
    /// As [`Model::run`].
    fn losses(&mut self, dropped: &[Vec<usize>]) -> Result<Vec<Vec<Loss>>>;

    /// Tells how far a search is.
    fn reached(&self, message: &str);
}

/// A model and the text it is measured on.
pub struct Measured<'a> {
    model: &'a Model,
    sequences: &'a [Vec<u32>],
    progress: &'a dyn Progress,
}

impl<'a> Measured<'a> {
    /// Measurements of `model` on `sequences`.
    ///
    /// # Errors
    /// Work: no sequence has two tokens.
    pub fn new(model: &'a Model, sequences: &'a [Vec<u32>], progress: &'a dyn Progress) -> Result<Self> {
        if sequences.iter().all(|sequence| sequence.len() < 2) {
            return Err(Error::work("no sample has two tokens: there is nothing to predict"));
        }
        Ok(Self { model, sequences, progress })
    }
}

impl Evidence for Measured<'_> {
    fn layers(&self) -> usize {
        self.model.layers()
    }

    fn losses(&mut self, dropped: &[Vec<usize>]) -> Result<Vec<Vec<Loss>>> {
        let stacks: Vec<Vec<usize>> = dropped.iter().map(|dropped| without_all(self.layers(), dropped)).collect();
        self.model.losses_of_stacks(&stacks, self.sequences, "measuring losses", self.progress)
    }

    fn reached(&self, message: &str) {
        self.progress.reached(message);
    }
}
