//! Distances between the logits of the whole model and those without some layers, over all positions.

use super::{Evaluate, Metric, Order, Subject, Tokens};

/// The logits `[v]` of one token in the whole model and without some layers.
#[derive(Clone, Copy, Debug)]
pub struct TokenLogits<'a> {
    whole: &'a [f32],
    cut: &'a [f32],
    /// Logarithms of the sums of exponentials.
    partitions: (f64, f64),
}

impl<'a> TokenLogits<'a> {
    /// Of the whole model, and without some layers.
    #[must_use]
    pub fn new(whole: &'a [f32], cut: &'a [f32]) -> Self {
        Self { whole, cut, partitions: (partition(whole), partition(cut)) }
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.whole.iter().zip(self.cut).map(|(a, b)| (f64::from(*a), f64::from(*b)))
    }

    /// Sums a function of ln p and ln q over the vocabulary.
    fn sum(&self, value: impl Fn(f64, f64) -> f64) -> f64 {
        self.pairs().map(|(a, b)| value(a - self.partitions.0, b - self.partitions.1)).sum()
    }
}

/// ln Σ exp(z).
fn partition(logits: &[f32]) -> f64 {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    largest + logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum::<f64>().ln()
}

/// A distance, from tokens to sequences; the metric is the mean over tokens or over sequences.
#[derive(Clone, Copy, Debug)]
pub struct LogitDistance {
    /// Of a token.
    pub of_token: fn(&TokenLogits<'_>) -> f64,
    /// From the sum over the tokens of a sequence, and their number, to its value and how much it weighs.
    pub of_sequence: fn(f64, usize) -> (f64, usize),
    /// Whether the last token counts, which predicts nothing that is known.
    pub last: bool,
}

/// A mean over all tokens.
const fn of_tokens(of_token: fn(&TokenLogits<'_>) -> f64) -> Evaluate {
    Evaluate::Logits(LogitDistance { of_token, of_sequence: over_tokens, last: true })
}

fn over_tokens(sum: f64, tokens: usize) -> (f64, usize) {
    (sum, tokens)
}

/// ln of the mean of two numbers given by their logarithms, which are at most 0.
fn ln_mean(a: f64, b: f64) -> f64 {
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    large + ((small - large).exp() / 2.0 + 0.5).ln()
}

fn js(logits: &TokenLogits<'_>) -> f64 {
    let term = |own: f64, mean: f64| own.exp() * (own - mean);
    let terms = |p: f64, q: f64| {
        let mean = ln_mean(p, q);
        term(p, mean) + term(q, mean)
    };
    0.5 * logits.sum(terms)
}

fn js_reversed(logits: &TokenLogits<'_>) -> f64 {
    0.5 * logits.sum(|p, q| {
        let mean = ln_mean(p, q);
        mean.exp() * (2.0 * mean - p - q)
    })
}

fn kl(logits: &TokenLogits<'_>) -> f64 {
    logits.sum(|p, q| p.exp() * (p - q))
}

fn angular(logits: &TokenLogits<'_>) -> f64 {
    let (mut product, mut whole, mut cut) = (0.0, 0.0, 0.0);
    for (a, b) in logits.pairs() {
        (product, whole, cut) = (product + a * b, whole + a * a, cut + b * b);
    }
    let scale = (whole * cut).sqrt();
    let cosine = if scale > 0.0 { product / scale } else { f64::from(u8::from(whole == cut)) };
    cosine.clamp(0.0, 1.0).acos()
}

fn square(logits: &TokenLogits<'_>) -> f64 {
    logits.pairs().map(|(a, b)| (a - b) * (a - b)).sum()
}

pub(super) const JS: Metric = Metric {
    name: "js",
    about: "Jensen-Shannon divergence of the predictions with and without the layer, nats; drops single layers",
    reference: "FinerCut, arXiv 2405.18218, as its paper names it",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: of_tokens(js),
    usual: false,
};

pub(super) const JS_REVERSED: Metric = Metric {
    name: "js-reversed",
    about: "the same with the mean and the predictions the other way round, as FinerCut's code computes it",
    reference: "FinerCut, arXiv 2405.18218, as its code computes it",
    value: of_tokens(js_reversed),
    ..JS
};

pub(super) const JS_OF_SUBLAYERS: Metric = Metric {
    name: "sublayer-js",
    about: "Jensen-Shannon divergence of the predictions with and without one attention or MLP alone, nats",
    subject: Subject::SubLayer,
    ..JS
};

pub(super) const JS_REVERSED_OF_SUBLAYERS: Metric = Metric {
    name: "sublayer-js-reversed",
    about: "the same with the mean and the predictions the other way round, as FinerCut's code computes it",
    subject: Subject::SubLayer,
    ..JS_REVERSED
};

pub(super) const KL: Metric = Metric {
    name: "kl",
    about: "divergence KL(whole ‖ without the layer) of the predictions, nats; drops single layers",
    reference: "FinerCut, arXiv 2405.18218",
    value: of_tokens(kl),
    ..JS
};

pub(super) const ANGULAR: Metric = Metric {
    name: "logit-angular",
    about: "angle between the logits with and without the layer, radians; drops single layers",
    reference: "FinerCut, arXiv 2405.18218",
    value: of_tokens(angular),
    ..JS
};

pub(super) const NORM: Metric = Metric {
    name: "logit-norm",
    about: "norm of the difference of all logits of a sequence with and without the layer; drops single layers",
    reference: "FinerCut, arXiv 2405.18218",
    value: Evaluate::Logits(LogitDistance { of_token: square, of_sequence: |sum, _| (sum.sqrt(), 1), last: true }),
    ..JS
};

pub(super) const NORM_OF_TOKENS: Metric = Metric {
    name: "token-logit-norm",
    about: "norm of the difference of a token's logits with and without the layer; drops single layers",
    reference: "Siddiqui et al., A deeper look at depth pruning, arXiv 2407.16286",
    value: Evaluate::Logits(LogitDistance {
        of_token: |logits| square(logits).sqrt(),
        of_sequence: over_tokens,
        last: false,
    }),
    ..JS
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_of_known_distributions() {
        let logits = |p: &[f64]| -> Vec<f32> { p.iter().map(|p| p.ln() as f32).collect() };
        let (p, q) = (logits(&[0.5, 0.25, 0.25]), logits(&[0.25, 0.25, 0.5]));
        let both = TokenLogits::new(&p, &q);
        assert!((kl(&both) - 0.25 * 2f64.ln()).abs() < 1e-6);
        let m = 0.375f64;
        let expected = 0.5 * (0.5 * (0.5 / m).ln() + 0.25 * (0.25 / m).ln()) * 2.0;
        assert!((js(&both) - expected).abs() < 1e-6);
        let expected = m * (m / 0.5).ln() + m * (m / 0.25).ln();
        assert!((js_reversed(&both) - expected).abs() < 1e-6);
        for distance in [js, js_reversed, kl, angular, square] {
            assert!(distance(&TokenLogits::new(&p, &p)).abs() < 1e-7);
        }
        // one prediction is certain, the other of another token: nothing is infinite
        let far = TokenLogits::new(&[0.0, 1e4], &[1e4, 0.0]);
        assert!((js(&far) - 2f64.ln()).abs() < 1e-12 && js_reversed(&far).is_finite());
    }
}
