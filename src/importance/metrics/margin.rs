//! How decided a model is at each depth, on questions with choices.

use super::{Evaluate, Metric, Order, Subject, Tokens};

pub(super) const MARGIN: Metric = Metric {
    name: "margin",
    about: "probability of the right choice of --tasks less that of the best other, of what final norm and head make of \
            x^(l); drops nothing",
    reference: "Decision Margin, arXiv 2605.07271",
    subject: Subject::Depth,
    tokens: Tokens::Last,
    order: Order::Highest,
    value: Evaluate::Choices(margin),
    usual: false,
};

pub(super) const ACCURACY: Metric = Metric {
    name: "lens-accuracy",
    about: "share of the questions of --tasks that final norm and head answer rightly from x^(l); drops nothing",
    reference: "logit lens, nostalgebraist 2020, on questions",
    value: Evaluate::Choices(right),
    ..MARGIN
};

/// P(gold) - max P(other), from log-likelihoods over the whole vocabulary.
fn margin(likelihoods: &[f32], gold: usize) -> f64 {
    let of = |place: usize| f64::from(likelihoods[place]).exp();
    let others = (0..likelihoods.len()).filter(|place| *place != gold).map(of);
    of(gold) - others.fold(0.0, f64::max)
}

/// 1 where the first of the likeliest is the right one.
fn right(likelihoods: &[f32], gold: usize) -> f64 {
    let better = |place: usize| likelihoods[place] > likelihoods[gold];
    let equal_before = (0..gold).any(|place| likelihoods[place] >= likelihoods[gold]);
    f64::from(u8::from(!equal_before && !(gold + 1..likelihoods.len()).any(better)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_the_answer() {
        let halves = [0.5_f32.ln(), 0.25_f32.ln(), 0.5_f32.ln()];
        assert_eq!([0, 1, 2].map(|gold| right(&halves, gold)), [1.0, 0.0, 0.0]);
        for (gold, expected) in [(0, 0.0), (1, -0.25), (2, 0.0)] {
            assert!((margin(&halves, gold) - expected).abs() < 1e-7);
        }
    }
}
