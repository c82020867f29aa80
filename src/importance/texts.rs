//! Several texts: what each says by itself, what all say together, and how far their choices agree.

use serde::{Deserialize, Serialize};

use super::analysis::DataUsed;
use super::check::{check_choice, check_scores, is_error};
use super::choice::Choice;
use super::metrics::{Metric, metric};
use super::moments::{Scores, four_digits};
use crate::files::Bound;
use crate::{Context, Error, Result};

/// One of several texts: what an analysis of it alone holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfText {
    /// The text.
    pub data: DataUsed,
    /// The best choice for every n on this text alone, n-1 in the list.
    pub best: Vec<Choice>,
    /// The scores on this text alone, one metric each.
    pub scores: Vec<Scores>,
}

/// How far the choices of n by several texts agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Layers dropped, or sub-layers where the search is among those.
    pub n: usize,
    /// What the choices are compared by: the metric followed, or the loss where that decided.
    pub metric: String,
    /// What every text by itself drops, ascending.
    pub in_all: Vec<usize>,
    /// The choice of each text, and that of all together, on every other text.
    pub transfers: Vec<Transfer>,
}

/// A choice on a text that it was not made by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Number of the text whose choice it is, from 0; absent for the choice of all texts together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub choice_of: Option<usize>,
    /// Number of the text that it is held against.
    pub on: usize,
    /// How many of the n that text's own choice drops as well.
    pub in_common: usize,
    /// That over how many either of them drops.
    pub jaccard: f64,
    /// How much worse than that text's own choice it is there, by the metric; of single layers the sum over those
    /// dropped. A search that measures as it goes may be beaten by another text's: then it is negative.
    pub regret: f64,
    /// Its standard error over that text's samples, paired; absent where the scores have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub regret_stderr: Option<f64>,
    /// Whether it is at most two standard errors; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub within_error: Option<bool>,
}

/// The scores of several texts together, each text weighing the same, however long it is: the means of their means. The
/// texts are independent of each other, so that the error of a mean of K is the root of the sum of their squared errors
/// over K, and that of a difference likewise; absent where one of them has none. All have the same rows of the same
/// metrics.
#[must_use]
pub fn together(texts: &[&[Scores]]) -> Vec<Scores> {
    let count = texts.iter().map(|text| text.len()).min().unwrap_or(0);
    (0..count).map(|place| mean(&texts.iter().map(|text| &text[place]).collect::<Vec<_>>())).collect()
}

/// [`together`] of one metric.
pub(super) fn mean(texts: &[&Scores]) -> Scores {
    let count = texts.len() as f64;
    // equal values give that value
    let middle = |values: &[f64]| values[0] + values.iter().map(|value| value - values[0]).sum::<f64>() / count;
    let error = |errors: &[f64]| errors.iter().map(|error| error * error).sum::<f64>().sqrt() / count;
    let means: Vec<&Vec<Vec<f64>>> = texts.iter().map(|scores| &scores.mean).collect();
    let errors: Option<Vec<_>> = texts.iter().map(|scores| scores.stderr.as_ref()).collect();
    let differences: Option<Vec<_>> = texts.iter().map(|scores| scores.difference_stderr.as_ref()).collect();
    let of_row = |differences: &Vec<&Vec<Vec<Vec<f64>>>>, row: usize| {
        rows(&differences.iter().map(|own| &own[row]).collect::<Vec<_>>(), &|errors| four_digits(error(errors)))
    };
    Scores {
        metric: texts[0].metric.clone(),
        mean: rows(&means, &middle),
        stderr: errors.map(|errors| rows(&errors, &error)),
        difference_stderr: differences.map(|own| (0..own[0].len()).map(|row| of_row(&own, row)).collect()),
    }
}

/// Entry by entry what `of` makes of the texts' values.
fn rows(texts: &[&Vec<Vec<f64>>], of: &dyn Fn(&[f64]) -> f64) -> Vec<Vec<f64>> {
    let entry = |row: usize, at: usize| of(&texts.iter().map(|rows| rows[row][at]).collect::<Vec<_>>());
    let lengths = texts[0].iter().map(Vec::len).enumerate();
    lengths.map(|(row, length)| (0..length).map(|at| entry(row, at)).collect()).collect()
}

/// Refuses so many texts that their analysis by `metrics` of a model of `layers` layers could not be read again.
///
/// # Errors
/// Request: as said.
pub(crate) fn check_size(texts: usize, metrics: &[&'static Metric], layers: usize) -> Result<()> {
    // mean, error and the pairs of each row; choices with their rivals; how they agree
    let row = |length: usize| 3 + 3 * length + length * length.saturating_sub(1) / 2;
    let scores: usize = metrics.iter().flat_map(|metric| metric.subject.rows(layers)).map(row).sum();
    let units = 2 * layers;
    let values = (texts + 1) * (scores + units * (4 * units + 24)) + units * (8 * texts * texts + units);
    let most = Bound::ANALYSIS.values;
    if texts > 1 && values > most {
        let fault = format!("{texts} texts: an analysis of {values} numbers could not be read again, {most} can");
        return Err(Error::request(format!("{fault}; fewer --data, or fewer scores, such as --metrics angular")));
    }
    Ok(())
}

/// Checks what an analysis that may be anyone's says of several texts: `rows` are the lengths of the rows of a metric,
/// `best` the choices of all together, of so many `units`.
///
/// # Errors
/// What is wrong and where.
pub(super) fn check(
    (texts, agreement): (&[OfText], &[Agreement]),
    (all, best): (&[Scores], &[Choice]),
    rows: &dyn Fn(&Metric) -> Vec<usize>,
    units: usize,
) -> Result<()> {
    if texts.len() == 1 || texts.is_empty() && !agreement.is_empty() {
        return Err(Error::work("\"texts\" are not several"));
    }
    for (number, text) in texts.iter().enumerate() {
        check_text(text, (all, best), rows, units).context(|| format!("\"texts\" {number}"))?;
    }
    for agreement in agreement {
        check_agreement(agreement, texts.len(), best.len(), units)
            .context(|| format!("\"agreement\" for {}", agreement.n))?;
    }
    Ok(())
}

fn check_text(
    text: &OfText,
    (all, best): (&[Scores], &[Choice]),
    rows: &dyn Fn(&Metric) -> Vec<usize>,
    units: usize,
) -> Result<()> {
    if text.data.samples == 0 {
        return Err(Error::work("\"data\" has no samples"));
    }
    if !text.scores.iter().map(|scores| &scores.metric).eq(all.iter().map(|scores| &scores.metric)) {
        return Err(Error::work("\"scores\" are of other metrics than those of all texts"));
    }
    for scores in &text.scores {
        check_scores(scores, &rows(metric(&scores.metric)?)).context(|| format!("scores of {:?}", scores.metric))?;
    }
    if text.best.len() != best.len() {
        return Err(Error::work(format!("\"best\" has {} choices instead of {}", text.best.len(), best.len())));
    }
    let mut choices = text.best.iter().enumerate();
    choices.try_for_each(|(index, choice)| {
        check_choice(choice, index + 1, units).context(|| format!("\"best\" for {}", index + 1))
    })
}

fn check_agreement(agreement: &Agreement, texts: usize, sizes: usize, units: usize) -> Result<()> {
    let Agreement { n, metric: name, in_all, transfers } = agreement;
    metric(name)?;
    if !(1..=sizes).contains(n) || in_all.iter().any(|own| *own >= units) {
        return Err(Error::work(format!("is not of 1 to {sizes} of {units}")));
    }
    let is_good = |transfer: &Transfer| {
        transfer.on < texts
            && transfer.choice_of.is_none_or(|own| own < texts)
            && transfer.in_common <= *n
            && (0.0..=1.0).contains(&transfer.jaccard)
            && transfer.regret.is_finite()
            && transfer.regret_stderr.is_none_or(is_error)
    };
    match transfers.iter().all(is_good) {
        true => Ok(()),
        false => Err(Error::work("has a transfer that cannot be")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::moments::Moments;
    use super::*;

    fn scores(seed: usize, samples: usize) -> Scores {
        let mut moments = Moments::new(vec![3, 2]);
        for sample in 0..samples {
            let value = |i: usize| ((i * 37 + sample * 11 + seed * 5) % 23) as f64 / 29.0;
            moments.push(1.0 + sample as f64, &(0..5).map(value).collect::<Vec<_>>());
        }
        moments.finish("angular")
    }

    #[test]
    fn texts_weigh_the_same_however_long_they_are() {
        let texts = [scores(1, 4), scores(2, 90), scores(3, 7)];
        let slices: Vec<&[Scores]> = texts.iter().map(std::slice::from_ref).collect();
        let all = together(&slices).remove(0);
        assert_eq!(all.metric, "angular");
        for (n, l) in [(1, 0), (1, 2), (2, 1)] {
            let mean = texts.iter().map(|own| own.mean[n - 1][l]).sum::<f64>() / 3.0;
            assert!((all.mean[n - 1][l] - mean).abs() < 1e-15);
            let squares = texts.iter().map(|own| own.error(n, l).unwrap().powi(2)).sum::<f64>();
            assert!((all.error(n, l).unwrap() - squares.sqrt() / 3.0).abs() < 1e-15);
        }
        let squares = texts.iter().map(|own| own.difference_error(1, 2, 0).unwrap().powi(2)).sum::<f64>();
        assert!((all.difference_error(1, 0, 2).unwrap() / (squares.sqrt() / 3.0) - 1.0).abs() < 1e-3);
        // the same text three times has its own scores, to the bit, and the error of thrice the samples
        let thrice = together(&[slices[0], slices[0], slices[0]]).remove(0);
        assert_eq!(thrice.mean, texts[0].mean);
        assert!((thrice.error(1, 0).unwrap() * 3f64.sqrt() / texts[0].error(1, 0).unwrap() - 1.0).abs() < 1e-12);
        // one that has no errors leaves none
        let single = scores(4, 1);
        let some = mean(&[&texts[0], &single]);
        assert_eq!((some.stderr, some.difference_stderr), (None, None));
        assert_eq!(together(&[]), []);
    }

    #[test]
    fn what_could_not_be_read_again_is_refused() {
        let metrics = [metric("angular").unwrap(), metric("cosine").unwrap()];
        check_size(3, &metrics, 80).unwrap();
        let error = check_size(40, &metrics, 80).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("fewer --data"), "{error}");
        check_size(40, &metrics, 32).unwrap();
        check_size(1, &metrics, 1000).unwrap();
    }
}
