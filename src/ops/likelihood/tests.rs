//! Scores against logits in f64.

use candle_core::{DType, Device};
use rand::{Rng, SeedableRng};

use super::*;
use crate::ops::testing::{as_view, numbers, random};

fn logits(hidden: &Tensor, head: &Tensor) -> Vec<Vec<f64>> {
    let (hidden, head) = (hidden.to_dtype(DType::F64).unwrap(), head.to_dtype(DType::F64).unwrap());
    hidden.matmul(&head.t().unwrap()).unwrap().to_vec2().unwrap()
}

fn candidates(seed: u64, rows: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..rows).map(|row| (0..row % 4).map(|_| rng.random_range(0..vocabulary as u32)).collect()).collect()
}

#[test]
fn caps_hold_the_logits() {
    let (rows, d, v, cap) = (20, 33, 300, 3.0);
    let (hidden, head) = ((random(1, rows, d) * 4.0).unwrap(), random(2, v, d));
    let candidates = candidates(3, rows, v);
    let found = log_likelihood_capped(&hidden, &head, &candidates, Some(cap)).unwrap();
    for ((logits, candidates), found) in logits(&hidden, &head).iter().zip(&candidates).zip(found) {
        let capped = |logit: &f64| f64::from(cap) * (logit / f64::from(cap)).tanh();
        let sum = logits.iter().map(|logit| capped(logit).exp()).sum::<f64>().ln();
        for (token, found) in candidates.iter().zip(found) {
            let expected = capped(&logits[*token as usize]) - sum;
            assert!((f64::from(found.log_likelihood) - expected).abs() < 1e-5, "{found:?} {expected}");
        }
    }
}

#[test]
fn narrow_scores_are_those_of_rounded_numbers() {
    if !crate::ops::matmul::serves_bf16() {
        return;
    }
    for (rows, d, v) in [(1, 8, 40), (20, 33, 300), (70, 450, 130)] {
        let (hidden, head) = (random(1, rows, d), random(2, v, d));
        let round = |x: &Tensor| x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        let candidates = candidates(3, rows, v);
        let expected = log_likelihood(&round(&hidden), &round(&head), &candidates).unwrap().concat();
        let wanted = by_token(&candidates);
        let narrow =
            |[hidden]: [Rows; 1]| with_dense(&head, Score { hidden, wanted: &wanted, narrow: true, cap: None });
        let found = with_rows("log_likelihood", [&hidden], narrow).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found.log_likelihood - expected.log_likelihood).abs() < 2e-5, "{found:?} {expected:?}");
            assert_eq!(found.greedy, expected.greedy);
        }
    }
}

#[test]
fn agrees_with_the_formula() {
    for (t, d, v) in [(1, 1, 1), (2, 5, 3), (16, 40, 193), (17, 600, 500), (50, 64, 97), (500, 30, 1000), (3, 8, 13000)]
    {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (hidden, head) = ((random(1, t, d) * 5.0).unwrap(), random(2, v, d).to_dtype(dtype).unwrap());
            let mut candidates = candidates(3, t, v);
            let logits = logits(&hidden, &head);
            // Every row also asks for its most likely token.
            for (candidates, logits) in candidates.iter_mut().zip(&logits) {
                let best = (0..v).fold(0, |best, token| if logits[token] > logits[best] { token } else { best });
                candidates.push(best as u32);
            }
            let scored = log_likelihood(&hidden, &head, &candidates).unwrap();
            for ((scored, candidates), logits) in scored.iter().zip(&candidates).zip(&logits) {
                assert_eq!(scored.len(), candidates.len());
                let max = logits.iter().copied().fold(f64::MIN, f64::max);
                let normalizer = max + logits.iter().map(|logit| (logit - max).exp()).sum::<f64>().ln();
                for (scored, token) in scored.iter().zip(candidates) {
                    let exact = logits[*token as usize] - normalizer;
                    let error = (f64::from(scored.log_likelihood) - exact).abs();
                    assert!(error < 2e-5 * exact.abs().max(1.0), "{} {exact}", scored.log_likelihood);
                }
                assert!(scored.last().unwrap().greedy);
            }
        }
    }
}

#[test]
fn the_smallest_id_wins_a_tie() {
    let head = Tensor::ones((1000, 4), DType::F32, &Device::Cpu).unwrap();
    let scored = log_likelihood(&random(1, 2, 4), &head, &[vec![0, 1, 999], vec![500]]).unwrap();
    assert_eq!(scored[0].iter().map(|scored| scored.greedy).collect::<Vec<_>>(), [true, false, false]);
    assert!(!scored[1][0].greedy);
    for scored in scored.iter().flatten() {
        assert!((scored.log_likelihood + 1000f32.ln()).abs() < 1e-5);
    }
}

#[test]
fn same_on_any_threads_and_from_views() {
    let (hidden, head) = (random(1, 130, 70), random(2, 3000, 70));
    let candidates = candidates(3, 130, 3000);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| log_likelihood(&hidden, &head, &candidates).unwrap())
    };
    assert_eq!(on(1), on(3));
    assert_eq!(log_likelihood(&as_view(&hidden), &as_view(&head), &candidates).unwrap(), on(2));
}

#[test]
fn not_a_number_is_not_hidden() {
    let hidden = Tensor::new(&[[f32::NAN, 1.0]], &Device::Cpu).unwrap();
    let scored = log_likelihood(&hidden, &random(1, 300, 2), &[[7]]).unwrap();
    assert!(scored[0][0].log_likelihood.is_nan());
}

#[test]
fn nothing_asked_nothing_answered() {
    let none: [Vec<u32>; 0] = [];
    let no_rows = random(1, 1, 4).narrow(0, 0, 0).unwrap();
    assert!(log_likelihood(&no_rows, &random(2, 9, 4), &none).unwrap().is_empty());
    assert_eq!(log_likelihood(&random(1, 1, 4), &random(2, 9, 4), &[vec![]]).unwrap(), [vec![]]);
    assert!(log_likelihood(&random(1, 1, 4), &random(2, 9, 4), &[[9]]).is_err());
    assert!(log_likelihood(&random(1, 2, 4), &random(2, 9, 4), &[[1]]).is_err());
    assert!(numbers(&no_rows).is_empty());
}
