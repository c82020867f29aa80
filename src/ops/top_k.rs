//! The likeliest tokens of each row of logits with their log-probabilities, and the mass of all others.

use candle_core::Tensor;
use rayon::prelude::*;

use super::edit::numbers;
use super::exp::exp;
use super::simd::{change_and_sum, max, vectorized};
use crate::{Error, Result};

/// Of n rows, the k likeliest tokens, likeliest first; of equally likely ones the smaller id first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopTokens {
    /// How many of each row.
    pub k: usize,
    /// Token ids, `[n, k]`.
    pub ids: Vec<u32>,
    /// Natural logarithms of their probabilities, `[n, k]`.
    pub log_probs: Vec<f32>,
    /// Logarithm of the probability of all other tokens together, `[n]`; -inf where there are none.
    pub rest: Vec<f32>,
}

impl TopTokens {
    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rest.len()
    }
}

/// The `k` likeliest tokens of each row of `logits` `[n, v]`, f32 and finite, under softmax(logits / `temperature`).
///
/// # Errors
/// No tokens or more than there are, shapes that do not fit.
pub fn top_tokens(logits: &Tensor, k: usize, temperature: f64) -> Result<TopTokens> {
    let (n, v) = logits.dims2()?;
    if k == 0 || k > v {
        return Err(Error::work(format!("top_tokens: {k} of {v} tokens")));
    }
    numbers(&logits.contiguous()?, |logits| {
        let mut top = TopTokens { k, ids: vec![0; n * k], log_probs: vec![0.0; n * k], rest: vec![0.0; n] };
        let out = top.ids.par_chunks_exact_mut(k).zip(top.log_probs.par_chunks_exact_mut(k));
        let out = out.zip(&mut top.rest).zip(logits.par_chunks_exact(v));
        out.for_each(|(((ids, log_probs), rest), logits)| *rest = of_row(logits, temperature, ids, log_probs));
        top
    })
}

/// Fills in the likeliest tokens of a row; the logarithm of the others' mass.
fn of_row(logits: &[f32], temperature: f64, ids: &mut [u32], log_probs: &mut [f32]) -> f32 {
    let k = ids.len();
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let before = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, before);
        order.truncate(k);
    }
    order.sort_unstable_by(before);
    ids.copy_from_slice(&order);
    let largest = logits[ids[0] as usize];
    let mut others = logits.to_vec();
    ids.iter().for_each(|id| others[*id as usize] = f32::MIN);
    let scale = (1.0 / temperature) as f32;
    let rest = f64::from(vectorized(
        #[inline(always)]
        || change_and_sum(&mut others, |logit| exp((logit - largest) * scale)),
    ));
    let scaled = |id: &u32| f64::from(logits[*id as usize] - largest) / temperature;
    let normalizer = (ids.iter().map(|id| scaled(id).exp()).sum::<f64>() + rest).ln();
    log_probs.iter_mut().zip(ids.iter()).for_each(|(log_prob, id)| *log_prob = (scaled(id) - normalizer) as f32);
    if k == logits.len() {
        return f32::NEG_INFINITY;
    }
    // what is too small for f32's exponential is still some mass
    let least = || {
        vectorized(
            #[inline(always)]
            || max(&others_of(logits, ids)),
        )
    };
    let rest = if rest > 0.0 { rest.ln() } else { f64::from(least() - largest) / temperature };
    (rest - normalizer) as f32
}

/// The logits of all tokens but `ids`.
fn others_of(logits: &[f32], ids: &[u32]) -> Vec<f32> {
    let mut others = logits.to_vec();
    ids.iter().for_each(|id| others[*id as usize] = f32::NEG_INFINITY);
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_same_on_any_threads, random};

    #[test]
    fn masses_are_those_of_the_formula() {
        for (n, v, k, temperature) in [(3, 40, 5, 1.0), (2, 300, 64, 2.0), (4, 9, 9, 0.5), (1, 1000, 1, 1.0)] {
            let logits = (random(1, n, v) * 6.0).unwrap();
            let top = top_tokens(&logits, k, temperature).unwrap();
            assert_eq!((top.rows(), top.ids.len()), (n, n * k));
            for (row, logits) in logits.to_vec2::<f32>().unwrap().iter().enumerate() {
                let scaled: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) / temperature).collect();
                let normalizer = scaled.iter().map(|logit| logit.exp()).sum::<f64>().ln();
                let ids = &top.ids[row * k..][..k];
                let mut sorted: Vec<u32> = (0..v as u32).collect();
                sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
                assert_eq!(ids, &sorted[..k]);
                for (id, found) in ids.iter().zip(&top.log_probs[row * k..]) {
                    assert!((f64::from(*found) - (scaled[*id as usize] - normalizer)).abs() < 2e-6);
                }
                let rest: f64 = sorted[k..].iter().map(|id| (scaled[*id as usize] - normalizer).exp()).sum();
                match k == v {
                    true => assert_eq!(top.rest[row], f32::NEG_INFINITY),
                    false => assert!((f64::from(top.rest[row]) - rest.ln()).abs() < 1e-5),
                }
            }
        }
        assert!(top_tokens(&random(1, 2, 5), 6, 1.0).is_err() && top_tokens(&random(1, 2, 5), 0, 1.0).is_err());
    }

    #[test]
    fn ties_and_far_tails() {
        let logits = Tensor::new(&[[1f32, 3.0, 3.0, 3.0, -500.0]], &candle_core::Device::Cpu).unwrap();
        let top = top_tokens(&logits, 2, 1.0).unwrap();
        assert_eq!(top.ids, [1, 2]);
        let top = top_tokens(&logits, 4, 1.0).unwrap();
        assert!((top.rest[0] + 503.0 + (3.0 + (-2f32).exp()).ln()).abs() < 1e-3, "{top:?}");
        let wide = random(1, 70, 500);
        assert_same_on_any_threads(|| {
            let top = top_tokens(&wide, 20, 1.5).unwrap();
            vec![Tensor::from_vec(top.log_probs, 1400, wide.device()).unwrap()]
        });
    }
}
