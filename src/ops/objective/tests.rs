//! Losses and gradients against candle's autograd and finite differences.

use candle_core::{D, Var};

use super::*;
use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, random};
use crate::reference;

fn log_softmax(logits: &Tensor) -> Tensor {
    candle_nn::ops::log_softmax(logits, D::Minus1).unwrap()
}

/// Loss and gradients by candle's autograd in f64.
fn formula(
    [hidden, head, other, other_head]: [&Tensor; 4],
    targets: &[Option<u32>],
    (weight, temperature): (f64, f64),
) -> (f64, Tensor, Tensor) {
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap();
    let (hidden, head) = (Var::from_tensor(&wide(hidden)).unwrap(), Var::from_tensor(&wide(head)).unwrap());
    let logits = hidden.matmul(&head.t().unwrap()).unwrap();
    let others = wide(other).matmul(&wide(other_head).t().unwrap()).unwrap();
    let soft_p = log_softmax(&(&logits / temperature).unwrap());
    let soft_q = log_softmax(&(others / temperature).unwrap());
    let divergence = (soft_q.exp().unwrap() * (&soft_q - soft_p).unwrap()).unwrap();
    let mut sum = (reference::cross_entropy(&hidden, &head, targets).unwrap() * (1.0 - weight)).unwrap();
    for (row, _) in targets.iter().enumerate().filter(|(_, token)| token.is_some()) {
        let soft = divergence.get(row).unwrap().sum_all().unwrap();
        sum = (sum + (soft * (weight * temperature * temperature)).unwrap()).unwrap();
    }
    let grads = sum.backward().unwrap();
    (sum.to_scalar().unwrap(), grads.get(&hidden).unwrap().clone(), grads.get(&head).unwrap().clone())
}

#[test]
fn agrees_with_the_formula() {
    for (t, d, v, other_d) in [(1, 3, 5, 4), (40, 16, 130, 24), (600, 8, 37, 8)] {
        let targets: Vec<Option<u32>> = (0..t).map(|row| (row % 5 != 3).then_some((row * 31 % v) as u32)).collect();
        let (hidden, head) = ((random(1, t, d) * 3.0).unwrap(), random(2, v, d));
        let (other, other_head) = ((random(3, t, other_d) * 3.0).unwrap(), random(4, v, other_d));
        for (weight, temperature) in [(0.0, 1.0), (0.5, 1.0), (0.3, 2.0), (1.0, 4.0)] {
            let divergence = Divergence::Kl;
            let teacher = Teacher { hidden: &other, head: &other_head, cap: None, weight, temperature, divergence };
            let found = objective(&hidden, &head, &targets, Some(Tutor::Live(teacher)), true).unwrap();
            let inputs = [&hidden, &head, &other, &other_head];
            let (loss, dhidden, dhead) = formula(inputs, &targets, (weight, temperature));
            assert!((found.loss - loss).abs() < 1e-5 * loss.abs().max(1.0), "{} {loss}", found.loss);
            assert_close("hidden", &found.hidden, &dhidden.to_dtype(DType::F32).unwrap(), 2e-5);
            assert_close("head", &found.head.unwrap(), &dhead.to_dtype(DType::F32).unwrap(), 2e-5);
            let plain = objective(&hidden, &head, &targets, None, false).unwrap();
            assert!((plain.loss - found.cross_entropy).abs() < 1e-9 && plain.head.is_none());
            if weight == 0.0 {
                assert_close("plain", &plain.hidden, &found.hidden, 1e-6);
            }
        }
    }
}

/// A cap of the logits, with and without a teacher that has one: loss and slope along the gradient.
#[test]
fn capped_logits_have_their_gradients() {
    let (t, d, v, cap) = (12, 8, 40, 4.0);
    let targets: Vec<Option<u32>> = (0..t).map(|row| (row % 4 != 3).then_some((row * 31 % v) as u32)).collect();
    let (hidden, head) = ((random(1, t, d) * 4.0).unwrap(), random(2, v, d));
    let (other, other_head) = ((random(3, t, d) * 4.0).unwrap(), random(4, v, d));
    let (weight, temperature, divergence) = (0.6, 1.5, Divergence::Kl);
    let teacher = Teacher { hidden: &other, head: &other_head, cap: Some(2.0), weight, temperature, divergence };
    for tutor in [None, Some(Tutor::Live(teacher))] {
        let of =
            |hidden: &Tensor, head: &Tensor| objective_capped(hidden, head, Some(cap), &targets, tutor, true).unwrap();
        let found = of(&hidden, &head);
        if tutor.is_none() {
            let logits = crate::ops::soft_cap(&hidden.matmul(&head.t().unwrap()).unwrap(), cap).unwrap();
            let rows = log_softmax(&logits).to_vec2::<f32>().unwrap();
            let expected: f32 =
                targets.iter().zip(rows).filter_map(|(target, row)| Some(-row[(*target)? as usize])).sum();
            assert!((found.loss - f64::from(expected)).abs() < 1e-4, "{} {expected}", found.loss);
        }
        let slope = |x: &Tensor, gradient: &Tensor, of: &dyn Fn(&Tensor) -> f64| {
            let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let along = (gradient / f64::from(norm)).unwrap();
            let at = |step: f64| of(&(x + (&along * step).unwrap()).unwrap());
            ((at(0.01) - at(-0.01)) / 0.02, f64::from(norm))
        };
        for (found, expected) in [
            slope(&hidden, &found.hidden, &|hidden| of(hidden, &head).loss),
            slope(&head, found.head.as_ref().unwrap(), &|head| of(&hidden, head).loss),
        ] {
            assert!((found - expected).abs() < 1e-3 * expected, "{found} {expected}");
        }
    }
}

#[test]
fn narrow_heads_views_and_absent_targets() {
    let (hidden, head) = (random(1, 20, 24), random(2, 50, 24).to_dtype(DType::BF16).unwrap());
    let of = |hidden: &Tensor, head: &Tensor, targets: &[_]| objective(hidden, head, targets, None, true).unwrap();
    let wide = of(&hidden, &head.to_dtype(DType::F32).unwrap(), &[Some(7); 20]);
    let narrow = of(&as_view(&hidden), &as_view(&head), &[Some(7); 20]);
    assert_eq!(narrow.loss, wide.loss);
    assert_close("hidden", &narrow.hidden, &wide.hidden, 0.0);
    assert_close("head", &narrow.head.unwrap(), &wide.head.unwrap(), 0.0);
    let none = of(&hidden, &head, &[None; 20]);
    assert_eq!(none.loss, 0.0);
    assert_close("hidden", &none.hidden, &hidden.zeros_like().unwrap(), 0.0);
}

#[test]
fn faults_and_threads() {
    let (hidden, head, narrow) = (random(1, 90, 20), random(2, 300, 20), random(3, 299, 20));
    let targets = vec![Some(7); 90];
    assert!(objective(&hidden, &head, &targets[..9], None, false).is_err());
    assert!(objective(&hidden, &head, &[Some(300); 90], None, false).is_err());
    let divergence = Divergence::Jsd { beta: 0.4 };
    let (hidden_of, weight, temperature) = (&hidden, 0.5, 2.0);
    let teacher =
        |head| Some(Tutor::Live(Teacher { hidden: hidden_of, head, cap: None, weight, temperature, divergence }));
    assert!(objective(&hidden, &head, &targets, teacher(&narrow), false).is_err());
    assert_same_on_any_threads(|| {
        let found = objective(&hidden, &head, &targets, teacher(&head), true).unwrap();
        let loss = Tensor::new(found.loss, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        vec![loss, found.hidden, found.head.unwrap()]
    });
}
