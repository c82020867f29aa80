//! Measurements that several processes share: process 0 measures, and where it runs a model over text or questions all
//! take part. Each computes the numbers of some sequences, or of some candidates, and put together in their order they
//! are those that one process computes. What has no numbers for each sequence (gradients, inputs of matrices, channels,
//! outputs, heads at every depth, other models) process 0 computes by itself.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::evidence::costs;
use super::metrics::{Metric, metric};
use super::observer::Watch;
use super::probe::Probe;
use super::questions::{self, Questions};
use super::removals::Removals;
use crate::collective::{Collective, ProcessGroup, share};
use crate::model::{Batch, Loss, Model, StackUnit, Stacks};
use crate::progress::{Progress, Silent};
use crate::{Error, Result};

/// Numbers that all processes compute in one run, about: 64 MiB.
const NUMBERS: usize = 1 << 23;

/// A model, text and questions that several processes have alike.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    /// The processes.
    pub group: &'a ProcessGroup,
    /// The model.
    pub model: &'a Model,
    /// The sequences of all texts.
    pub sequences: &'a [Vec<u32>],
    /// The questions.
    pub questions: Option<&'a dyn Questions>,
}

/// What all of them are to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Run {
    /// The streams of sequences, which begin as the `first` of their text.
    Pairs { metrics: Vec<String>, on: Range<usize>, first: usize },
    /// Every candidate of the metrics over sequences.
    Removals { metrics: Vec<String>, on: Range<usize> },
    /// Some candidates over sequences.
    Costs { metric: String, dropped: Vec<Vec<usize>>, on: Vec<usize> },
    /// Stacks that are asked all questions.
    Questions { of_sublayers: bool, stacks: Vec<Vec<usize>> },
}

impl Run {
    /// Sequences, or stacks: what is shared out.
    fn count(&self) -> usize {
        match self {
            Self::Pairs { on, .. } | Self::Removals { on, .. } => on.len(),
            Self::Costs { on, .. } => on.len(),
            Self::Questions { stacks, .. } => stacks.len(),
        }
    }
}

impl Shared<'_> {
    /// Does what process 0 asks for until it has all it wants; for the other processes.
    ///
    /// # Errors
    /// As [`Model::run`]. What another process met. Interrupted.
    pub fn follow(&self) -> Result<()> {
        while let Some(run) = self.group.agree::<Option<Run>>(&None)? {
            let own = share(run.count(), self.group.rank(), self.group.size());
            let rows = self.rows(&run, own, &Silent)?;
            self.group.report(rows.iter().flatten().flat_map(|number| number.to_le_bytes()).collect())?;
        }
        Ok(())
    }

    /// Lets the other processes go; for process 0.
    ///
    /// # Errors
    /// As [`ProcessGroup::agree`].
    pub fn end(&self) -> Result<()> {
        self.group.agree::<Option<Run>>(&None).map(drop)
    }

    /// Shows `probe` the streams of the sequences `on`, which are all of a text.
    pub(super) fn pairs(
        &self,
        probe: &mut Probe,
        metrics: &[&'static Metric],
        on: Range<usize>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let at_once = (NUMBERS / probe.numbers()).max(self.group.size());
        for start in on.clone().step_by(at_once) {
            let part = start..on.end.min(start + at_once);
            let run = Run::Pairs { metrics: names(metrics), on: part, first: start - on.start };
            self.run(run, progress)?.iter().try_for_each(|row| probe.take_in(row))?;
        }
        Ok(())
    }

    /// [`Removals::losses`] of the sequences `on`.
    pub(super) fn removals(
        &self,
        metrics: &[&'static Metric],
        on: Range<usize>,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Loss>>> {
        self.run(Run::Removals { metrics: names(metrics), on }, progress).map(|rows| to_losses(&rows))
    }

    /// [`costs`] of the sequences numbered by `on`.
    pub(super) fn costs(
        &self,
        metric: &Metric,
        dropped: &[Vec<usize>],
        on: Vec<usize>,
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Loss>>> {
        let run = Run::Costs { metric: metric.name.to_owned(), dropped: dropped.to_vec(), on };
        self.run(run, progress).map(|rows| to_losses(&rows))
    }

    /// [`questions::wrong`] of these stacks.
    pub(super) fn wrong(
        &self,
        unit: StackUnit,
        stacks: &[Vec<usize>],
        progress: &dyn Progress,
    ) -> Result<Vec<Vec<Loss>>> {
        let run = Run::Questions { of_sublayers: unit == StackUnit::SubLayer, stacks: stacks.to_vec() };
        let rows = self.run(run, progress)?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(|sum| Loss { sum, tokens: 1 }).collect()).collect())
    }

    /// Runs it on all processes, and puts their rows together.
    fn run(&self, run: Run, progress: &dyn Progress) -> Result<Vec<Vec<f64>>> {
        let (count, size) = (run.count(), self.group.size());
        let Some(run) = self.group.agree(&Some(run))? else { return Err(Error::work("nothing to run")) };
        let mut rows = self.rows(&run, share(count, 0, size), progress)?;
        for (at, report) in self.group.reports()?.iter().enumerate() {
            let (rank, own) = (at + 1, share(count, at + 1, size).len());
            let width = report.len() / 8 / own.max(1);
            if report.len() != 8 * own * width || rows.first().is_some_and(|row| own > 0 && row.len() != width) {
                return Err(Error::work(format!("process {rank} of {size} (from 0) measured something else")));
            }
            let numbers = report.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
            let numbers: Vec<f64> = numbers.collect();
            rows.extend(numbers.chunks(width.max(1)).map(<[f64]>::to_vec));
        }
        Ok(rows)
    }

    /// The numbers of a share: a row for each sequence, or for each stack.
    fn rows(&self, run: &Run, own: Range<usize>, progress: &dyn Progress) -> Result<Vec<Vec<f64>>> {
        if own.is_empty() {
            return Ok(Vec::new());
        }
        let (model, layers) = (self.model, self.model.layers());
        let text = |on: &Range<usize>| {
            let own = on.start + own.start..on.start + own.end;
            self.sequences.get(own).ok_or_else(|| Error::work("sequences that are not there"))
        };
        match run {
            Run::Pairs { metrics, on, first } => {
                let mut probe = Probe::new(layers, rows_of(metrics)?).keeping(first + own.start);
                let batches = Batch::pack(text(on)?, model.pass_tokens(layers + 1))?;
                model.run(&batches, &mut Watch::new(&mut probe, &batches), "measuring", progress)?;
                Ok(probe.kept())
            }
            Run::Removals { metrics, on } => {
                let removals = Removals::new(layers, rows_of(metrics)?);
                removals.losses(model, text(on)?, progress).map(|losses| to_rows(&losses, own.len()))
            }
            Run::Costs { metric: name, dropped, on } => {
                let sequences = on[own.clone()].iter().map(|at| self.sequences.get(*at).cloned());
                let sequences: Option<Vec<Vec<u32>>> = sequences.collect();
                let sequences = sequences.ok_or_else(|| Error::work("sequences that are not there"))?;
                costs(model, metric(name)?, dropped, &sequences, progress).map(|losses| to_rows(&losses, own.len()))
            }
            Run::Questions { of_sublayers, stacks } => {
                let asked = self.questions.ok_or_else(|| Error::work("questions that are not there"))?;
                let unit = if *of_sublayers { StackUnit::SubLayer } else { StackUnit::Layer };
                let stacks = Stacks { unit, stacks: &stacks[own], beside_the_first: false };
                let wrong = questions::wrong(model, stacks, asked, progress)?;
                Ok(wrong.into_iter().map(|row| row.into_iter().map(|loss| loss.sum).collect()).collect())
            }
        }
    }
}

fn names(metrics: &[&'static Metric]) -> Vec<String> {
    metrics.iter().map(|metric| metric.name.to_owned()).collect()
}

fn rows_of(names: &[String]) -> Result<Vec<&'static Metric>> {
    names.iter().map(|name| metric(name)).collect()
}

/// `[candidate][sequence]` as a row for each of so many sequences: sum and weight of each candidate.
fn to_rows(losses: &[Vec<Loss>], sequences: usize) -> Vec<Vec<f64>> {
    let row = |at: usize| losses.iter().flat_map(move |own| [own[at].sum, own[at].tokens as f64]).collect();
    (0..sequences).map(row).collect()
}

/// And back.
fn to_losses(rows: &[Vec<f64>]) -> Vec<Vec<Loss>> {
    let candidates = rows.first().map_or(0, |row| row.len() / 2);
    let loss = |row: &Vec<f64>, at: usize| Loss { sum: row[2 * at], tokens: row[2 * at + 1] as usize };
    (0..candidates).map(|at| rows.iter().map(|row| loss(row, at)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_go_by_as_rows_of_sequences() {
        let loss = |sum: f64, tokens| Loss { sum, tokens };
        let losses = vec![vec![loss(0.1, 3), loss(-2.5, 4), loss(f64::INFINITY, 0)], vec![loss(1e-300, 7); 3]];
        let rows = to_rows(&losses, 3);
        assert_eq!((rows.len(), rows[0].len()), (3, 4));
        assert_eq!(to_losses(&rows), losses);
        assert!(to_rows(&[], 2).iter().all(Vec::is_empty) && to_losses(&[]).is_empty());
    }
}
