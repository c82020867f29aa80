//! What happens without some layers: every candidate computed, not guessed from distances of streams.

use super::metrics::{Evaluate, LogitDistance, Metric, OfOutputs, Subject, TokenLogits};
use super::moments::{Moments, Scores};
use super::questions::{self, Questions};
use crate::model::{EndOfStack, Loss, Model, StackUnit, Stacks, Trie};
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
        let (whole, mut rest) = wrong.split_at(1);
        let scores = self.metrics.iter().map(|(metric, rows)| {
            let own;
            (own, rest) = rest.split_at(rows.iter().sum());
            rises(&whole[0], &own.iter().collect::<Vec<_>>(), rows.clone(), metric.name)
        });
        Ok(scores.collect())
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
        let mut next = 1;
        let watches = self.metrics.iter().map(|(metric, rows)| {
            let first = next;
            next += rows.iter().sum::<usize>();
            Watched::new(metric, first..next)
        });
        let mut watches: Vec<Watched> = watches.collect();
        let compares = watches.iter().any(|watch| !matches!(watch.how, How::Loss(_)));
        let mut whole: Vec<Loss> = Vec::new();
        let asks = watches.iter().any(|watch| matches!(watch.how, How::Loss(_)));
        let mut see = |end: &EndOfStack<'_>| {
            let is_loss = |watch: &&mut Watched| matches!(watch.how, How::Loss(_));
            let wanted =
                |stack: &usize| watches.iter().any(|w| matches!(w.how, How::Loss(_)) && w.stacks.contains(stack));
            if asks && end.stacks.iter().any(|stack| *stack == 0 || wanted(stack)) {
                let found = end.losses()?;
                // where memory asks for several rounds, it is in each of them
                if end.stacks.contains(&0) && whole.len() < sequences.len() {
                    whole.extend(&found);
                }
                for watch in watches.iter_mut().filter(is_loss) {
                    watch.take(end.stacks, &found);
                }
            }
            let distances: Vec<(usize, LogitDistance)> = watches
                .iter()
                .enumerate()
                .filter(|(_, watch)| end.stacks.iter().any(|stack| watch.stacks.contains(stack)))
                .filter_map(|(at, watch)| if let How::Logits(of, _) = &watch.how { Some((at, *of)) } else { None })
                .collect();
            if !distances.is_empty() {
                let of: Vec<LogitDistance> = distances.iter().map(|(_, distance)| *distance).collect();
                for ((at, _), found) in distances.iter().zip(logit_distances(model, end, &of)?) {
                    watches[*at].take(end.stacks, &found);
                }
            }
            watches.iter_mut().try_for_each(|watch| watch.compare(end))
        };
        let what = if compares { "measuring without layers" } else { "measuring losses" };
        let stacks = Stacks { unit: self.unit, stacks: &self.stacks, beside_the_first: compares };
        model.run_stacks(stacks, sequences, what, progress, &mut see)?;
        let scores = watches.into_iter().zip(self.metrics).map(|(watch, (metric, rows))| match watch.how {
            How::Loss(found) => Ok(rises(&whole, &found.iter().collect::<Vec<_>>(), rows, metric.name)),
            How::Logits(_, found) => {
                let nothing: Vec<Loss> = found[0].iter().map(|own| Loss { sum: 0.0, tokens: own.tokens }).collect();
                Ok(rises(&nothing, &found.iter().collect::<Vec<_>>(), rows, metric.name))
            }
            How::Outputs(compared) => {
                let mean = vec![compared.finish().context(|| metric.name)?];
                Ok(Scores { metric: metric.name.to_owned(), mean, stderr: None, difference_stderr: None })
            }
        });
        scores.collect()
    }
}

/// A metric and its candidates.
struct Watched {
    stacks: std::ops::Range<usize>,
    how: How,
}

/// Of each candidate its value of each sequence, or what compares them.
enum How {
    Loss(Vec<Vec<Loss>>),
    Logits(LogitDistance, Vec<Vec<Loss>>),
    Outputs(Box<dyn OfOutputs>),
}

impl Watched {
    fn new(metric: &Metric, stacks: std::ops::Range<usize>) -> Self {
        let found = vec![Vec::new(); stacks.len()];
        let how = match metric.value {
            Evaluate::Logits(distance) => How::Logits(distance, found),
            Evaluate::Outputs(compare) => How::Outputs(compare(stacks.len())),
            _ => How::Loss(found),
        };
        Self { stacks, how }
    }

    /// Takes the values of the sequences of a batch.
    fn take(&mut self, stacks: &[usize], values: &[Loss]) {
        let Self { stacks: own, how: How::Loss(found) | How::Logits(_, found) } = self else { return };
        for stack in stacks.iter().filter(|stack| own.contains(stack)) {
            found[stack - own.start].extend(values);
        }
    }

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
