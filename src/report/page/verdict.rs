//! Whether two figures can be told apart.

use super::super::run::{Measure, Score};

/// What a difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Better by at least two standard errors of the difference.
    Better,
    /// Worse by as much.
    Worse,
    /// Less than two standard errors apart.
    Within,
    /// The same figure.
    Same,
    /// An error is not known, or a figure is not finite.
    Unjudged,
}

impl Verdict {
    /// In words that stand behind a difference.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Better => "better beyond the error",
            Self::Worse => "worse beyond the error",
            Self::Within => "within the error",
            Self::Same => "the same",
            Self::Unjudged => "not judged, no error is known",
        }
    }
}

/// A difference of two figures, with its standard error where both have one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) difference: f64,
    pub(super) error: Option<f64>,
    pub(super) verdict: Verdict,
}

/// From one figure of a measure to another. The two are taken as independent.
pub(super) fn change(measure: &Measure, from: Score, to: Score) -> Change {
    let difference = to.value - from.value;
    let error = match (error(measure, from), error(measure, to)) {
        (Some(a), Some(b)) => Some(a.hypot(b)).filter(|error| error.is_finite()),
        _ => None,
    };
    let is_gain = if measure.is_loss { difference < 0.0 } else { difference > 0.0 };
    let verdict = match error {
        _ if !difference.is_finite() => Verdict::Unjudged,
        _ if difference == 0.0 => Verdict::Same,
        None => Verdict::Unjudged,
        Some(error) if difference.abs() < 2.0 * error => Verdict::Within,
        Some(_) if is_gain => Verdict::Better,
        Some(_) => Verdict::Worse,
    };
    Change { difference, error, verdict }
}

/// Whether a score is less than two standard errors above guessing; unknown without an error.
pub(super) fn is_chance(measure: &Measure, score: Score) -> Option<bool> {
    let (chance, error) = (measure.chance?, error(measure, score)?);
    score.value.is_finite().then_some(score.value - chance < 2.0 * error)
}

/// Standard error to judge with. That of documents that were all right, or all wrong, is zero by its formula, which is
/// not what is known of it: taken is that of one more right and one more wrong answer.
fn error(measure: &Measure, score: Score) -> Option<f64> {
    let is_at_an_end = !measure.is_loss && (score.value == 0.0 || score.value == 1.0);
    match score.stderr? {
        0.0 if is_at_an_end && score.documents > 0 => {
            let count = score.documents as f64 + 2.0;
            let share = 1.0 / count;
            Some((share * (1.0 - share) / count).sqrt())
        }
        error => Some(error).filter(|error| error.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(is_loss: bool) -> Measure {
        Measure {
            task: "t".into(),
            title: "T".into(),
            metric: if is_loss { "loss" } else { "acc" }.into(),
            chance: (!is_loss).then_some(0.25),
            is_loss,
            depth: 0,
        }
    }

    fn score(value: f64, stderr: impl Into<Option<f64>>) -> Score {
        Score { value, stderr: stderr.into(), documents: 400 }
    }

    #[test]
    fn two_standard_errors_of_the_difference() {
        let of = |is_loss, a, b| change(&measure(is_loss), a, b).verdict;
        assert_eq!(of(false, score(0.80, 0.03), score(0.71, 0.04)), Verdict::Within);
        assert_eq!(of(false, score(0.80, 0.03), score(0.69, 0.04)), Verdict::Worse);
        assert_eq!(of(false, score(0.69, 0.04), score(0.80, 0.03)), Verdict::Better);
        assert_eq!(of(true, score(1.0, 0.01), score(1.1, 0.01)), Verdict::Worse);
        assert_eq!(of(true, score(1.1, 0.01), score(1.0, 0.01)), Verdict::Better);
        assert_eq!(of(true, score(1.1, None), score(1.0, 0.01)), Verdict::Unjudged);
        assert_eq!(of(true, score(1.1, 0.1), score(f64::INFINITY, 0.01)), Verdict::Unjudged);
        assert_eq!(of(true, score(f64::NAN, 0.1), score(1.0, 0.01)), Verdict::Unjudged);
        assert_eq!(of(true, score(1.1, f64::NAN), score(1.0, 0.01)), Verdict::Unjudged);
        assert_eq!(of(false, score(0.5, None), score(0.5, None)), Verdict::Same);
    }

    #[test]
    fn all_right_is_not_known_for_certain() {
        let all = score(1.0, 0.0);
        assert_eq!(change(&measure(false), all, score(0.995, 0.0035)).verdict, Verdict::Within);
        assert_eq!(change(&measure(false), all, score(0.97, 0.0085)).verdict, Verdict::Worse);
        assert_eq!(change(&measure(false), all, score(0.0, 0.0)).verdict, Verdict::Worse);
    }

    #[test]
    fn guessing() {
        assert_eq!(is_chance(&measure(false), score(0.28, 0.02)), Some(true));
        assert_eq!(is_chance(&measure(false), score(0.15, 0.02)), Some(true));
        assert_eq!(is_chance(&measure(false), score(0.30, 0.02)), Some(false));
        assert_eq!(is_chance(&measure(true), score(0.30, 0.02)), None);
        assert_eq!(is_chance(&measure(false), score(0.30, None)), None);
    }
}
