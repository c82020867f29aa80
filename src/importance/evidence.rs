//! What can be measured of a model while layers are being picked.

use super::metrics::{Evaluate, Metric};
use super::moments::Scores;
use super::questions::{self, Questions};
use super::removals::{logit_distances, rises, without_all};
use super::shared::Shared;
use crate::model::{Batch, EndOfStack, Loss, Model, Stacks};
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
    /// share what they begin with, and each weight is read once for all of them. `on` numbers the sequences to
    /// measure on; without it all are, as all questions always are.
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
    shared: Option<Shared<'a>>,
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
        Ok(Self { model, sequences, questions: None, shared: None, progress })
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
        match sequences.is_empty() {
            true => Ok(Self { model, sequences, questions: Some(questions), shared: None, progress }),
            false => Ok(Self { questions: Some(questions), ..Self::new(model, sequences, progress)? }),
        }
    }

    /// The same, which several processes do together, that have the same sequences and questions.
    #[must_use]
    pub fn together(self, shared: Option<Shared<'a>>) -> Self {
        Self { shared, ..self }
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
        let lacks = |what: &str| Error::request(format!("{what}; {} cannot do without", metric.name));
        if metric.value.asks_questions() {
            let questions = self.questions.ok_or_else(|| lacks("which questions? --tasks names them"))?;
            let stacks: Vec<Vec<usize>> = dropped.iter().map(|dropped| without_all(units, dropped)).collect();
            return match (on, &self.shared) {
                (None, Some(shared)) => shared.wrong(unit, &stacks, self.progress),
                (None, None) => {
                    let stacks = Stacks { unit, stacks: &stacks, beside_the_first: false };
                    questions::wrong(self.model, stacks, questions, self.progress)
                }
                (Some(_), _) => Err(Error::work(format!("{} asks all questions or none", metric.name))),
            };
        }
        if self.sequences.is_empty() {
            return Err(lacks("which text? --data names it"));
        }
        if let Some(shared) = &self.shared {
            let on = on.map_or_else(|| (0..self.sequences.len()).collect(), <[usize]>::to_vec);
            return shared.costs(metric, dropped, on, self.progress);
        }
        let some: Option<Vec<Vec<u32>>> = on.map(|on| on.iter().map(|at| self.sequences[*at].clone()).collect());
        let batches = self.model.stack_batches(some.as_deref().unwrap_or(self.sequences))?;
        costs(self.model, metric, dropped, &batches, self.progress)
    }

    fn reached(&self, message: &str) {
        self.progress.reached(message);
    }
}

/// By `metric`, the value of each sequence of `batches` without each of these sets of layers or sub-layers:
/// `[set][sequence]`.
pub(super) fn costs(
    model: &Model,
    metric: &Metric,
    dropped: &[Vec<usize>],
    batches: &[Batch],
    progress: &dyn Progress,
) -> Result<Vec<Vec<Loss>>> {
    let unit = metric.subject.unit();
    let units = model.layers() * unit.per_layer();
    let candidates = dropped.iter().map(|dropped| without_all(units, dropped));
    let distance = match metric.value {
        Evaluate::Logits(distance) => distance,
        Evaluate::Loss => {
            let stacks: Vec<Vec<usize>> = candidates.collect();
            let stacks = Stacks { unit, stacks: &stacks, beside_the_first: false };
            return model.stack_losses_on(stacks, batches, "measuring losses", progress);
        }
        _ => return Err(Error::work(format!("{} cannot be measured of single candidates", metric.name))),
    };
    // a distance is from the whole model, which stands before the candidates
    let stacks: Vec<Vec<usize>> = std::iter::once((0..units).collect()).chain(candidates).collect();
    let mut found = vec![Vec::new(); dropped.len()];
    let mut see = |end: &EndOfStack<'_>| {
        let ending: Vec<usize> = end.stacks.iter().filter_map(|stack| stack.checked_sub(1)).collect();
        if ending.is_empty() {
            return Ok(());
        }
        let values = logit_distances(model, end, &[distance])?.pop().unwrap_or_default();
        ending.into_iter().for_each(|candidate| found[candidate].extend(&values));
        Ok(())
    };
    let stacks = Stacks { unit, stacks: &stacks, beside_the_first: true };
    model.run_stacks_on(stacks, batches, "measuring distances", progress, &mut see)?;
    Ok(found)
}
