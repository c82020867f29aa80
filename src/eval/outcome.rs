//! What the answers to a document's requests amount to.

use super::request::{Answer, Written};

/// One document's part in a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// Numerator: 1 for a question that was answered rightly, a log-likelihood of a text.
    pub sum: f64,
    /// Denominator: 1 for a question, words, bytes or tokens of a text.
    pub weight: f64,
    /// Place of the choice that was taken, where there are choices.
    pub chosen: Option<usize>,
}

impl Measure {
    /// Of a question that is answered rightly or not.
    #[must_use]
    pub fn right(is_right: bool) -> Self {
        Self { sum: f64::from(u8::from(is_right)), weight: 1.0, chosen: None }
    }

    /// Numerator and denominator.
    #[must_use]
    pub fn parts(&self) -> (f64, f64) {
        (self.sum, self.weight)
    }
}

/// What came out for one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One a request.
    pub answers: Vec<Answer>,
    /// One for each metric of each filter of the task, in that order; none of programs that were not run.
    pub measures: Vec<Measure>,
    /// One for each of what is said of answers in the model's own words; none where it is not known how they were
    /// written.
    pub written: Vec<Measure>,
    /// Whether each answer passes, where those are programs that were run.
    pub passed: Vec<bool>,
}

impl Outcome {
    /// Whether it is of a text without a token to predict.
    pub(super) fn is_nothing(&self) -> bool {
        self.answers.iter().all(|answer| matches!(answer, Answer::Rolling { tokens: 0, .. }))
    }
}

/// The mean over a document's answers of what is told by how they were written.
pub(super) fn mean(written: &[Written], of: fn(&Written) -> f64) -> Option<f64> {
    (!written.is_empty()).then(|| written.iter().map(of).sum::<f64>() / written.len() as f64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_choices_wins() {
        assert_eq!(first_greatest(&[-2.0, -1.0, -1.0]), Some(1));
        assert_eq!(first_greatest(&[]), None);
        assert_eq!((majority([3, 0, 3, 3].into_iter()), majority([].into_iter())), (Some(0.75), None));
    }
}
