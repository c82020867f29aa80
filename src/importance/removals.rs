//! What happens without some layers: every candidate computed, not guessed from distances of streams.

use super::metrics::{Evaluate, LogitDistance, Metric, OfOutputs, Subject, TokenLogits};
use super::moments::{Moments, Scores};
use super::questions::{self, Questions};
use super::shared::Shared;
use crate::model::{Batch, EndOfStack, Loss, Model, StackUnit, Stacks, Trie};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Numbers of logits that are looked at together, of each of the two models.
const LOGITS: usize = 1 << 22;

/// The layers that stay without the `n` from `l` on, of `layers`.
#[must_use]
pub fn without(layers: usize, l: usize, n: usize) -> Vec<usize> {
    (0..layers).filter(|layer| !(l..l + n).contains(layer)).collect()
}

/// The layers that stay without `dropped`, of `layers`.
pub(super) fn without_all(layers: usize, dropped: &[usize]) -> Vec<usize> {
    (0..layers).filter(|layer| !dropped.contains(layer)).collect()
}

/// The layers `stack` in these units.
fn in_units(stack: &[usize], unit: StackUnit) -> Vec<usize> {
    let parts = unit.per_layer();
    stack.iter().flat_map(|layer| layer * parts..(layer + 1) * parts).collect()
}

/// The [metrics](super::METRICS) that run every candidate, of a model of some layers.
#[derive(Debug)]
pub struct Removals {
    metrics: Vec<(&'static Metric, Vec<usize>)>,
    /// What stacks are made of: sub-layers where a metric leaves single ones out.
    unit: StackUnit,
    /// All of the model first, then the candidates of each metric.
    stacks: Vec<Vec<usize>>,
}

impl Removals {
    /// Those of `metrics` that run every candidate over text, for a model of `layers` layers.
    #[must_use]
    pub fn new(layers: usize, metrics: impl IntoIterator<Item = &'static Metric>) -> Self {
        let removing = metrics.into_iter().filter(|metric| metric.value.removes() && !metric.value.asks_questions());
        Self::of(layers, removing)
    }

    /// Those of `metrics` that ask questions of every candidate.
    #[must_use]
    pub fn of_questions(layers: usize, metrics: impl IntoIterator<Item = &'static Metric>) -> Self {
        let removing = metrics.into_iter().filter(|metric| metric.value.removes() && metric.value.asks_questions());
        Self::of(layers, removing)
    }

    fn of(layers: usize, metrics: impl Iterator<Item = &'static Metric>) -> Self {
        let metrics: Vec<_> = metrics.map(|metric| (metric, metric.subject.rows(layers))).collect();
        let is_fine = metrics.iter().any(|(metric, _)| metric.subject == Subject::SubLayer);
        let unit = if is_fine { StackUnit::SubLayer } else { StackUnit::Layer };
        let mut stacks = vec![in_units(&without(layers, 0, 0), unit)];
        for (metric, rows) in &metrics {
            match metric.subject {
                Subject::SubLayer => stacks.extend((0..rows[0]).map(|own| without(rows[0], own, 1))),
                _ => {
                    let blocks = rows.iter().enumerate().flat_map(|(row, &len)| (0..len).map(move |l| (l, row + 1)));
                    stacks.extend(blocks.map(|(l, n)| in_units(&without(layers, l, n), unit)));
                }
            }
        }
        Self { metrics, unit, stacks }
    }

    /// Whether no metric runs candidates.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// Layers computed for each token, rounded up; one pass of the model computes L of them.
    #[must_use]
    pub fn layer_passes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        Trie::new(&self.stacks).layer_passes().div_ceil(self.unit.per_layer())
    }

    /// Asks the `questions` of every candidate, and gives the shares that are lost, in the order of the metrics. Errors
    /// are those of the differences to the whole model, question by question.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn ask(self, model: &Model, questions: &dyn Questions, progress: &dyn Progress) -> Result<Vec<Scores>> {
        let stacks = Stacks { unit: self.unit, stacks: &self.stacks, beside_the_first: false };
        let wrong = questions::wrong(model, stacks, questions, progress)?;
        Ok(self.of_answers(&wrong))
    }

    /// The same, asked by several processes.
    pub(super) fn ask_shared(self, shared: &Shared<'_>, progress: &dyn Progress) -> Result<Vec<Scores>> {
        let wrong = shared.wrong(self.unit, &self.stacks, progress)?;
        Ok(self.of_answers(&wrong))
    }

    fn of_answers(&self, wrong: &[Vec<Loss>]) -> Vec<Scores> {
        let (whole, mut rest) = wrong.split_at(1);
        let scores = self.metrics.iter().map(|(metric, rows)| {
            let own;
            (own, rest) = rest.split_at(rows.iter().sum());
            rises(&whole[0], &own.iter().collect::<Vec<_>>(), rows.clone(), metric.name)
        });
        scores.collect()
    }

    /// Runs every candidate over `sequences`, and gives the means over tokens, in the order of the metrics. Errors are
    /// those of the differences to the whole model, sequence by sequence.
    ///
    /// # Errors
    /// As [`Model::run`]; no sequence of two tokens.
    pub fn measure(self, model: &Model, sequences: &[Vec<u32>], progress: &dyn Progress) -> Result<Vec<Scores>> {
        if sequences.iter().all(|sequence| sequence.len() < 2) {
            return Err(Error::work("no sample has two tokens: there is nothing to predict"));
        }
        let found = self.run(model, &model.stack_batches(sequences)?, progress)?;
        self.scores(found)
    }

    /// Of each stack the value of each sequence of `batches`, the whole model's first: none of it where no loss is
    /// asked for, and none where outputs are compared.
    pub(super) fn losses(&self, model: &Model, batches: &[Batch], progress: &dyn Progress) -> Result<Vec<Vec<Loss>>> {
        let mut losses = self.run(model, batches, progress)?.losses;
        if !self.metrics.iter().any(|(metric, _)| matches!(metric.value, Evaluate::Loss)) {
            // distances are from the whole model, which has none
            let nothing = |own: &Loss| Loss { sum: 0.0, tokens: own.tokens };
            losses[0] = losses.get(1).map_or_else(Vec::new, |own| own.iter().map(nothing).collect());
        }
        Ok(losses)
    }

    /// The same scores, from the [`losses`](Self::losses) of all sequences.
    pub(super) fn of_losses(self, losses: Vec<Vec<Loss>>) -> Result<Vec<Scores>> {
        if losses.iter().flatten().all(|loss| loss.tokens == 0) {
            return Err(Error::work("no sample has two tokens: there is nothing to predict"));
        }
        let watches = self.watches();
        self.scores(Found { losses, watches })
    }

    fn watches(&self) -> Vec<Watched> {
        let mut next = 1;
        let watches = self.metrics.iter().map(|(metric, rows)| {
            let first = next;
            next += rows.iter().sum::<usize>();
            Watched { stacks: first..next, how: How::of(metric, next - first) }
        });
        watches.collect()
    }

    fn run(&self, model: &Model, batches: &[Batch], progress: &dyn Progress) -> Result<Found> {
        let mut watches = self.watches();
        let compares = watches.iter().any(|watch| !matches!(watch.how, How::Loss));
        let (mut losses, sequences) = (vec![Vec::new(); self.stacks.len()], Batch::count(batches));
        let asks = watches.iter().any(|watch| matches!(watch.how, How::Loss));
        let mut see = |end: &EndOfStack<'_>| {
            let wanted = |stack: &usize| watches.iter().any(|w| matches!(w.how, How::Loss) && w.stacks.contains(stack));
            if asks && end.stacks.iter().any(|stack| *stack == 0 || wanted(stack)) {
                let found = end.losses()?;
                for &stack in end.stacks {
                    // where memory asks for several rounds, the whole model is in each of them
                    if wanted(&stack) || stack == 0 && losses[0].len() < sequences {
                        losses[stack].extend(&found);
                    }
                }
            }
            let distances: Vec<(&Watched, LogitDistance)> = watches
                .iter()
                .filter(|watch| end.stacks.iter().any(|stack| watch.stacks.contains(stack)))
                .filter_map(|watch| if let How::Logits(of) = watch.how { Some((watch, of)) } else { None })
                .collect();
            if !distances.is_empty() {
                let of: Vec<LogitDistance> = distances.iter().map(|(_, distance)| *distance).collect();
                for ((watch, _), found) in distances.iter().zip(logit_distances(model, end, &of)?) {
                    let own = end.stacks.iter().filter(|stack| watch.stacks.contains(stack));
                    own.for_each(|stack| losses[*stack].extend(&found));
                }
            }
            watches.iter_mut().try_for_each(|watch| watch.compare(end))
        };
        let what = if compares { "measuring without layers" } else { "measuring losses" };
        let stacks = Stacks { unit: self.unit, stacks: &self.stacks, beside_the_first: compares };
        model.run_stacks_on(stacks, batches, what, progress, &mut see)?;
        Ok(Found { losses, watches })
    }

    fn scores(self, found: Found) -> Result<Vec<Scores>> {
        let Found { losses, watches } = found;
        let scores = watches.into_iter().zip(self.metrics).map(|(watch, (metric, rows))| {
            let own: Vec<&Vec<Loss>> = losses[watch.stacks].iter().collect();
            match watch.how {
                How::Loss => Ok(rises(&losses[0], &own, rows, metric.name)),
                How::Logits(_) => {
                    let nothing = own[0].iter().map(|own| Loss { sum: 0.0, tokens: own.tokens });
                    Ok(rises(&nothing.collect::<Vec<_>>(), &own, rows, metric.name))
                }
                How::Outputs(compared) => {
                    let mean = vec![compared.finish().context(|| metric.name)?];
                    Ok(Scores { metric: metric.name.to_owned(), mean, stderr: None, difference_stderr: None })
                }
            }
        });
        scores.collect()
    }
}

/// What came of running all stacks.
struct Found {
    /// `[stack][sequence]`, the whole model's first.
    losses: Vec<Vec<Loss>>,
    watches: Vec<Watched>,
}

/// A metric and its candidates.
struct Watched {
    stacks: std::ops::Range<usize>,
    how: How,
}

/// How a candidate is looked at: by a value of each sequence, or by what compares outputs.
enum How {
    Loss,
    Logits(LogitDistance),
    Outputs(Box<dyn OfOutputs>),
}

impl How {
    fn of(metric: &Metric, candidates: usize) -> Self {
        match metric.value {
            Evaluate::Logits(distance) => Self::Logits(distance),
            Evaluate::Outputs(compare) => Self::Outputs(compare(candidates)),
            _ => Self::Loss,
        }
    }
}

impl Watched {
    fn compare(&mut self, end: &EndOfStack<'_>) -> Result<()> {
        let Self { stacks: own, how: How::Outputs(compared) } = self else { return Ok(()) };
        let mut mine = end.stacks.iter().filter(|stack| own.contains(stack));
        mine.try_for_each(|stack| compared.see(stack - own.start, end))
    }
}

/// The value of each sequence of a batch by each of `distances`: a sum, and what it weighs.
pub(super) fn logit_distances(
    model: &Model,
    end: &EndOfStack<'_>,
    distances: &[LogitDistance],
) -> Result<Vec<Vec<Loss>>> {
    use rayon::prelude::*;

    let Some(whole) = end.whole else { return Err(Error::work("a distance needs the whole model's stream")) };
    let v = model.spec().vocab_size;
    let rows = end.batch().tokens();
    // `[t, distances]`
    let mut tokens: Vec<Vec<f64>> = Vec::with_capacity(rows);
    let at_once = (LOGITS / v).max(1);
    for start in (0..rows).step_by(at_once) {
        let len = at_once.min(rows - start);
        let logits = |x: &candle_core::Tensor| -> Result<Vec<f32>> {
            Ok(model.logits(&x.narrow(0, start, len)?.contiguous()?)?.flatten_all()?.to_vec1()?)
        };
        let (whole, cut) = (logits(whole)?, logits(end.x)?);
        let pairs = whole.par_chunks(v).zip(cut.par_chunks(v));
        tokens.par_extend(pairs.map(|(whole, cut)| {
            let both = TokenLogits::new(whole, cut);
            distances.iter().map(|distance| (distance.of_token)(&both)).collect()
        }));
    }
    let of = |(at, distance): (usize, &LogitDistance)| {
        let segments = end.batch().layout.segments().iter();
        let sequences = segments.map(|segment| {
            let len = segment.len - usize::from(!distance.last);
            let own = &tokens[segment.start..segment.start + len];
            let (sum, tokens) = (distance.of_sequence)(own.iter().map(|values| values[at]).sum(), len);
            Loss { sum, tokens }
        });
        sequences.collect()
    };
    Ok(distances.iter().enumerate().map(of).collect())
}

/// What the loss rises by from `whole` under each of `candidates`, in rows of these lengths: means over predicted
/// tokens, errors over the sequences' differences.
#[must_use]
pub(crate) fn rises(whole: &[Loss], candidates: &[&Vec<Loss>], rows: Vec<usize>, name: &str) -> Scores {
    let mut moments = Moments::new(rows);
    for (index, dense) in whole.iter().enumerate().filter(|(_, loss)| loss.tokens > 0) {
        let rises: Vec<f64> = candidates.iter().map(|losses| losses[index].mean() - dense.mean()).collect();
        moments.push(dense.tokens as f64, &rises);
    }
    moments.finish(name)
}
