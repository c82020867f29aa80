//! Figures that say nothing good of a model, however they compare: one answer to every question, a loss above that of
//! guessing among all tokens.

use serde::{Deserialize, Serialize};

use super::compare::Comparison;
use super::metrics::{TaskFigure, TaskMetric};
use super::side::SideTask;

/// Share of the questions with one answer from which on a model does not choose.
const ONE_ANSWER: f64 = 0.99;
/// Of fewer questions nothing is said: a model may have good reasons to answer them alike.
const FEWEST: usize = 8;
/// Where so many of the questions have that answer, giving it is no fault.
const MOSTLY_RIGHT: f64 = 0.9;

/// Share of the answers that end in repetitions above which a model no longer writes.
const MOSTLY_REPEATED: f64 = 0.5;

/// What is wrong with a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degenerate {
    /// The same option is chosen for 99 of 100 questions or more, and is wrong for one in ten or more.
    OneAnswer,
    /// More than half of the answers end in saying the same again and again.
    Repetition,
    /// The loss is above ln V: every token with the same probability would do better.
    AboveGuessing,
}

impl Degenerate {
    /// Of a task with so many questions, from the share of the commonest answer and the accuracy.
    #[must_use]
    pub(crate) fn of_answers(majority: f64, accuracy: f64, questions: usize) -> Option<Self> {
        (questions >= FEWEST && majority >= ONE_ANSWER && accuracy < MOSTLY_RIGHT).then_some(Self::OneAnswer)
    }

    /// Of a figure of generated answers to so many questions.
    #[must_use]
    pub(crate) fn of_written(metric: TaskMetric, value: f64, questions: usize) -> Option<Self> {
        (metric == TaskMetric::REPEATED_SUFFIX && questions >= FEWEST && value > MOSTLY_REPEATED)
            .then_some(Self::Repetition)
    }

    /// Of a figure of a text, given all of the text's.
    #[must_use]
    pub(crate) fn of_loss(figures: &[TaskFigure]) -> Option<Self> {
        let ratio = figures.iter().find(|figure| figure.metric == TaskMetric::LOSS_PER_LOG_VOCAB)?.value;
        (ratio > 1.0).then_some(Self::AboveGuessing)
    }

    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::OneAnswer => "one answer to every question",
            Self::Repetition => "most answers end in saying the same again and again",
            Self::AboveGuessing => "worse than guessing: the loss is above ln V",
        }
    }
}

/// `comparison` with what is wrong with the figures of `task`, whose figure it is.
pub(super) fn judged(mut comparison: Comparison, task: &SideTask) -> Comparison {
    let figure = |name: &str| task.figures.iter().find(|figure| figure.metric == name).map(|figure| figure.value);
    comparison.degenerate = match TaskMetric::named(&comparison.metric) {
        Some(metric) if metric.majority_key.is_some() => {
            let share = task.majority.iter().find(|(of, _)| *of == metric);
            share.and_then(|(_, share)| Degenerate::of_answers(*share, comparison.to, task.count))
        }
        Some(metric) if metric == TaskMetric::REPEATED_SUFFIX => {
            Degenerate::of_written(metric, comparison.to, comparison.documents)
        }
        Some(metric) if !metric.higher_is_better => {
            let ratio = figure(TaskMetric::LOSS_PER_LOG_VOCAB.name);
            ratio.filter(|ratio| *ratio > 1.0).map(|_| Degenerate::AboveGuessing)
        }
        _ => None,
    };
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_answers_of_enough_questions() {
        let of = |metric, value, questions| Degenerate::of_written(metric, value, questions);
        assert_eq!(of(TaskMetric::REPEATED_SUFFIX, 0.51, FEWEST), Some(Degenerate::Repetition));
        assert_eq!(of(TaskMetric::REPEATED_SUFFIX, 0.5, FEWEST), None);
        assert_eq!(of(TaskMetric::REPEATED_SUFFIX, 0.9, FEWEST - 1), None);
        assert_eq!(of(TaskMetric::CUT_AT_LIMIT, 0.9, 100), None);
    }
}
