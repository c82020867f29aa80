//! What is measured, and how sure it is. A metric is a row here, and nothing elsewhere.

use std::f64::consts::LN_2;
use std::fmt;

use super::classes::{correlation, f1, f1_of_three};
use super::request::{FinishReason, Written};

/// What a metric takes from a document.
#[derive(Clone, Copy, Debug)]
pub enum Takes {
    /// Of a question: what of a choice's log-likelihood and its length in characters decides.
    Choice(fn(f64, usize) -> f64),
    /// Of a text: numerator and denominator.
    Text(fn(&TextSums) -> (f64, f64)),
    /// Of a question: the right choice and the likeliest one, as classes.
    Class,
    /// Of a continuation: what of its log-likelihood, and of whether greedy decoding says it, is summed.
    Continuation(fn(f64, bool) -> f64),
    /// What the task makes of the generated text, 1 at best.
    Generated,
    /// Of an answer in the model's own words: how it was written.
    Written(fn(&Written) -> f64),
    /// Of programs that were run: whether one of so many passes.
    Passed(usize),
}

/// What the windows of a text add up to.
#[derive(Clone, Copy, Debug)]
pub struct TextSums {
    /// Nats of all predicted tokens.
    pub log_likelihood: f64,
    /// Nats of the text's own tokens.
    pub own: f64,
    /// How many those are.
    pub tokens: usize,
    /// Words of the original.
    pub words: usize,
    /// Bytes of the original.
    pub bytes: usize,
}

/// From what was taken of all documents to a figure.
type OverAll = fn(&[(f64, f64)]) -> f64;

/// A metric: its name, what it takes from a document, how a task's documents add up. Two are equal by name.
#[derive(Clone, Copy)]
pub struct TaskMetric {
    /// Name in results.
    pub name: &'static str,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// What it takes from a document.
    pub takes: Takes,
    /// From the ratio of all numerators to all denominators, and the size of the vocabulary, to the figure.
    aggregate: fn(f64, usize) -> f64,
    /// From what was taken of all documents to the figure, where no ratio says it.
    whole: Option<OverAll>,
    /// From the ratio's standard error to the figure's; none where the reference has none.
    stderr: Option<fn(f64, usize) -> f64>,
    /// What a difference of ratios is multiplied by where two runs are compared; none where another metric says it.
    pub(super) compared: Option<f64>,
    /// Where results say which share of the questions got the commonest answer.
    pub(super) majority_key: Option<&'static str>,
}

impl TaskMetric {
    /// Share of questions whose likeliest choice is right.
    pub const ACC: Self = Self {
        name: "acc",
        takes: Takes::Choice(|log_likelihood, _| log_likelihood),
        majority_key: Some("majority_answer,none"),
        ..Self::MEAN
    };

    /// The same with log-likelihoods divided by the choices' lengths in characters.
    pub const ACC_NORM: Self = Self {
        name: "acc_norm",
        takes: Takes::Choice(|log_likelihood, length| log_likelihood / length as f64),
        majority_key: Some("majority_answer_norm,none"),
        ..Self::MEAN
    };

    /// The same with log-likelihoods divided by the choices' lengths in bytes.
    pub const ACC_BYTES: Self = Self { name: "acc_bytes", ..Self::MEAN };

    /// F1 of the second of two classes.
    pub const F1_OF_TWO: Self = Self { whole: Some(|pairs| f1(pairs, 1.0)), ..Self::F1_OF_THREE };

    /// Correlation of the right classes and the likeliest ones (Matthews).
    pub const MCC: Self = Self { name: "mcc", whole: Some(correlation), ..Self::F1_OF_THREE };

    /// Share of continuations that greedy decoding says.
    pub const ACC_GREEDY: Self =
        Self { name: "acc", takes: Takes::Continuation(|_, greedy| f64::from(u8::from(greedy))), ..Self::MEAN };

    /// exp of the mean nats of a continuation.
    pub const PERPLEXITY: Self = Self {
        name: "perplexity",
        takes: Takes::Continuation(|log_likelihood, _| log_likelihood),
        aggregate: |ratio, _| (-ratio).exp(),
        ..Self::OF_TEXT
    };

    /// Mean of the F1 of three classes.
    pub const F1_OF_THREE: Self =
        Self { name: "f1", takes: Takes::Class, whole: Some(f1_of_three), stderr: None, compared: None, ..Self::MEAN };

    /// Share of generated answers that are the right one.
    pub const EXACT_MATCH: Self = Self { name: "exact_match", ..Self::MEAN };

    /// Share of questions whose program passes its tests.
    pub const PASS_AT_1: Self = Self { name: "pass_at_1", takes: Takes::Passed(1), ..Self::MEAN };

    /// Share of questions one of whose programs, `k` of them, passes its tests.
    pub(super) fn pass_at(k: usize, name: &'static str) -> Self {
        Self { name, takes: Takes::Passed(k), ..Self::MEAN }
    }

    /// Share of prompts all of whose instructions are followed.
    pub const PROMPT_STRICT: Self = Self { name: "prompt_level_strict_acc", ..Self::MEAN };

    /// Share of instructions that are followed.
    pub const INST_STRICT: Self = Self { name: "inst_level_strict_acc", stderr: None, ..Self::MEAN };

    /// The same where a frame around the answer is no fault.
    pub const PROMPT_LOOSE: Self = Self { name: "prompt_level_loose_acc", ..Self::MEAN };

    /// The same by instruction.
    pub const INST_LOOSE: Self = Self { name: "inst_level_loose_acc", stderr: None, ..Self::MEAN };

    /// Share of instructions that are not checked.
    pub const INST_UNCHECKED: Self =
        Self { name: "inst_level_unchecked", higher_is_better: false, stderr: None, compared: None, ..Self::MEAN };

    /// Share of generated answers that end in saying the same again and again.
    pub const REPEATED_SUFFIX: Self = Self {
        name: "repeated_suffix",
        takes: Takes::Written(|written| f64::from(u8::from(written.repeated_suffix))),
        higher_is_better: false,
        ..Self::MEAN
    };

    /// Share of generated answers that have as many tokens as they may have.
    pub const CUT_AT_LIMIT: Self = Self {
        name: "cut_at_limit",
        takes: Takes::Written(|written| f64::from(u8::from(written.finish_reason == FinishReason::Length))),
        higher_is_better: false,
        ..Self::MEAN
    };

    /// Mean number of tokens of a generated answer.
    pub const GENERATED_TOKENS: Self = Self {
        name: "generated_tokens",
        takes: Takes::Written(|written| written.tokens as f64),
        higher_is_better: false,
        compared: None,
        ..Self::MEAN
    };

    /// What is said of all generated answers: a model that ranks well may not be able to write any more.
    pub const WRITTEN: &'static [Self] = &[Self::REPEATED_SUFFIX, Self::CUT_AT_LIMIT, Self::GENERATED_TOKENS];

    /// exp of nats a word of the original text.
    pub const WORD_PERPLEXITY: Self = Self {
        name: "word_perplexity",
        takes: Takes::Text(|text| (text.log_likelihood, text.words as f64)),
        aggregate: |ratio, _| (-ratio).exp(),
        ..Self::OF_TEXT
    };

    /// exp of nats a byte of the original text.
    pub const BYTE_PERPLEXITY: Self = Self {
        name: "byte_perplexity",
        takes: Takes::Text(|text| (text.log_likelihood, text.bytes as f64)),
        aggregate: |ratio, _| (-ratio).exp(),
        ..Self::OF_TEXT
    };

    /// Bits a byte of the original text.
    pub const BITS_PER_BYTE: Self = Self {
        name: "bits_per_byte",
        takes: Takes::Text(|text| (text.log_likelihood, text.bytes as f64)),
        aggregate: |ratio, _| -ratio / LN_2,
        compared: Some(-1.0 / LN_2),
        ..Self::OF_TEXT
    };

    /// Mean nats a token of the text.
    pub const LOSS: Self =
        Self { name: "loss", stderr: Some(|stderr, _| stderr), compared: Some(-1.0), ..Self::OF_TEXT };

    /// [`TaskMetric::LOSS`] divided by the logarithm of the vocabulary size: guessing is 1 (arXiv 2403.17887, figure
    /// 3).
    pub const LOSS_PER_LOG_VOCAB: Self = Self {
        name: "loss_per_log_vocab",
        aggregate: |ratio, vocabulary| -ratio / (vocabulary as f64).ln(),
        stderr: Some(|stderr, vocabulary| stderr / (vocabulary as f64).ln()),
        ..Self::OF_TEXT
    };

    /// Every metric, one of each name.
    pub const ALL: &[Self] = &[
        Self::ACC,
        Self::ACC_NORM,
        Self::ACC_BYTES,
        Self::EXACT_MATCH,
        Self::PASS_AT_1,
        Self::F1_OF_THREE,
        Self::MCC,
        Self::PROMPT_STRICT,
        Self::INST_STRICT,
        Self::PROMPT_LOOSE,
        Self::INST_LOOSE,
        Self::INST_UNCHECKED,
        Self::REPEATED_SUFFIX,
        Self::CUT_AT_LIMIT,
        Self::GENERATED_TOKENS,
        Self::PERPLEXITY,
        Self::WORD_PERPLEXITY,
        Self::BYTE_PERPLEXITY,
        Self::BITS_PER_BYTE,
        Self::LOSS,
        Self::LOSS_PER_LOG_VOCAB,
    ];

    /// A mean over documents, the more the better: also what the metrics of other programs are taken for.
    pub(super) const MEAN: Self = Self {
        name: "",
        higher_is_better: true,
        takes: Takes::Generated,
        aggregate: |ratio, _| ratio,
        whole: None,
        stderr: Some(|stderr, _| stderr),
        compared: Some(1.0),
        majority_key: None,
    };

    /// Nats a token, the fewer the better.
    const OF_TEXT: Self = Self {
        name: "",
        higher_is_better: false,
        takes: Takes::Text(|text| (text.own, text.tokens as f64)),
        aggregate: |ratio, _| -ratio,
        whole: None,
        stderr: None,
        compared: None,
        majority_key: None,
    };

    /// The metric of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.name == name)
    }
}

impl PartialEq for TaskMetric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for TaskMetric {}

impl fmt::Debug for TaskMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A figure and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskFigure {
    /// What.
    pub metric: TaskMetric,
    /// Of which part of the answers: `none` for all of them.
    pub filter: &'static str,
    /// How much.
    pub value: f64,
    /// Standard error; the reference has none for perplexities, nor for a single document.
    pub stderr: Option<f64>,
}

impl TaskFigure {
    /// Name in tables: the metric's, and the filter's where there is one.
    #[must_use]
    pub fn name(&self) -> String {
        if self.filter == NO_FILTER { self.metric.name.to_owned() } else { self.key("") }
    }

    /// Its key in results, or that of a companion: `acc_stderr,none` for `_stderr`.
    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}{suffix},{}", self.metric.name, self.filter)
    }
}

/// The reference's name for answers as they are.
pub const NO_FILTER: &str = "none";

/// The figure of `metric` over documents, given numerator and denominator of each one. `vocabulary` is the number of
/// tokens the model knows.
#[must_use]
pub fn figure(metric: TaskMetric, filter: &'static str, parts: &[(f64, f64)], vocabulary: usize) -> TaskFigure {
    let (ratio, spread) = ratio(parts);
    let stderr = metric.stderr.and_then(|stderr| Some(stderr(spread?, vocabulary)));
    let value = metric.whole.map_or_else(|| (metric.aggregate)(ratio, vocabulary), |whole| whole(parts));
    TaskFigure { metric, filter, value, stderr }
}

/// The ratio of sums over documents, and its standard error: for questions, whose denominators are 1, a mean and its.
pub(super) fn ratio(parts: &[(f64, f64)]) -> (f64, Option<f64>) {
    let n = parts.len() as f64;
    let (top, bottom) = parts.iter().fold((0.0, 0.0), |(top, bottom), part| (top + part.0, bottom + part.1));
    let ratio = top / bottom;
    let squares = || parts.iter().map(|(top, bottom)| (top - ratio * bottom).powi(2)).sum::<f64>();
    (ratio, (parts.len() > 1).then(|| (squares() / (n - 1.0)).sqrt() / n.sqrt() / (bottom / n)))
}

/// Mean of members' means weighted by their sizes, with the pooled standard error, or else with each as one: the
/// reference's group figure. Members are value, standard error and size.
#[must_use]
pub fn pooled(
    (metric, filter): (TaskMetric, &'static str),
    members: &[(f64, Option<f64>, usize)],
    by_size: bool,
) -> TaskFigure {
    let total: usize = members.iter().map(|(_, _, size)| if by_size { *size } else { 1 }).sum();
    let weight = |size: usize| if by_size { size as f64 } else { 1.0 };
    let sum: f64 = members.iter().map(|(value, _, size)| value * weight(*size)).sum();
    let squares = members.iter().try_fold(0.0, |sum, (_, stderr, size)| {
        let size = *size as f64;
        stderr.map(|stderr| sum + stderr.powi(2) * if by_size { (size - 1.0) * size } else { 1.0 })
    });
    let stderr = squares.map(|sum| match by_size {
        true => (sum / (total - members.len()) as f64 / total as f64).sqrt(),
        false => sum.sqrt() / total as f64,
    });
    TaskFigure { metric, filter, value: sum / total as f64, stderr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_and_its_error() {
        let figure = figure(TaskMetric::ACC, NO_FILTER, &[(1.0, 1.0), (0.0, 1.0), (0.0, 1.0)], 10);
        assert_eq!(figure.value, 1.0 / 3.0);
        assert_eq!(figure.stderr, Some(0.333_333_333_333_333_37));
        assert_eq!(super::figure(TaskMetric::ACC, NO_FILTER, &[(1.0, 1.0)], 10).stderr, None);
    }

    #[test]
    fn perplexities() {
        let parts = [(-224.200_439_453_125, 14.0), (-100.0, 6.0)];
        let close = |metric, expected: f64| {
            let figure = figure(metric, NO_FILTER, &parts, 32000);
            assert!((figure.value / expected - 1.0).abs() < 1e-12, "{figure:?}");
            figure.stderr
        };
        assert_eq!(close(TaskMetric::WORD_PERPLEXITY, (324.200_439_453_125_f64 / 20.0).exp()), None);
        assert_eq!(close(TaskMetric::BITS_PER_BYTE, 324.200_439_453_125 / 20.0 / 2f64.ln()), None);
        // ratio estimator, by hand: residuals are opposite
        let residual: f64 = 224.200_439_453_125 - 14.0 * 324.200_439_453_125 / 20.0;
        let expected = (2.0 * residual * residual).sqrt() / 2f64.sqrt() / 10.0;
        assert!((close(TaskMetric::LOSS, 324.200_439_453_125 / 20.0).unwrap() / expected - 1.0).abs() < 1e-12);
        close(TaskMetric::LOSS_PER_LOG_VOCAB, 324.200_439_453_125 / 20.0 / 32000f64.ln());
    }

    #[test]
    fn groups_pool() {
        let third = 1.0 / 3.0;
        let members = [
            (third, Some(0.333_333_333_333_333_37), 3),
            (0.0, Some(0.0), 3),
            (third, Some(0.333_333_333_333_333_37), 3),
        ];
        let figure = pooled((TaskMetric::ACC, NO_FILTER), &members, true);
        assert!((figure.value - 0.222_222_222_222_222_2).abs() < 1e-15);
        assert!((figure.stderr.unwrap() - 0.157_134_840_263_677_24).abs() < 1e-15);
        let some = [(1.0, None, 1), (0.0, Some(0.0), 3)];
        assert_eq!(pooled((TaskMetric::ACC, NO_FILTER), &some, true).stderr, None);
        // each task as one
        let figure = pooled((TaskMetric::ACC, NO_FILTER), &[(1.0, Some(0.3), 1), (0.0, Some(0.4), 3)], false);
        assert_eq!((figure.value, figure.stderr), (0.5, Some(0.25)));
    }
}
