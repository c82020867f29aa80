//! Means over samples with their standard errors, kept as running sums: memory does not grow with the samples.

use serde::{Deserialize, Serialize};

/// The scores of one metric: means over the samples, and how far they can be trusted.
///
/// Row n-1 holds the blocks of n layers, entry l of it the block that starts at layer l, l = 0 ..= L-n. A metric of
/// single layers has one row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Name of the row of [`METRICS`](super::METRICS).
    pub metric: String,
    /// Means.
    pub mean: Vec<Vec<f64>>,
    /// Standard errors of the means, in the shape of `mean`; absent with a single sample.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stderr: Option<Vec<Vec<f64>>>,
    /// Standard errors of the differences between two entries of a row, to four digits: entry `[n-1][i][j-i-1]` is that
    /// of `mean[n-1][i] - mean[n-1][j]`, i < j. The samples are the same for both, so that what a sample does to all
    /// blocks alike cancels and the difference is often known far better than either mean.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub difference_stderr: Option<Vec<Vec<Vec<f64>>>>,
}

impl Scores {
    /// Standard error of entry `l` of row `n`-1.
    #[must_use]
    pub fn error(&self, n: usize, l: usize) -> Option<f64> {
        self.stderr.as_ref().map(|rows| rows[n - 1][l])
    }

    /// Standard error of the difference between entries `i` and `j` of row `n`-1.
    #[must_use]
    pub fn difference_error(&self, n: usize, i: usize, j: usize) -> Option<f64> {
        let rows = self.difference_stderr.as_ref()?;
        match i == j {
            true => Some(0.0),
            false => Some(rows[n - 1][i.min(j)][i.abs_diff(j) - 1]),
        }
    }
}

/// Running sums over samples of values that come in rows.
///
/// A sample has a weight (its tokens, where tokens count alike). The mean is m = Σ w v / Σ w, the squared standard
/// error N/(N-1) Σ w² (v - m)² / (Σ w)²: samples are independent, the tokens of one sample are not. With equal weights
/// that is the usual variance over N. All values are taken relative to the first sample's, which leaves nothing large
/// to cancel.
pub(crate) struct Moments {
    rows: Vec<usize>,
    samples: usize,
    weight: f64,
    weight_squared: f64,
    /// Values of the first sample, one row after the other.
    first: Vec<f64>,
    /// Σ w v.
    sum: Vec<f64>,
    /// Σ w² v.
    heavy: Vec<f64>,
    /// Σ w² v².
    square: Vec<f64>,
    /// Σ w² (v_i - v_j)² for the pairs i < j of each row.
    difference: Vec<f64>,
}

impl Moments {
    /// For rows of these lengths.
    pub(crate) fn new(rows: Vec<usize>) -> Self {
        let values = rows.iter().sum();
        let pairs = rows.iter().map(|&len| len * len.saturating_sub(1) / 2).sum();
        let zeros = || vec![0.0; values];
        Self {
            samples: 0,
            weight: 0.0,
            weight_squared: 0.0,
            first: zeros(),
            sum: zeros(),
            heavy: zeros(),
            square: zeros(),
            difference: vec![0.0; pairs],
            rows,
        }
    }

    /// Values of a sample, all rows.
    pub(crate) fn values(&self) -> usize {
        self.first.len()
    }

    /// Takes the values of one sample, one row after the other.
    pub(crate) fn push(&mut self, weight: f64, values: &[f64]) {
        if self.samples == 0 {
            self.first.copy_from_slice(values);
        }
        self.samples += 1;
        self.weight += weight;
        let squared = weight * weight;
        self.weight_squared += squared;
        let shifted: Vec<f64> = values.iter().zip(&self.first).map(|(value, first)| value - first).collect();
        for (i, &value) in shifted.iter().enumerate() {
            self.sum[i] += weight * value;
            self.heavy[i] += squared * value;
            self.square[i] += squared * value * value;
        }
        let mut pairs = self.difference.iter_mut();
        for row in split(&shifted, &self.rows) {
            for (i, a) in row.iter().enumerate() {
                for (b, pair) in row[i + 1..].iter().zip(&mut pairs) {
                    *pair += squared * (a - b) * (a - b);
                }
            }
        }
    }

    /// Means and standard errors, under the metric's name. At least one sample must have come.
    pub(crate) fn finish(self, metric: &str) -> Scores {
        let shift: Vec<f64> = self.sum.iter().map(|sum| sum / self.weight).collect();
        let mean: Vec<f64> = self.first.iter().zip(&shift).map(|(first, shift)| first + shift).collect();
        let samples = self.samples as f64;
        let scale = samples / (samples - 1.0) / (self.weight * self.weight);
        // Σ w² (u - m)² from Σ w² u², Σ w² u and m
        let error = |square: f64, heavy: f64, mean: f64| {
            let about_mean = square - 2.0 * mean * heavy + mean * mean * self.weight_squared;
            (scale * about_mean.max(0.0)).sqrt()
        };
        let known = self.samples > 1;
        let stderr = known.then(|| {
            let errors: Vec<f64> = (0..mean.len()).map(|i| error(self.square[i], self.heavy[i], shift[i])).collect();
            nested(&errors, &self.rows)
        });
        let difference_stderr = known.then(|| {
            let mut squares = self.difference.iter();
            let means = split(&shift, &self.rows);
            let rows = means.zip(split(&self.heavy, &self.rows)).map(|(mean, heavy)| {
                let from = |i: usize| {
                    let pairs = (i + 1..mean.len()).zip(&mut squares);
                    let errors = pairs.map(|(j, &square)| error(square, heavy[i] - heavy[j], mean[i] - mean[j]));
                    errors.map(four_digits).collect()
                };
                (0..mean.len().saturating_sub(1)).map(from).collect()
            });
            rows.collect()
        });
        Scores { metric: metric.to_owned(), mean: nested(&mean, &self.rows), stderr, difference_stderr }
    }
}

/// The rows of a flat list.
fn split<'a>(mut flat: &'a [f64], rows: &'a [usize]) -> impl Iterator<Item = &'a [f64]> {
    rows.iter().map(move |&len| {
        let (row, rest) = flat.split_at(len);
        flat = rest;
        row
    })
}

fn nested(flat: &[f64], rows: &[usize]) -> Vec<Vec<f64>> {
    split(flat, rows).map(<[f64]>::to_vec).collect()
}

/// `value` to four significant digits: an error needs no more, and there are L³/6 of them in the file.
pub(super) fn four_digits(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mean and standard error of Σ w v / Σ w, in two passes.
    fn plainly(weights: &[f64], values: &[f64]) -> (f64, f64) {
        let total: f64 = weights.iter().sum();
        let mean = weights.iter().zip(values).map(|(w, v)| w * v).sum::<f64>() / total;
        let squares: f64 = weights.iter().zip(values).map(|(w, v)| (w * (v - mean)).powi(2)).sum();
        let n = values.len() as f64;
        (mean, (n / (n - 1.0) * squares).sqrt() / total)
    }

    #[test]
    fn equal_weights_give_the_textbook_error() {
        let mut moments = Moments::new(vec![1]);
        for value in [1.0, 2.0, 3.0, 4.0] {
            moments.push(1.0, &[value]);
        }
        let scores = moments.finish("m");
        assert_eq!(scores.mean, [[2.5]]);
        // s² = 5/3, s/√4
        assert!((scores.error(1, 0).unwrap() - (5f64 / 3.0).sqrt() / 2.0).abs() < 1e-15);
        assert_eq!(scores.difference_error(1, 0, 0), Some(0.0));
    }

    #[test]
    fn one_sample_has_no_error() {
        let mut moments = Moments::new(vec![2, 1]);
        moments.push(3.0, &[0.1, 0.2, 0.3]);
        let scores = moments.finish("m");
        assert_eq!(scores.mean, [vec![0.1, 0.2], vec![0.3]]);
        assert_eq!((scores.error(1, 0), scores.difference_error(1, 0, 1)), (None, None));
    }

    #[test]
    fn what_moves_all_entries_alike_leaves_their_difference_exact() {
        let mut moments = Moments::new(vec![3]);
        for k in 0..100 {
            let common = f64::from(k % 7);
            moments.push(1.0, &[common, common + 0.25, common + 0.25]);
        }
        let scores = moments.finish("m");
        assert!(scores.error(1, 0).unwrap() > 0.1);
        assert_eq!(scores.difference_error(1, 1, 2), Some(0.0));
        assert!(scores.difference_error(1, 2, 0).unwrap() < 1e-15);
    }

    proptest! {
        #[test]
        fn sums_agree_with_two_passes(
            samples in prop::collection::vec((1u32..300, prop::array::uniform5(0f64..1f64)), 2..40),
            offset in -1e3f64..1e3f64,
        ) {
            let rows = vec![3, 2];
            let mut moments = Moments::new(rows);
            for (weight, values) in &samples {
                moments.push(f64::from(*weight), &values.map(|v| v + offset));
            }
            let scores = moments.finish("m");
            let weights: Vec<f64> = samples.iter().map(|(w, _)| f64::from(*w)).collect();
            let column = |i: usize| -> Vec<f64> { samples.iter().map(|(_, v)| v[i] + offset).collect() };
            for (n, l, i) in [(1, 0, 0), (1, 1, 1), (1, 2, 2), (2, 0, 3), (2, 1, 4)] {
                let (mean, error) = plainly(&weights, &column(i));
                prop_assert!((scores.mean[n - 1][l] - mean).abs() <= 1e-11);
                prop_assert!((scores.error(n, l).unwrap() - error).abs() <= 1e-9 * error + 1e-12);
            }
            for (n, a, b, i, j) in [(1, 0, 1, 0, 1), (1, 0, 2, 0, 2), (1, 2, 1, 1, 2), (2, 0, 1, 3, 4)] {
                let differences: Vec<f64> = column(i).iter().zip(column(j)).map(|(x, y)| x - y).collect();
                let (_, error) = plainly(&weights, &differences);
                let found = scores.difference_error(n, a, b).unwrap();
                prop_assert!((found - error).abs() <= 1e-3 * error + 1e-12);
            }
        }
    }
}
