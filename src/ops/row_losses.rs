//! The loss of one row of logits, which become its gradient.

use super::exp::exp;
use super::objective::{Remembered, Sums, Teacher};
use super::simd::{change_and_sum, max, vectorized};
use super::soft_cap::{capped, slope};

/// `loss` of a row of logits that are held below `cap`; the logits become the gradient of it.
pub(super) fn under(cap: Option<f32>, logits: &mut [f32], loss: impl FnOnce(&mut [f32]) -> Sums) -> Sums {
    let Some(cap) = cap else { return loss(logits) };
    let slopes: Vec<f32> = vectorized(
        #[inline(always)]
        || {
            let cap_one = |logit: &mut f32| {
                *logit = capped(*logit, cap);
                slope(*logit, cap)
            };
            logits.iter_mut().map(cap_one).collect()
        },
    );
    let sums = loss(logits);
    logits.iter_mut().zip(slopes).for_each(|(gradient, slope)| *gradient *= slope);
    sums
}

/// -ln p(token); the row's logits become the gradient of that, p - 1(token).
pub(super) fn plain(logits: &mut [f32], token: usize) -> Sums {
    let loss = vectorized(
        #[inline(always)]
        || row_loss(logits, token),
    );
    Sums { loss, cross_entropy: loss }
}

#[inline(always)]
fn row_loss(logits: &mut [f32], token: usize) -> f64 {
    let (max, own) = (max(logits), logits[token]);
    let sum = change_and_sum(logits, |logit| exp(logit - max));
    let factor = 1.0 / sum;
    logits.iter_mut().for_each(|logit| *logit *= factor);
    logits[token] -= 1.0;
    f64::from(sum.ln() - (own - max))
}

/// The mixed loss of a row; its logits z become the gradient, (1-w)·(p - 1(token)) + w·τ·(p_τ - q_τ).
pub(super) fn distilled(logits: &mut [f32], token: usize, teacher_logits: &[f32], teacher: &Teacher<'_>) -> Sums {
    let (weight, temperature) = (teacher.weight, teacher.temperature);
    let soft = |logits: &[f32]| -> (Vec<f32>, f64) {
        let max = max(logits);
        let mut probabilities: Vec<f32> = logits.iter().map(|logit| (logit - max) / temperature as f32).collect();
        let sum = change_and_sum(&mut probabilities, exp);
        probabilities.iter_mut().for_each(|p| *p /= sum);
        (probabilities, f64::from(max) / temperature + f64::from(sum).ln())
    };
    vectorized(
        #[inline(always)]
        || {
            let (own, own_normalizer) = soft(logits);
            let (others, other_normalizer) = soft(teacher_logits);
            let gaps = others
                .iter()
                .zip(logits.iter().zip(teacher_logits))
                .map(|(q, (own, other))| f64::from(*q) * (f64::from(*other) - f64::from(*own)) / temperature);
            let divergence = gaps.sum::<f64>() - other_normalizer + own_normalizer;
            let cross_entropy = row_loss(logits, token);
            let (hard, soft) = ((1.0 - weight) as f32, (weight * temperature) as f32);
            for (logit, (p, q)) in logits.iter_mut().zip(own.iter().zip(&others)) {
                *logit = hard * *logit + soft * (p - q);
            }
            let loss = (1.0 - weight) * cross_entropy + weight * temperature * temperature * divergence;
            Sums { loss, cross_entropy }
        },
    )
}

/// The mixed loss of a row against row `row` of what a teacher said: its likeliest tokens K with probabilities q, and r
/// for all others, R, as one class. KL = Σ_K q·ln(q/p) + r·ln(r/p_R) with p_R = Σ_R p; its gradient by z/τ is p - q in
/// K, and p·(1 - r/p_R) in R. Where the model shares out R as the teacher does, that is the divergence of all tokens.
pub(super) fn remembered(logits: &mut [f32], token: usize, known: &Remembered<'_>, row: usize) -> Sums {
    let Remembered { top, weight, temperature } = *known;
    let (ids, log_probs) = (&top.ids[row * top.k..][..top.k], &top.log_probs[row * top.k..][..top.k]);
    let rest = f64::from(top.rest[row]);
    vectorized(
        #[inline(always)]
        || {
            let largest = max(logits);
            let scaled: Vec<f64> =
                ids.iter().map(|id| f64::from(logits[*id as usize] - largest) / temperature).collect();
            let mut others: Vec<f32> = logits.iter().map(|logit| (logit - largest) / temperature as f32).collect();
            change_and_sum(&mut others, exp);
            ids.iter().for_each(|id| others[*id as usize] = 0.0);
            let mass = f64::from(change_and_sum(&mut others, |other| other));
            let total = scaled.iter().map(|scaled| scaled.exp()).sum::<f64>() + mass;
            let normalizer = total.ln();
            let gaps = log_probs.iter().zip(&scaled).map(|(log_prob, scaled)| {
                let log_prob = f64::from(*log_prob);
                log_prob.exp() * (log_prob - scaled + normalizer)
            });
            let mut divergence = gaps.sum::<f64>();
            // what the model gives to all others, at least what is left of it in these numbers
            let mut of_others = 1.0 / total;
            if rest > f64::NEG_INFINITY && ids.len() < logits.len() {
                let mass = mass.max(f64::from(f32::MIN_POSITIVE));
                divergence += rest.exp() * (rest - mass.ln() + normalizer);
                of_others -= rest.exp() / mass;
            }
            let cross_entropy = row_loss(logits, token);
            let (hard, soft) = (1.0 - weight, weight * temperature);
            let of_others = (soft * of_others) as f32;
            for (logit, other) in logits.iter_mut().zip(&others) {
                *logit = hard as f32 * *logit + of_others * other;
            }
            for ((id, log_prob), scaled) in ids.iter().zip(log_probs).zip(&scaled) {
                let gradient = scaled.exp() / total - f64::from(*log_prob).exp();
                logits[*id as usize] += (soft * gradient) as f32;
            }
            let loss = hard * cross_entropy + weight * temperature * temperature * divergence;
            Sums { loss, cross_entropy }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;
    use crate::ops::{TopTokens, top_tokens};

    const TOKEN: usize = 3;

    /// Loss and gradient of a row of `logits` against what a teacher with `others` said.
    fn loss(logits: &[f32], top: &TopTokens, (weight, temperature): (f64, f64)) -> (Sums, Vec<f32>) {
        let mut logits = logits.to_vec();
        let found = remembered(&mut logits, TOKEN, &Remembered { top, weight, temperature }, 0);
        (found, logits)
    }

    /// The same by its definition, in f64, of logits in f64.
    fn formula(logits: &[f64], top: &TopTokens, (weight, temperature): (f64, f64)) -> f64 {
        let log_softmax = |scale: f64| -> Vec<f64> {
            let normalizer = logits.iter().map(|logit| (logit / scale).exp()).sum::<f64>().ln();
            logits.iter().map(|logit| logit / scale - normalizer).collect()
        };
        let (soft, hard) = (log_softmax(temperature), log_softmax(1.0));
        let known = top.ids.iter().zip(&top.log_probs).map(|(id, q)| (f64::from(*q), soft[*id as usize]));
        let mut divergence: f64 = known.map(|(q, p)| q.exp() * (q - p)).sum();
        let others = (0..logits.len()).filter(|token| !top.ids.contains(&(*token as u32)));
        let mass: f64 = others.map(|token| soft[token].exp()).sum();
        let rest = f64::from(top.rest[0]);
        if rest > f64::NEG_INFINITY {
            divergence += rest.exp() * (rest - mass.ln());
        }
        -(1.0 - weight) * hard[TOKEN] + weight * temperature * temperature * divergence
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (v, k, weight, temperature) in
            [(12, 4, 0.5, 1.0), (12, 4, 1.0, 2.0), (50, 8, 0.3, 0.7), (9, 9, 1.0, 1.0), (40, 1, 0.0, 1.0)]
        {
            let row = |seed: u64| (random(seed, 1, v) * 3.0).unwrap();
            let (own, other) = (row(1), row(2));
            let top = top_tokens(&other, k, temperature).unwrap();
            let logits = own.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (found, gradient) = loss(&logits, &top, (weight, temperature));
            let wide: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
            let exact = formula(&wide, &top, (weight, temperature));
            assert!((found.loss - exact).abs() < 2e-6 * exact.abs().max(1.0), "{} {exact}", found.loss);
            for token in 0..v {
                let moved = |by: f64| {
                    let mut wide = wide.clone();
                    wide[token] += by;
                    formula(&wide, &top, (weight, temperature))
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let found = f64::from(gradient[token]);
                assert!((found - slope).abs() < 2e-6, "{v} {k} {weight} {temperature}: {token}: {found} {slope}");
            }
        }
    }

    /// All tokens remembered: the divergence of a teacher that is there.
    #[test]
    fn nothing_left_out_is_the_whole_divergence() {
        let (own, other) = ((random(1, 1, 30) * 3.0).unwrap(), (random(2, 1, 30) * 3.0).unwrap());
        let [own, others] = [&own, &other].map(|row| row.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let teacher = Teacher { hidden: &other, head: &other, cap: None, weight: 0.6, temperature: 1.5 };
        let mut live = own.clone();
        let whole = distilled(&mut live, TOKEN, &others, &teacher);
        let mut before = f64::INFINITY;
        for k in [2, 8, 20, 30] {
            let (found, gradient) = loss(&own, &top_tokens(&other, k, 1.5).unwrap(), (0.6, 1.5));
            // classes put together never diverge more
            let off = whole.loss - found.loss;
            assert!(off > -1e-6 && off <= before + 1e-6, "{k}: {off}");
            before = off;
            if k == 30 {
                assert!(off.abs() < 1e-6 && gradient.iter().zip(&live).all(|(a, b)| (a - b).abs() < 1e-6));
            }
        }
        // where the model is the teacher nothing is left to learn
        let (same, gradient) = loss(&others, &top_tokens(&other, 4, 1.0).unwrap(), (1.0, 1.0));
        assert!(same.loss.abs() < 1e-6 && gradient.iter().all(|g| g.abs() < 1e-6), "{same:?}");
    }
}
