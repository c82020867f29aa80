//! What can be measured of a model while layers are being picked.

use super::metrics::{Evaluate, Metric};
use super::removals::{logit_distances, without_all};
use crate::model::{EndOfStack, Loss, Model, StackUnit, Stacks};
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

    /// The same by `metric`: its value of each sequence, and how much that weighs.
    ///
    /// # Errors
    /// As [`Model::run`]; a metric that does not run candidates by themselves.
    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>]) -> Result<Vec<Vec<Loss>>> {
        match metric.value {
            Evaluate::Loss => self.losses(dropped),
            _ => Err(Error::work(format!("{} cannot be measured of single candidates", metric.name))),
        }
    }

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

    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>]) -> Result<Vec<Vec<Loss>>> {
        let Evaluate::Logits(distance) = metric.value else { return self.losses(dropped) };
        let whole = (0..self.layers()).collect();
        let candidates = dropped.iter().map(|dropped| without_all(self.layers(), dropped));
        let stacks: Vec<Vec<usize>> = std::iter::once(whole).chain(candidates).collect();
        let mut found = vec![Vec::new(); stacks.len()];
        let stacks = Stacks { unit: StackUnit::Layer, stacks: &stacks, beside_the_first: true };
        let model = self.model;
        let mut see = |end: &EndOfStack<'_>| {
            if end.stacks.iter().any(|stack| *stack > 0) {
                let values = logit_distances(model, end, &[distance])?.pop().unwrap_or_default();
                end.stacks.iter().for_each(|stack| found[*stack].extend(&values));
            }
            Ok(())
        };
        model.run_stacks(stacks, self.sequences, "measuring distances", self.progress, &mut see)?;
        Ok(found.split_off(1))
    }

    fn reached(&self, message: &str) {
        self.progress.reached(message);
    }
}
