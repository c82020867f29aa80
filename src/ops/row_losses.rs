//! The loss of one row of logits, which become its gradient.

use super::divergence::{Divergence, jensen_shannon, of_classes, reverse};
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

/// The mixed loss of a row; its logits z become the gradient, with KL (1-w)·(p - 1(token)) + w·τ·(p_τ - q_τ).
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
            let (mut own, own_normalizer) = soft(logits);
            let (others, other_normalizer) = soft(teacher_logits);
            let divergence = match teacher.divergence {
                Divergence::Kl => {
                    let gaps = others
                        .iter()
                        .zip(logits.iter().zip(teacher_logits))
                        .map(|(q, (own, other))| f64::from(*q) * (f64::from(*other) - f64::from(*own)) / temperature);
                    let divergence = gaps.sum::<f64>() - other_normalizer + own_normalizer;
                    own.iter_mut().zip(&others).for_each(|(p, q)| *p -= q);
                    divergence
                }
                Divergence::ReverseKl => reverse(&mut own, |token| {
                    let gap = f64::from(logits[token]) - f64::from(teacher_logits[token]);
                    gap / temperature - own_normalizer + other_normalizer
                }),
                Divergence::Jsd { beta } => jensen_shannon(&mut own, &others, beta),
            };
            let scale = teacher.divergence.scale(temperature);
            let cross_entropy = row_loss(logits, token);
            let soft = weight * teacher.divergence.gradient_scale(temperature);
            let (hard, soft) = ((1.0 - weight) as f32, soft as f32);
            for (logit, gradient) in logits.iter_mut().zip(&own) {
                *logit = hard * *logit + soft * gradient;
            }
            let loss = (1.0 - weight) * cross_entropy + weight * scale * divergence;
            Sums { loss, cross_entropy }
        },
    )
}

/// The mixed loss of a row against row `row` of what a teacher said: its likeliest tokens K with probabilities q, and r
/// for all others, R, as one class. KL = Σ_K q·ln(q/p) + r·ln(r/p_R) with p_R = Σ_R p; its gradient by z/τ is p - q in
/// K, and p·(1 - r/p_R) in R. Where the model shares out R as the teacher does, that is the divergence of all tokens;
/// else it is less: putting classes together never adds to a divergence, and that holds of all of them.
pub(super) fn remembered(logits: &mut [f32], token: usize, known: &Remembered<'_>, row: usize) -> Sums {
    let Remembered { top, weight, temperature, divergence: kind } = *known;
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
            // what the model gives to all others, at least what is left of it in these numbers
            let least = mass.max(f64::from(f32::MIN_POSITIVE));
            let (divergence, of_known, of_others) = if kind == Divergence::Kl {
                let gaps = log_probs.iter().zip(&scaled).map(|(log_prob, scaled)| {
                    let log_prob = f64::from(*log_prob);
                    log_prob.exp() * (log_prob - scaled + normalizer)
                });
                let mut divergence = gaps.sum::<f64>();
                let mut of_others = 1.0 / total;
                if rest > f64::NEG_INFINITY && ids.len() < logits.len() {
                    divergence += rest.exp() * (rest - least.ln() + normalizer);
                    of_others -= rest.exp() / least;
                }
                let pairs = log_probs.iter().zip(&scaled);
                let of_known =
                    pairs.map(|(log_prob, scaled)| scaled.exp() / total - f64::from(*log_prob).exp()).collect();
                (divergence, of_known, of_others)
            } else {
                let known = scaled.iter().zip(log_probs);
                let mut classes: Vec<(f64, f64)> =
                    known.map(|(scaled, log_prob)| (scaled - normalizer, f64::from(*log_prob))).collect();
                if ids.len() < logits.len() {
                    classes.push((least.ln() - normalizer, rest));
                }
                let (divergence, factors) = of_classes(kind, &classes);
                let of_known: Vec<f64> =
                    scaled.iter().zip(&factors).map(|(scaled, factor)| scaled.exp() / total * factor).collect();
                let of_others = factors.get(ids.len()).map_or(0.0, |factor| factor / total);
                (divergence, of_known, of_others)
            };
            let scale = kind.scale(temperature);
            let cross_entropy = row_loss(logits, token);
            let (hard, soft) = (1.0 - weight, weight * kind.gradient_scale(temperature));
            let of_others = (soft * of_others) as f32;
            for (logit, other) in logits.iter_mut().zip(&others) {
                *logit = hard as f32 * *logit + of_others * other;
            }
            for (id, gradient) in ids.iter().zip(&of_known) {
                logits[*id as usize] += (soft * gradient) as f32;
            }
            let loss = hard * cross_entropy + weight * scale * divergence;
            Sums { loss, cross_entropy }
        },
    )
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::ops::testing::random;
    use crate::ops::{TopTokens, top_tokens};

    const TOKEN: usize = 3;

    const KINDS: [Divergence; 4] =
        [Divergence::Kl, Divergence::ReverseKl, Divergence::Jsd { beta: 0.5 }, Divergence::Jsd { beta: 0.1 }];

    /// Loss and gradient of a row of `logits` against what a teacher with `others` said.
    fn loss(logits: &[f32], top: &TopTokens, (weight, temperature): (f64, f64), kind: Divergence) -> (Sums, Vec<f32>) {
        let mut logits = logits.to_vec();
        let known = Remembered { top, weight, temperature, divergence: kind };
        let found = remembered(&mut logits, TOKEN, &known, 0);
        (found, logits)
    }

    /// The same by its definition, in f64, of logits in f64.
    fn formula(logits: &[f64], top: &TopTokens, (weight, temperature): (f64, f64), kind: Divergence) -> f64 {
        let log_softmax = |scale: f64| -> Vec<f64> {
            let normalizer = logits.iter().map(|logit| (logit / scale).exp()).sum::<f64>().ln();
            logits.iter().map(|logit| logit / scale - normalizer).collect()
        };
        let (soft, hard) = (log_softmax(temperature), log_softmax(1.0));
        // q and p of each class
        let known = top.ids.iter().zip(&top.log_probs);
        let mut classes: Vec<(f64, f64)> =
            known.map(|(id, q)| (f64::from(*q).exp(), soft[*id as usize].exp())).collect();
        let others = (0..logits.len()).filter(|token| !top.ids.contains(&(*token as u32)));
        if top.rest[0] > f32::NEG_INFINITY {
            classes.push((f64::from(top.rest[0]).exp(), others.map(|token| soft[token].exp()).sum()));
        }
        let terms = classes.iter().map(|(q, p)| match kind {
            Divergence::Kl => temperature * temperature * q * (q / p).ln(),
            Divergence::ReverseKl => p * (p / q).ln(),
            Divergence::Jsd { beta } => {
                let m = beta * q + (1.0 - beta) * p;
                beta * q * (q / m).ln() + (1.0 - beta) * p * (p / m).ln()
            }
        });
        -(1.0 - weight) * hard[TOKEN] + weight * terms.sum::<f64>()
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
            let wide: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
            for kind in KINDS {
                let (found, gradient) = loss(&logits, &top, (weight, temperature), kind);
                let exact = formula(&wide, &top, (weight, temperature), kind);
                assert!((found.loss - exact).abs() < 2e-6 * exact.abs().max(1.0), "{kind:?}: {} {exact}", found.loss);
                for token in 0..v {
                    let moved = |by: f64| {
                        let mut wide = wide.clone();
                        wide[token] += by;
                        formula(&wide, &top, (weight, temperature), kind)
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    let found = f64::from(gradient[token]);
                    let off = (found - slope).abs();
                    assert!(off < 2e-6, "{kind:?} {v} {k} {weight} {temperature}: {token}: {found} {slope}");
                }
            }
        }
    }

    /// All tokens remembered: the divergence of a teacher that is there.
    #[test]
    fn nothing_left_out_is_the_whole_divergence() {
        let (own, other) = ((random(1, 1, 30) * 3.0).unwrap(), (random(2, 1, 30) * 3.0).unwrap());
        let [own, others] = [&own, &other].map(|row| row.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        for divergence in KINDS {
            let teacher =
                Teacher { hidden: &other, head: &other, cap: None, weight: 0.6, temperature: 1.5, divergence };
            let mut live = own.clone();
            let whole = distilled(&mut live, TOKEN, &others, &teacher);
            let mut before = f64::INFINITY;
            for k in [2, 8, 20, 30] {
                let (found, gradient) = loss(&own, &top_tokens(&other, k, 1.5).unwrap(), (0.6, 1.5), divergence);
                // classes put together never diverge more
                let off = whole.loss - found.loss;
                assert!(off > -1e-6 && off <= before + 1e-6, "{divergence:?} {k}: {off}");
                before = off;
                if k == 30 {
                    assert!(off.abs() < 1e-6 && gradient.iter().zip(&live).all(|(a, b)| (a - b).abs() < 1e-6));
                }
            }
            // where the model is the teacher nothing is left to learn
            let (same, gradient) = loss(&others, &top_tokens(&other, 4, 1.0).unwrap(), (1.0, 1.0), divergence);
            assert!(same.loss.abs() < 1e-6 && gradient.iter().all(|g| g.abs() < 1e-6), "{same:?}");
        }
    }

    /// Tokens that one of the two holds for impossible, in f32 and beyond.
    #[test]
    fn what_cannot_be_said_gives_numbers() {
        let (own, others) = (vec![0.0, 200.0, -300.0, 1.0, 2.0], vec![0.0, -300.0, 200.0, 1.0, 2.0]);
        let other = Tensor::from_slice(&others, (1, others.len()), &Device::Cpu).unwrap();
        for divergence in KINDS {
            let teacher =
                Teacher { hidden: &other, head: &other, cap: None, weight: 1.0, temperature: 1.0, divergence };
            let mut live = own.clone();
            let whole = distilled(&mut live, TOKEN, &others, &teacher);
            let expected = match divergence {
                Divergence::Kl | Divergence::ReverseKl => 500.0,
                Divergence::Jsd { beta } => -beta * beta.ln() - (1.0 - beta) * (1.0 - beta).ln(),
            };
            assert!((whole.loss - expected).abs() < 1e-4, "{divergence:?}: {whole:?}");
            for k in [1, 2, 5] {
                let (found, gradient) = loss(&own, &top_tokens(&other, k, 1.0).unwrap(), (1.0, 1.0), divergence);
                assert!(found.loss.is_finite() && gradient.iter().chain(&live).all(|g| g.is_finite()));
                assert!(found.loss < expected + 1e-4, "{divergence:?} {k}: {found:?}");
            }
        }
    }
}
