//! Measurements that several processes share: process 0 measures, and where it runs a model over text or questions all
//! take part. Each computes the numbers of some sequences, or of some candidates, and put together in their order they
//! are those that one process computes. Batches are never taken apart: which sequences go through a layer together
//! changes last bits. What has no numbers for each sequence (gradients, inputs of matrices, channels, outputs, heads at
//! every depth, other models) process 0 computes by itself.

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
    /// Tokens of a batch whose streams are all looked at.
    pub pass_tokens: usize,
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

/// What is shared out.
enum Work {
    /// Batches of sequences, each of which has a row of numbers.
    Batches(Vec<Batch>),
    /// So many stacks, likewise.
    Stacks(usize),
}

impl Work {
    /// The part of process `rank` of `size`.
    fn of(&self, rank: usize, size: usize) -> Range<usize> {
        match self {
            Self::Batches(batches) => share(batches.len(), rank, size),
            Self::Stacks(count) => share(*count, rank, size),
        }
    }

    /// Rows of such a part.
    fn rows(&self, part: Range<usize>) -> usize {
        match self {
            Self::Batches(batches) => Batch::count(&batches[part]),
            Self::Stacks(_) => part.len(),
        }
    }
}

impl<'a> Shared<'a> {
    /// What the processes of `group` have alike.
    ///
    /// # Errors
    /// As [`ProcessGroup::agree`].
    pub fn new(
        group: &'a ProcessGroup,
        model: &'a Model,
        sequences: &'a [Vec<u32>],
        questions: Option<&'a dyn Questions>,
    ) -> Result<Self> {
        // what fits everywhere: with as much memory as one alone, what that has
        let own = model.pass_tokens(model.layers() + 1);
        let least = group.collect(own)?.into_iter().fold(own, usize::min);
        Ok(Self { group, model, sequences, questions, pass_tokens: group.agree(&least)? })
    }

    /// Does what process 0 asks for until it has all it wants; for the other processes.
    ///
    /// # Errors
    /// As [`Model::run`]. What another process met. Interrupted.
    pub fn follow(&self) -> Result<()> {
        while let Some(run) = self.group.agree::<Option<Run>>(&None)? {
            let work = self.work(&run)?;
            let rows = self.rows(&run, &work, work.of(self.group.rank(), self.group.size()), &Silent)?;
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
        // whole batches at a time, so that the next begin where they would
        let text = self.sequences.get(on.clone()).ok_or_else(|| Error::work("sequences that are not there"))?;
        let at_once = (NUMBERS / probe.numbers()).max(1);
        let (mut parts, mut start, mut size) = (Vec::new(), on.start, 0);
        for batch in &Batch::pack(text, self.pass_tokens)? {
            if size >= at_once {
                parts.push(start..start + size);
                (start, size) = (start + size, 0);
            }
            size += batch.layout.segments().len();
        }
        parts.push(start..on.end);
        for part in parts {
            let first = part.start - on.start;
            let run = Run::Pairs { metrics: names(metrics), on: part, first };
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
        let size = self.group.size();
        let Some(run) = self.group.agree(&Some(run))? else { return Err(Error::work("nothing to run")) };
        let work = self.work(&run)?;
        let mut rows = self.rows(&run, &work, work.of(0, size), progress)?;
        for (at, report) in self.group.reports()?.iter().enumerate() {
            let rank = at + 1;
            let own = work.rows(work.of(rank, size));
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

    /// What of a run is shared out.
    fn work(&self, run: &Run) -> Result<Work> {
        let missing = || Error::work("sequences that are not there");
        let text = |on: &Range<usize>| self.sequences.get(on.clone()).ok_or_else(missing);
        Ok(match run {
            Run::Pairs { on, .. } => Work::Batches(Batch::pack(text(on)?, self.pass_tokens)?),
            Run::Removals { on, .. } => Work::Batches(self.model.stack_batches(text(on)?)?),
            Run::Costs { on, .. } => {
                let some: Option<Vec<Vec<u32>>> = on.iter().map(|at| self.sequences.get(*at).cloned()).collect();
                Work::Batches(self.model.stack_batches(&some.ok_or_else(missing)?)?)
            }
            Run::Questions { stacks, .. } => Work::Stacks(stacks.len()),
        })
    }

    /// The numbers of a part of the work: a row for each sequence, or for each stack.
    fn rows(&self, run: &Run, work: &Work, part: Range<usize>, progress: &dyn Progress) -> Result<Vec<Vec<f64>>> {
        if part.is_empty() {
            return Ok(Vec::new());
        }
        let (model, count) = (self.model, work.rows(part.clone()));
        let own = match work {
            Work::Batches(batches) => Batch::part(batches, part.clone()),
            Work::Stacks(_) => Vec::new(),
        };
        match run {
            Run::Pairs { metrics, first, .. } => {
                let before = first + own.first().map_or(0, |batch| batch.before);
                let mut probe = Probe::new(model.layers(), rows_of(metrics)?).keeping(before);
                model.run(&own, &mut Watch::new(&mut probe, &own), "measuring", progress)?;
                Ok(probe.kept())
            }
            Run::Removals { metrics, .. } => {
                let removals = Removals::new(model.layers(), rows_of(metrics)?);
                removals.losses(model, &own, progress).map(|losses| to_rows(&losses, count))
            }
            Run::Costs { metric: name, dropped, .. } => {
                costs(model, metric(name)?, dropped, &own, progress).map(|losses| to_rows(&losses, count))
            }
            Run::Questions { of_sublayers, stacks } => {
                let asked = self.questions.ok_or_else(|| Error::work("questions that are not there"))?;
                let unit = if *of_sublayers { StackUnit::SubLayer } else { StackUnit::Layer };
                let stacks = Stacks { unit, stacks: &stacks[part], beside_the_first: false };
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
