//! What a repair at a seam is computed from, and what it says.

use candle_core::{DType, Device, Tensor};

use crate::model::Batch;
use crate::ops::{self, Cholesky, ProductSum, product64};
use crate::{Error, Result};

/// Sums in f64 over all tokens of a text. P is the update of the last sub-layer before the seam, Y the stream that it
/// is added to, X = Y + P what leaves it, Z the whole model's stream behind the gap; each `[t, d]`.
#[derive(Debug)]
pub struct SeamSums {
    /// Numbers of a token, d.
    pub d: usize,
    /// Tokens.
    pub tokens: usize,
    /// PᵀP, `[d, d]`.
    pub gram: Vec<f64>,
    /// PᵀY, `[d, d]`.
    pub with_stream: Vec<f64>,
    /// PᵀZ, `[d, d]`.
    pub with_target: Vec<f64>,
    /// |Y|².
    pub stream: f64,
    /// ⟨Y, Z⟩.
    pub stream_target: f64,
    /// |Z|².
    pub target: f64,
    /// |Z - X|².
    pub gap: f64,
    /// Sums of P, Y and Z over tokens, `[d]` each.
    pub totals: [Vec<f64>; 3],
    /// Of each channel the mean over sequences of the ratio of mean |Z| to mean |X|, means over the tokens of a
    /// sequence; `[d]`.
    pub ratios: Vec<f64>,
}

/// The map of an estimate.
#[derive(Clone, Debug, PartialEq)]
pub enum Map {
    /// A number times the identity.
    Times(f64),
    /// A matrix, `[d, d]`.
    Matrix(Vec<f64>),
}

/// An estimate of Z: scale·Y + P·map + bias.
#[derive(Clone, Debug, PartialEq)]
pub struct SeamEstimate {
    /// α: later output projections are divided by it.
    pub scale: f64,
    /// T: the output projection before the seam is followed by it.
    pub map: Map,
    /// b, `[d]`: added to the bias of that projection.
    pub bias: Option<Vec<f64>>,
}

impl SeamEstimate {
    /// |Z - estimate|² over the tokens of `sums`.
    #[must_use]
    pub fn left(&self, sums: &SeamSums) -> f64 {
        let (d, scale) = (sums.d, self.scale);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let trace = |of: &[f64]| (0..d).map(|i| of[i * d + i]).sum::<f64>();
        let [p, y, z] = &sums.totals;
        // ⟨P·T, P·T⟩, ⟨P·T, Y⟩, ⟨P·T, Z⟩ and the sum of P·T over tokens
        let (own, stream, target, total) = match &self.map {
            Map::Times(by) => (
                by * by * trace(&sums.gram),
                by * trace(&sums.with_stream),
                by * trace(&sums.with_target),
                p.iter().map(|p| by * p).collect(),
            ),
            Map::Matrix(map) => (
                dot(map, &product64(&sums.gram, map, (d, d, d))),
                dot(map, &sums.with_stream),
                dot(map, &sums.with_target),
                product64(p, map, (1, d, d)),
            ),
        };
        let mut left = sums.target + scale * scale * sums.stream + own - 2.0 * scale * sums.stream_target
            + 2.0 * scale * stream
            - 2.0 * target;
        if let Some(bias) = &self.bias {
            left += sums.tokens as f64 * dot(bias, bias) + 2.0 * scale * dot(bias, y) + 2.0 * dot(bias, &total)
                - 2.0 * dot(bias, z);
        }
        left
    }

    /// The share of |Z - X|² that it explains.
    #[must_use]
    pub fn explained(&self, sums: &SeamSums) -> f64 {
        1.0 - self.left(sums) / sums.gap
    }
}

impl SeamSums {
    /// The mean of the channels' ratios.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.ratios.iter().sum::<f64>() / self.d as f64
    }

    /// The map (PᵀP + ridge·I)⁻¹ Pᵀ(Z - scale·Y), `[d, d]`; the ridge in units of the mean of PᵀP's diagonal.
    ///
    /// # Errors
    /// Work: P does not span all channels, and no ridge helps.
    pub fn map(&self, scale: f64, ridge: f64) -> Result<Vec<f64>> {
        let pairs = self.with_target.iter().zip(&self.with_stream);
        self.solved(pairs.map(|(target, stream)| target - scale * stream).collect(), ridge)
    }

    /// (PᵀP + ridge·I)⁻¹ · right, `[d, d]`.
    ///
    /// # Errors
    /// As [`SeamSums::map`].
    pub fn solved(&self, mut right: Vec<f64>, ridge: f64) -> Result<Vec<f64>> {
        let (d, mut gram) = (self.d, self.gram.clone());
        let mean = (0..d).map(|i| gram[i * d + i]).sum::<f64>() / d as f64;
        (0..d).for_each(|i| gram[i * d + i] += ridge * mean);
        let factor = Cholesky::new(gram, d).ok_or_else(|| {
            Error::work(format!(
                "the equations of the seam have no single solution: the update before it does not reach all {d} \
                 channels in this text; more text may help, or fold, which asks for less"
            ))
        })?;
        factor.solve(&mut right, d);
        Ok(right)
    }
}

/// [`SeamSums`] as tokens come.
#[derive(Debug)]
pub(super) struct Summing {
    d: usize,
    /// Tokens at the start of each sequence that are passed over.
    passed: usize,
    tokens: usize,
    gram: ProductSum,
    with_stream: ProductSum,
    with_target: ProductSum,
    /// |Y|², ⟨Y, Z⟩, |Z|², |Z - X|².
    scalars: [f64; 4],
    totals: [Vec<f64>; 3],
    ratios: Vec<f64>,
    sequences: usize,
}

impl Summing {
    /// `first`: whether first tokens of sequences count.
    pub(super) fn new(d: usize, first: bool, device: &Device) -> Result<Self> {
        let sum = || ProductSum::new(d, d, device);
        Ok(Self {
            d,
            passed: usize::from(!first),
            tokens: 0,
            gram: sum()?,
            with_stream: sum()?,
            with_target: sum()?,
            scalars: [0.0; 4],
            totals: std::array::from_fn(|_| vec![0.0; d]),
            ratios: vec![0.0; d],
            sequences: 0,
        })
    }

    /// Adds the tokens of a batch: P, Y and Z.
    pub(super) fn add(&mut self, batch: &Batch, [p, y, z]: [&Tensor; 3]) -> Result<()> {
        let p = &p.to_dtype(DType::F32)?;
        let parts = match self.passed {
            0 => vec![(0, batch.tokens())],
            passed => batch.layout.segments().iter().map(|own| (own.start + passed, own.len - passed)).collect(),
        };
        for (start, len) in parts {
            let of = |x: &Tensor| x.narrow(0, start, len);
            let p = of(p)?;
            self.gram.add(&p, None)?;
            self.with_stream.add(&p, Some(&of(y)?))?;
            self.with_target.add(&p, Some(&of(z)?))?;
        }
        let numbers = |x: &Tensor| ops::numbers(&x.contiguous()?, <[f32]>::to_vec);
        let (p, y, z) = (numbers(p)?, numbers(y)?, numbers(z)?);
        for segment in batch.layout.segments() {
            // |X| and |Z|, summed over the tokens of a sequence
            let (mut entered, mut left) = (vec![0.0; self.d], vec![0.0; self.d]);
            for token in segment.start + self.passed..segment.start + segment.len {
                for channel in 0..self.d {
                    let at = token * self.d + channel;
                    let x = f64::from(y[at] + p[at]);
                    let (p, y, z) = (f64::from(p[at]), f64::from(y[at]), f64::from(z[at]));
                    let scalars = [y * y, y * z, z * z, (z - x) * (z - x)];
                    self.scalars.iter_mut().zip(scalars).for_each(|(sum, own)| *sum += own);
                    self.totals.iter_mut().zip([p, y, z]).for_each(|(sum, own)| sum[channel] += own);
                    entered[channel] += x.abs();
                    left[channel] += z.abs();
                }
            }
            if segment.len == self.passed {
                continue;
            }
            let own = left.iter().zip(&entered).map(|(left, entered)| left / entered);
            self.ratios.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
            self.sequences += 1;
        }
        self.tokens += batch.tokens() - self.passed * batch.layout.segments().len();
        Ok(())
    }

    pub(super) fn finish(self) -> Result<SeamSums> {
        let [stream, stream_target, target, gap] = self.scalars;
        Ok(SeamSums {
            d: self.d,
            tokens: self.tokens,
            gram: self.gram.numbers()?,
            with_stream: self.with_stream.numbers()?,
            with_target: self.with_target.numbers()?,
            stream,
            stream_target,
            target,
            gap,
            totals: self.totals,
            ratios: self.ratios.iter().map(|sum| sum / self.sequences as f64).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{numbers, random};

    /// What is left of an estimate is what it is, token by token.
    #[test]
    fn what_an_estimate_leaves_is_counted_from_sums() {
        let (t, d) = (30, 4);
        let [p, y, z] = [1, 2, 3].map(|seed| random(seed, t, d));
        let batch = Batch::sequences(&[vec![0; 11], vec![0; 19]]).unwrap();
        let mut summing = Summing::new(d, true, &Device::Cpu).unwrap();
        summing.add(&batch, [&p, &y, &z]).unwrap();
        let sums = summing.finish().unwrap();
        let [p, y, z] = [&p, &y, &z].map(numbers);
        let bias: Vec<f64> = numbers(&random(4, 1, d));
        for map in [Map::Times(0.7), Map::Matrix(numbers(&random(5, d, d)))] {
            for bias in [None, Some(bias.clone())] {
                let estimate = SeamEstimate { scale: 1.3, map: map.clone(), bias };
                let matrix = match &map {
                    Map::Times(by) => (0..d * d).map(|at| if at % (d + 1) == 0 { *by } else { 0.0 }).collect(),
                    Map::Matrix(matrix) => matrix.clone(),
                };
                let mapped = product64(&p, &matrix, (t, d, d));
                let left: f64 = (0..t * d)
                    .map(|at| {
                        let bias = estimate.bias.as_ref().map_or(0.0, |bias| bias[at % d]);
                        (z[at] - 1.3 * y[at] - mapped[at] - bias).powi(2)
                    })
                    .sum();
                assert!((estimate.left(&sums) - left).abs() < 1e-9 * left, "{estimate:?}");
            }
        }
        let gap: f64 = (0..t * d).map(|at| (z[at] - y[at] - p[at]).powi(2)).sum();
        let same = SeamEstimate { scale: 1.0, map: Map::Times(1.0), bias: None };
        assert!((sums.gap - gap).abs() < 1e-4 * gap && same.explained(&sums).abs() < 1e-4);
        let mut flat = sums;
        flat.gram.fill(0.0);
        assert!(flat.map(1.0, 0.0).unwrap_err().to_string().contains("no single solution"));
    }
}
