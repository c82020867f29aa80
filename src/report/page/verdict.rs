//! Whether two figures can be told apart.

use super::super::run::{RunData, Score, ScoreColumn, Variant};
use super::cuts::score;

/// What a difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Better by at least two standard errors of the difference.
    Better,
    /// Worse by as much.
    Worse,
    /// Less than two standard errors apart, or as often by chance as one time in twenty.
    Within,
    /// The later figure says nothing good of its model, whatever it is.
    Degenerate,
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
            Self::Degenerate => "degenerate",
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

/// From one model to another in the measure at `place`: document by document where the run compared them so, otherwise
/// as independent samples. Nothing where one was not scored.
pub(super) fn change(data: &RunData, place: usize, from: &Variant, to: &Variant) -> Option<Change> {
    let measure = data.measures.get(place)?;
    let (old, new) = (score(from, place)?, score(to, place)?);
    Some(match data.difference(from, to, place) {
        Some(found) => judged(measure, new, found.difference, found.stderr, found.p),
        None => apart(measure, old, new),
    })
}

/// From one figure of a measure to another, both of documents of their own.
fn apart(measure: &ScoreColumn, from: Score, to: Score) -> Change {
    let error = match (error(measure, from), error(measure, to)) {
        (Some(a), Some(b)) => Some(a.hypot(b)).filter(|error| error.is_finite()),
        _ => None,
    };
    judged(measure, to, to.value - from.value, error, None)
}

fn judged(measure: &ScoreColumn, to: Score, difference: f64, error: Option<f64>, p: Option<f64>) -> Change {
    let error = error.filter(|error| error.is_finite());
    let is_gain = if measure.is_loss { difference < 0.0 } else { difference > 0.0 };
    let is_rare = p.is_none_or(|p| p < 0.05);
    let verdict = match error {
        _ if to.is_degenerate => Verdict::Degenerate,
        _ if !difference.is_finite() => Verdict::Unjudged,
        _ if difference == 0.0 => Verdict::Same,
        None => Verdict::Unjudged,
        Some(error) if difference.abs() < 2.0 * error || !is_rare => Verdict::Within,
        Some(_) if is_gain => Verdict::Better,
        Some(_) => Verdict::Worse,
    };
    Change { difference, error, verdict }
}

/// How a model's figure compares with the dense model's, in a sign; nothing for the dense one, or where it cannot be
/// told.
#[must_use]
pub fn mark(data: &RunData, variant: &Variant, measure: usize) -> Option<char> {
    if std::ptr::eq(variant, &data.dense) {
        return None;
    }
    match change(data, measure, &data.dense, variant)?.verdict {
        Verdict::Within | Verdict::Same => Some('='),
        Verdict::Better => Some('+'),
        Verdict::Worse => Some('-'),
        Verdict::Degenerate => Some('x'),
        Verdict::Unjudged => None,
    }
}

/// Whether a score is less than two standard errors above guessing; unknown without an error.
pub(super) fn is_chance(measure: &ScoreColumn, score: Score) -> Option<bool> {
    let (chance, error) = (measure.chance?, error(measure, score)?);
    score.value.is_finite().then_some(score.value - chance < 2.0 * error)
}

/// Standard error to judge with. That of documents that were all right, or all wrong, is zero by its formula, which is
/// not what is known of it: taken is that of one more right and one more wrong answer.
fn error(measure: &ScoreColumn, score: Score) -> Option<f64> {
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
    use super::super::super::run::Difference;
    use super::*;

    fn measure(is_loss: bool) -> ScoreColumn {
        ScoreColumn {
            task: "t".into(),
            title: "T".into(),
            metric: if is_loss { "loss" } else { "acc" }.into(),
            chance: (!is_loss).then_some(0.25),
            is_loss,
            depth: 0,
        }
    }

    fn score(value: f64, stderr: impl Into<Option<f64>>) -> Score {
        Score { value, stderr: stderr.into(), documents: 400, ..Score::default() }
    }

    #[test]
    fn two_standard_errors_of_the_difference() {
        let of = |is_loss, a, b| apart(&measure(is_loss), a, b).verdict;
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
        // never better, whatever the figures say
        let degenerate = Score { is_degenerate: true, ..score(0.9, 0.01) };
        assert_eq!(of(false, score(0.5, 0.01), degenerate), Verdict::Degenerate);
    }

    #[test]
    fn the_same_documents_tell_more_apart() {
        let mut data = super::super::sample::one();
        let of = |data: &RunData| change(data, 0, &data.dense, &data.variants[0]).unwrap();
        data.dense.scores[0] = Some(score(0.80, 0.02));
        data.variants[0].scores[0] = Some(score(0.77, 0.02));
        assert_eq!(of(&data).verdict, Verdict::Within);
        let difference =
            Difference { from: 0, to: 1, measure: 0, difference: -0.03, stderr: Some(0.01), p: Some(0.004) };
        data.differences = vec![difference];
        assert_eq!((of(&data).verdict, of(&data).error), (Verdict::Worse, Some(0.01)));
        data.differences = vec![Difference { p: Some(0.06), ..difference }];
        assert_eq!(of(&data).verdict, Verdict::Within);
        data.differences = vec![Difference { measure: 2, ..difference }];
        assert_eq!(of(&data).error, Some(0.02f64.hypot(0.02)));
    }

    #[test]
    fn all_right_is_not_known_for_certain() {
        let all = score(1.0, 0.0);
        assert_eq!(apart(&measure(false), all, score(0.995, 0.0035)).verdict, Verdict::Within);
        assert_eq!(apart(&measure(false), all, score(0.97, 0.0085)).verdict, Verdict::Worse);
        assert_eq!(apart(&measure(false), all, score(0.0, 0.0)).verdict, Verdict::Worse);
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
