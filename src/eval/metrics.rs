//! What is measured, and how sure it is.

use super::question::Question;
use super::text::Text;

/// A figure of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Share of questions whose likeliest choice is right.
    Acc,
    /// The same with log-likelihoods divided by the choices' lengths in characters.
    AccNorm,
    /// exp of nats a word of the original text.
    WordPerplexity,
    /// exp of nats a byte of the original text.
    BytePerplexity,
    /// Bits a byte of the original text.
    BitsPerByte,
    /// Mean nats a token of the text.
    Loss,
    /// [`Metric::Loss`] divided by the logarithm of the vocabulary size: guessing is 1 (arXiv 2403.17887, figure 3).
    LossPerLogVocab,
}

impl Metric {
    /// Name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::BitsPerByte => "bits_per_byte",
            Self::Loss => "loss",
            Self::LossPerLogVocab => "loss_per_log_vocab",
        }
    }

    /// The metric of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        const ALL: [Metric; 7] = [
            Metric::Acc,
            Metric::AccNorm,
            Metric::WordPerplexity,
            Metric::BytePerplexity,
            Metric::BitsPerByte,
            Metric::Loss,
            Metric::LossPerLogVocab,
        ];
        ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Whether more is better.
    #[must_use]
    pub fn higher_is_better(self) -> bool {
        matches!(self, Self::Acc | Self::AccNorm)
    }
}

/// A log-likelihood in nats, and whether every token of it was the likeliest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// Natural logarithm of the probability.
    pub log_likelihood: f32,
    /// Whether greedy decoding would have said the same.
    pub greedy: bool,
}

/// What came out for one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A question: each choice's answer, and which choices are taken with and without the lengths.
    Choice {
        /// One a choice.
        answers: Vec<Answer>,
        /// Whether the likeliest choice is right.
        right: bool,
        /// Whether the likeliest choice for its length is right.
        right_for_length: bool,
        /// Places of the likeliest choice, and of the likeliest for its length.
        chosen: [Option<usize>; 2],
    },
    /// A text.
    Text {
        /// Sum over all predicted tokens.
        log_likelihood: f64,
        /// Sum over the text's own tokens, without a leading special one.
        own: f64,
        /// How many those are.
        tokens: usize,
        /// Words of the original.
        words: usize,
        /// Bytes of the original.
        bytes: usize,
    },
}

impl Outcome {
    /// Picks the likeliest choice; the first one wins a tie.
    #[must_use]
    pub fn choice(question: &Question, answers: Vec<Answer>) -> Self {
        let plain: Vec<f64> = answers.iter().map(|answer| f64::from(answer.log_likelihood)).collect();
        let by_length: Vec<f64> = plain.iter().zip(&question.lengths).map(|(ll, len)| ll / *len as f64).collect();
        let chosen = [first_greatest(&plain), first_greatest(&by_length)];
        let [right, right_for_length] = chosen.map(|chosen| chosen == Some(question.gold));
        Self::Choice { answers, right, right_for_length, chosen }
    }

    /// Sums up a text's windows; `own` leaves out a special token in front.
    #[must_use]
    pub fn text(text: &Text, log_likelihood: f64, own: f64, tokens: usize) -> Self {
        Self::Text { log_likelihood, own, tokens, words: text.words, bytes: text.bytes }
    }

    /// Place of the choice that `metric` judges.
    #[must_use]
    pub fn chosen(&self, metric: Metric) -> Option<usize> {
        match (self, metric) {
            (Self::Choice { chosen, .. }, Metric::Acc) => chosen[0],
            (Self::Choice { chosen, .. }, Metric::AccNorm) => chosen[1],
            _ => None,
        }
    }

    /// Numerator and denominator of `metric` for this document: right or wrong out of one question, or a
    /// log-likelihood and what it is divided by.
    #[must_use]
    pub fn parts(&self, metric: Metric) -> (f64, f64) {
        match (self, metric) {
            (Self::Choice { right, .. }, Metric::Acc) => (f64::from(u8::from(*right)), 1.0),
            (Self::Choice { right_for_length, .. }, Metric::AccNorm) => (f64::from(u8::from(*right_for_length)), 1.0),
            (Self::Text { log_likelihood, words, .. }, Metric::WordPerplexity) => (*log_likelihood, *words as f64),
            (Self::Text { log_likelihood, bytes, .. }, Metric::BytePerplexity | Metric::BitsPerByte) => {
                (*log_likelihood, *bytes as f64)
            }
            (Self::Text { own, tokens, .. }, Metric::Loss | Metric::LossPerLogVocab) => (*own, *tokens as f64),
            (Self::Choice { .. } | Self::Text { .. }, _) => (f64::NAN, f64::NAN),
        }
    }
}

/// Share of the commonest among the choices; nothing where there are none.
#[must_use]
pub fn majority(chosen: impl Iterator<Item = usize>) -> Option<f64> {
    let mut counts: Vec<usize> = Vec::new();
    for choice in chosen {
        counts.resize(counts.len().max(choice + 1), 0);
        counts[choice] += 1;
    }
    let most = counts.iter().max()?;
    Some(*most as f64 / counts.iter().sum::<usize>() as f64)
}

/// numpy's argmax: the first of the greatest.
pub(super) fn first_greatest(values: &[f64]) -> Option<usize> {
    let mut best = None;
    for (index, value) in values.iter().enumerate() {
        if best.is_none_or(|best: usize| *value > values[best]) {
            best = Some(index);
        }
    }
    best
}

/// A figure and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// What.
    pub metric: Metric,
    /// How much.
    pub value: f64,
    /// Standard error; the reference has none for perplexities, nor for a single document.
    pub stderr: Option<f64>,
}

/// The figure of `metric` over documents, given each one's [`Outcome::parts`]. `vocabulary` is the number of tokens
/// the model knows.
#[must_use]
pub fn figure(metric: Metric, parts: &[(f64, f64)], vocabulary: usize) -> Figure {
    let n = parts.len() as f64;
    let (top, bottom) = parts.iter().fold((0.0, 0.0), |(top, bottom), part| (top + part.0, bottom + part.1));
    let ratio = top / bottom;
    // spread of a ratio of sums over documents; for questions, whose denominators are 1, the sample deviation
    let spread = || {
        let squares: f64 = parts.iter().map(|(top, bottom)| (top - ratio * bottom).powi(2)).sum();
        (parts.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt() / (bottom / n))
    };
    let (value, stderr) = match metric {
        Metric::Acc | Metric::AccNorm => (ratio, spread()),
        Metric::WordPerplexity | Metric::BytePerplexity => ((-ratio).exp(), None),
        Metric::BitsPerByte => (-ratio / std::f64::consts::LN_2, None),
        Metric::Loss => (-ratio, spread()),
        Metric::LossPerLogVocab => {
            let scale = (vocabulary as f64).ln();
            (-ratio / scale, spread().map(|stderr| stderr / scale))
        }
    };
    Figure { metric, value, stderr }
}

/// Mean of members' means weighted by their sizes, with the pooled standard error: the reference's group figure.
/// Members are value, standard error and size.
#[must_use]
pub fn pooled(metric: Metric, members: &[(f64, Option<f64>, usize)]) -> Figure {
    let total: usize = members.iter().map(|(_, _, size)| size).sum();
    let sum: f64 = members.iter().map(|(value, _, size)| value * *size as f64).sum();
    let variance = members.iter().try_fold(0.0, |sum, (_, stderr, size)| {
        let size = *size as f64;
        stderr.map(|stderr| sum + (size - 1.0) * stderr.powi(2) * size)
    });
    let stderr = variance.map(|sum| (sum / (total - members.len()) as f64 / total as f64).sqrt());
    Figure { metric, value: sum / total as f64, stderr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_choices_wins() {
        assert_eq!(first_greatest(&[-2.0, -1.0, -1.0]), Some(1));
        assert_eq!(first_greatest(&[]), None);
        assert_eq!((majority([3, 0, 3, 3].into_iter()), majority([].into_iter())), (Some(0.75), None));
    }

    #[test]
    fn accuracy_and_its_error() {
        let figure = figure(Metric::Acc, &[(1.0, 1.0), (0.0, 1.0), (0.0, 1.0)], 10);
        assert_eq!(figure.value, 1.0 / 3.0);
        assert_eq!(figure.stderr, Some(0.333_333_333_333_333_37));
        assert_eq!(super::figure(Metric::Acc, &[(1.0, 1.0)], 10).stderr, None);
    }

    #[test]
    fn perplexities() {
        let parts = [(-224.200_439_453_125, 14.0), (-100.0, 6.0)];
        let close = |metric, expected: f64| {
            let figure = figure(metric, &parts, 32000);
            assert!((figure.value / expected - 1.0).abs() < 1e-12, "{figure:?}");
            figure.stderr
        };
        assert_eq!(close(Metric::WordPerplexity, (324.200_439_453_125_f64 / 20.0).exp()), None);
        assert_eq!(close(Metric::BitsPerByte, 324.200_439_453_125 / 20.0 / 2f64.ln()), None);
        // ratio estimator, by hand: residuals are opposite
        let residual: f64 = 224.200_439_453_125 - 14.0 * 324.200_439_453_125 / 20.0;
        let expected = (2.0 * residual * residual).sqrt() / 2f64.sqrt() / 10.0;
        assert!((close(Metric::Loss, 324.200_439_453_125 / 20.0).unwrap() / expected - 1.0).abs() < 1e-12);
        close(Metric::LossPerLogVocab, 324.200_439_453_125 / 20.0 / 32000f64.ln());
    }

    #[test]
    fn groups_pool() {
        let third = 1.0 / 3.0;
        let members = [
            (third, Some(0.333_333_333_333_333_37), 3),
            (0.0, Some(0.0), 3),
            (third, Some(0.333_333_333_333_333_37), 3),
        ];
        let figure = pooled(Metric::Acc, &members);
        assert!((figure.value - 0.222_222_222_222_222_2).abs() < 1e-15);
        assert!((figure.stderr.unwrap() - 0.157_134_840_263_677_24).abs() < 1e-15);
        assert_eq!(pooled(Metric::Acc, &[(1.0, None, 1), (0.0, Some(0.0), 3)]).stderr, None);
    }
}
