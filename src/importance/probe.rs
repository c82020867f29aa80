//! What a pass is asked: every score of every block, from the residual streams of its tokens.

use std::ops::Range;

use rayon::prelude::*;

use super::gram::Gram;
use super::metrics::{Evaluate, Metric, Pair, Tokens};
use super::moments::{Moments, Scores};
use super::streams::Streams;
use crate::ops::Layout;
use crate::{Error, Result};

/// Tokens one task works on. The sums of a sample are taken in pieces of this size whatever the batch and whatever the
/// number of threads, so that neither changes a bit of the result.
const PIECE: usize = 32;

/// Gathers the scores of some [`METRICS`](super::METRICS) over a pass.
///
/// Samples are told apart by the layout of a batch, one segment each. The result depends on the samples and their
/// order, not on how they were batched.
pub struct Probe {
    layers: usize,
    metrics: Vec<Row>,
    samples: usize,
    /// The sums of each sample, where somebody else is to add them up.
    kept: Option<Vec<Vec<f64>>>,
}

/// The value of a token.
type OfPair = fn(&Pair) -> f64;

/// A metric, its value of a token, and the sums of it.
type Row = (&'static Metric, OfPair, Moments);

/// A run of tokens of one sample.
struct Piece {
    sample: usize,
    tokens: Range<usize>,
    /// The sample ends with it.
    last: bool,
}

/// A number that is none, in the stream that enters layer `layer`.
struct NotFinite {
    layer: usize,
    sample: usize,
}

impl Probe {
    /// A probe of those of `metrics` that are a function of [`Pair`]s, for a model of `layers` layers, L ≥ 1.
    #[must_use]
    pub fn new(layers: usize, metrics: impl IntoIterator<Item = &'static Metric>) -> Self {
        Self::of(layers, metrics, |value| if let Evaluate::Pair(value) = value { Some(value) } else { None })
    }

    /// A probe of those that are a function of the channels' pairs: it sees a channel where others see a token.
    #[must_use]
    pub(super) fn of_channels(layers: usize, metrics: impl IntoIterator<Item = &'static Metric>) -> Self {
        Self::of(layers, metrics, |value| if let Evaluate::Channels(value) = value { Some(value) } else { None })
    }

    fn of(
        layers: usize,
        metrics: impl IntoIterator<Item = &'static Metric>,
        value: fn(Evaluate) -> Option<OfPair>,
    ) -> Self {
        let row =
            |metric: &'static Metric| Some((metric, value(metric.value)?, Moments::new(metric.subject.rows(layers))));
        Self { layers, metrics: metrics.into_iter().filter_map(row).collect(), samples: 0, kept: None }
    }

    /// One that adds nothing up, but keeps a row for each sample, of which `first` come before: its tokens, and the
    /// sums over them of every value.
    #[must_use]
    pub(super) fn keeping(self, first: usize) -> Self {
        Self { samples: first, kept: Some(Vec::new()), ..self }
    }

    /// Those rows.
    pub(super) fn kept(self) -> Vec<Vec<f64>> {
        self.kept.unwrap_or_default()
    }

    /// Numbers in a row.
    pub(super) fn numbers(&self) -> usize {
        1 + self.metrics.iter().map(|(.., moments)| moments.values()).sum::<usize>()
    }

    /// Takes the row of the next sample.
    ///
    /// # Errors
    /// Work: of other metrics.
    pub(super) fn take_in(&mut self, row: &[f64]) -> Result<()> {
        let (Some((tokens, sums)), true) = (row.split_first(), row.len() == self.numbers()) else {
            return Err(Error::work("sums of other metrics"));
        };
        self.add(*tokens, sums.to_vec());
        self.samples += 1;
        Ok(())
    }

    /// Whether no metric is among them.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.metrics.is_empty()
    }

    /// Layers of the model, L.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Samples seen.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Whether the metrics ask for all tokens. If not, only the last row of each sample is looked at, and a batch may
    /// as well hold those rows alone, as sequences of one token.
    #[must_use]
    pub(crate) fn wants_all_tokens(&self) -> bool {
        self.metrics.iter().any(|(metric, ..)| metric.tokens == Tokens::All)
    }

    /// Takes one batch of whole samples. The segments of `layout` are the samples.
    ///
    /// # Errors
    /// A number in the states that is not finite (the message names the layer it comes out of and the sample), segments
    /// that continue others, or states of the wrong number or size.
    pub fn observe_batch(&mut self, streams: &Streams<'_>, layout: &Layout) -> Result<()> {
        streams.check(self.layers, layout.tokens())?;
        let segments = layout.segments();
        if segments.iter().any(|segment| segment.parent.is_some()) {
            return Err(Error::work("scores need samples that stand alone, not continuations of a shared prefix"));
        }

        let all = self.wants_all_tokens();
        let pieces: Vec<Piece> = segments
            .iter()
            .enumerate()
            .flat_map(|(sample, segment)| {
                let end = segment.start + segment.len;
                let start = if all { segment.start } else { end - 1 };
                let starts = (start..end).step_by(PIECE);
                starts.map(move |at| Piece { sample, tokens: at..end.min(at + PIECE), last: at + PIECE >= end })
            })
            .collect();
        let found: Vec<Result<Vec<f64>, NotFinite>> = pieces
            .par_iter()
            .map_init(|| Gram::new(self.layers + 1), |gram, piece| self.sums(gram, streams, piece))
            .collect();

        let faults = found.iter().filter_map(|found| found.as_ref().err());
        if let Some(fault) = faults.min_by_key(|fault| (fault.layer, fault.sample)) {
            return Err(self.not_finite(fault));
        }
        let mut found = found.into_iter().flatten().zip(&pieces).peekable();
        for (sample, segment) in segments.iter().enumerate() {
            let mut sums: Vec<f64> = Vec::new();
            while let Some((piece, _)) = found.next_if(|(_, piece)| piece.sample == sample) {
                match sums.is_empty() {
                    true => sums = piece,
                    false => sums.iter_mut().zip(piece).for_each(|(sum, value)| *sum += value),
                }
            }
            match &mut self.kept {
                Some(kept) => kept.push(std::iter::once(segment.len as f64).chain(sums).collect()),
                None => self.add(segment.len as f64, sums),
            }
        }
        self.samples += segments.len();
        Ok(())
    }

    /// Sums over the tokens of a piece of every value of every metric, one metric after the other.
    fn sums(&self, gram: &mut Gram, streams: &Streams<'_>, piece: &Piece) -> Result<Vec<f64>, NotFinite> {
        let mut sums = vec![0.0; self.metrics.iter().map(|(.., moments)| moments.values()).sum()];
        for token in piece.tokens.clone() {
            streams.fill(gram, self.layers + 1, token);
            if (0..=self.layers).any(|layer| !gram.get(layer, layer).is_finite()) {
                let layer = streams.broken(gram, &piece.tokens, self.layers);
                return Err(NotFinite { layer, sample: piece.sample });
            }
            let last = piece.last && token + 1 == piece.tokens.end;
            // rows of all metrics are in the same order, so one walk over the pairs serves all
            let mut index = 0;
            for n in 1..=self.layers {
                for l in 0..=self.layers - n {
                    let pair = Pair::new(gram.get(l, l), gram.get(l + n, l + n), gram.get(l, l + n));
                    let mut offset = 0;
                    for (metric, value, moments) in &self.metrics {
                        let counts = last || metric.tokens == Tokens::All;
                        if counts && index < moments.values() {
                            sums[offset + index] += value(&pair);
                        }
                        offset += moments.values();
                    }
                    index += 1;
                }
            }
        }
        Ok(sums)
    }

    /// Adds a sample of so many tokens.
    fn add(&mut self, tokens: f64, mut sums: Vec<f64>) {
        let mut sums = sums.as_mut_slice();
        for (metric, _, moments) in &mut self.metrics {
            let (values, rest) = sums.split_at_mut(moments.values());
            match metric.tokens {
                Tokens::Last => moments.push(1.0, values),
                Tokens::All => {
                    values.iter_mut().for_each(|value| *value /= tokens);
                    moments.push(tokens, values);
                }
            }
            sums = rest;
        }
    }

    fn not_finite(&self, fault: &NotFinite) -> Error {
        let origin = match fault.layer {
            0 => "the embedding".to_owned(),
            layer => format!("layer {}", layer - 1),
        };
        let sample = self.samples + fault.sample;
        Error::work(format!("the output of {origin} is not finite (NaN or infinite) for sample {sample}"))
    }

    /// The scores, in the order of the metrics.
    ///
    /// # Errors
    /// No sample was seen.
    pub fn finish(self) -> Result<Vec<Scores>> {
        if self.samples == 0 {
            return Err(Error::work("no sample to compute scores from"));
        }
        Ok(self.metrics.into_iter().map(|(metric, _, moments)| moments.finish(metric.name)).collect())
    }
}

#[cfg(test)]
mod tests;
