//! What can be measured of a model while layers are being picked.

use super::metrics::{Evaluate, Metric};
use super::moments::Scores;
use super::questions::{self, Questions};
use super::removals::{logit_distances, rises, without_all};
use crate::model::{EndOfStack, Loss, Model, Stacks};
use crate::progress::Progress;
use crate::{Error, Result};

/// Measurements on demand, for picks that look again after each step.
pub trait Evidence {
    /// Layers of the model, L.
    fn layers(&self) -> usize;

    /// Sequences of the text.
    fn sequences(&self) -> usize;

    /// By `metric`, the value of each sequence, or each question, without each of these sets of layers, or of
    /// sub-layers where the metric is about those, and how much it weighs: `[set][sequence]`. Sets that begin alike
    /// share what they begin with, and each weight is read once for all of them. `on` numbers the sequences or
    /// questions to measure on; without it all are.
    ///
    /// # Errors
    /// As [`Model::run`]; a metric that does not run candidates by themselves.
    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>>;

    /// What each of `candidates` costs more than `whole`, both [`Evidence::costs`] on all sequences by the metric
    /// `name`: one row of means with their errors.
    fn rises(&self, whole: &[Loss], candidates: &[Vec<Loss>], name: &str) -> Scores {
        rises(whole, &candidates.iter().collect::<Vec<_>>(), vec![candidates.len()], name)
    }

    /// Tells how far a search is.
    fn reached(&self, message: &str);
}

/// A model and the text it is measured on.
pub struct Measured<'a> {
    model: &'a Model,
    sequences: &'a [Vec<u32>],
    questions: Option<&'a dyn Questions>,
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
        Ok(Self { model, sequences, questions: None, progress })
    }

    /// Measurements of `model` on questions, and on `sequences`, of which there may be none then.
    ///
    /// # Errors
    /// As [`Measured::new`], where there are sequences.
    pub fn asking(
        model: &'a Model,
        sequences: &'a [Vec<u32>],
        questions: &'a dyn Questions,
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        let asking = Self { model, sequences, questions: Some(questions), progress };
        if sequences.is_empty() {
            Ok(asking)
        } else {
            Ok(Self { questions: Some(questions), ..Self::new(model, sequences, progress)? })
        }
    }

    /// The value of each question without each of these sets.
    fn wrong(&self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
        let questions =
            self.questions.ok_or_else(|| Error::request(format!("{} asks questions: --tasks", metric.name)))?;
        let unit = metric.subject.unit();
        let units = self.model.layers() * unit.per_layer();
        let stacks: Vec<Vec<usize>> = dropped.iter().map(|dropped| without_all(units, dropped)).collect();
        let stacks = Stacks { unit, stacks: &stacks, beside_the_first: false };
        let wrong = questions::wrong(self.model, stacks, questions, self.progress)?;
        Ok(match on {
            None => wrong,
            Some(on) => wrong.iter().map(|all| on.iter().map(|at| all[*at]).collect()).collect(),
        })
    }
}

impl Evidence for Measured<'_> {
    fn layers(&self) -> usize {
        self.model.layers()
    }

    fn sequences(&self) -> usize {
        self.sequences.len()
    }

    fn costs(&mut self, metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
        let unit = metric.subject.unit();
        let units = self.layers() * unit.per_layer();
        let distance = match metric.value {
            Evaluate::Loss => None,
            Evaluate::Logits(distance) => Some(distance),
            Evaluate::Accuracy => return self.wrong(metric, dropped, on),
            _ => return Err(Error::work(format!("{} cannot be measured of single candidates", metric.name))),
        };
        // a distance is from the whole model, which then stands before the candidates
        let first = usize::from(distance.is_some());
        let candidates = dropped.iter().map(|dropped| without_all(units, dropped));
        let stacks: Vec<Vec<usize>> = (0..first).map(|_| (0..units).collect()).chain(candidates).collect();
        if self.sequences.is_empty() {
            return Err(Error::request(format!("which text? --data names it; {} cannot do without", metric.name)));
        }
        let mut found = vec![Vec::new(); dropped.len()];
        let model = self.model;
        let mut see = |end: &EndOfStack<'_>| {
            let ending: Vec<usize> = end.stacks.iter().filter_map(|stack| stack.checked_sub(first)).collect();
            if ending.is_empty() {
                return Ok(());
            }
            let values = match distance {
                None => end.losses()?,
                Some(distance) => logit_distances(model, end, &[distance])?.pop().unwrap_or_default(),
            };
            ending.into_iter().for_each(|candidate| found[candidate].extend(&values));
            Ok(())
        };
        let what = if first == 0 { "measuring losses" } else { "measuring distances" };
        let stacks = Stacks { unit, stacks: &stacks, beside_the_first: first == 1 };
        let some: Option<Vec<Vec<u32>>> = on.map(|on| on.iter().map(|at| self.sequences[*at].clone()).collect());
        model.run_stacks(stacks, some.as_deref().unwrap_or(self.sequences), what, self.progress, &mut see)?;
        Ok(found)
    }

    fn reached(&self, message: &str) {
        self.progress.reached(message);
    }
}
