//! Whether an analysis that was read holds together: the sizes fit the model, the numbers are numbers.

use super::amount::Protect;
use super::analysis::Analysis;
use super::choice::Choice;
use super::metrics::{Metric, metric};
use super::moments::Scores;
use super::texts;
use crate::plan::MOST_LAYERS;
use crate::{Context, Error, Result};

/// Checks everything that later code relies on.
///
/// # Errors
/// What is wrong and where.
pub(super) fn check(analysis: &Analysis) -> Result<()> {
    let layers = analysis.model.layers;
    if layers == 0 || layers > MOST_LAYERS {
        return Err(Error::work(format!("\"model\" has {layers} layers instead of 1 to {MOST_LAYERS}")));
    }
    let needs_text = |scores: &Scores| metric(&scores.metric).is_ok_and(|metric| metric.value.needs_text());
    if analysis.data.samples == 0 && (analysis.scores.is_empty() || analysis.scores.iter().any(needs_text)) {
        return Err(Error::work("\"data\" has no samples"));
    }
    for (index, scores) in analysis.scores.iter().enumerate() {
        let place = || format!("scores of {:?}", scores.metric);
        let subject = metric(&scores.metric).context(place)?.subject;
        if analysis.scores[..index].iter().any(|earlier| earlier.metric == scores.metric) {
            return Err(Error::work(format!("{}: more than once", place())));
        }
        check_scores(scores, &analysis.row_lengths(subject)).context(place)?;
    }
    let search = &analysis.search;
    analysis.scores(&search.metric).context(|| "\"search\"")?;
    let protect = Protect { first: search.protect_first, last: search.protect_last };
    let parts = metric(&search.metric).context(|| "\"search\"")?.subject.unit().per_layer();
    let most = (protect.allowed(layers).len() * parts).min(layers * parts - 1);
    // a search that measures as it goes may have stopped at the size that was asked for
    if !(1..=most).contains(&search.best.len()) {
        return Err(Error::work(format!("\"best\" has {} choices instead of 1 to {most}", search.best.len())));
    }
    for (index, choice) in search.best.iter().enumerate() {
        check_choice(choice, index + 1, layers * parts).context(|| format!("\"best\" for {}", index + 1))?;
    }
    let rows = |metric: &Metric| analysis.row_lengths(metric.subject);
    texts::check((&analysis.texts, &analysis.agreement), (&analysis.scores, &search.best), &rows, layers * parts)?;
    match &analysis.plan {
        Some(plan) if plan.planned_for != analysis.model => Err(Error::work("\"plan\" is for another model")),
        _ => Ok(()),
    }
}

/// Checks that the rows have these lengths, and numbers are numbers.
///
/// # Errors
/// What is wrong and where.
pub(super) fn check_scores(scores: &Scores, lengths: &[usize]) -> Result<()> {
    check_rows("mean", &scores.mean, lengths, &|value| value.is_finite())?;
    if let Some(rows) = &scores.stderr {
        check_rows("stderr", rows, lengths, &is_error)?;
    }
    if let Some(rows) = &scores.difference_stderr {
        if rows.len() != lengths.len() {
            return Err(Error::work(format!(
                "\"difference_stderr\" has {} rows instead of {}",
                rows.len(),
                lengths.len()
            )));
        }
        for (row, &len) in rows.iter().zip(lengths) {
            let lengths: Vec<usize> = (1..len).rev().collect();
            check_rows("difference_stderr", row, &lengths, &is_error)?;
        }
    }
    Ok(())
}

pub(super) fn is_error(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn check_rows(what: &str, rows: &[Vec<f64>], lengths: &[usize], is_good: &dyn Fn(f64) -> bool) -> Result<()> {
    let found: Vec<usize> = rows.iter().map(Vec::len).collect();
    if found != lengths {
        return Err(Error::work(format!("{what:?} has rows of {found:?} values instead of {lengths:?}")));
    }
    match rows.iter().flatten().find(|value| !is_good(**value)) {
        Some(value) => Err(Error::work(format!("{what:?} holds {value}"))),
        None => Ok(()),
    }
}

/// Checks that it drops `n` of `layers` layers, or of so many sub-layers.
///
/// # Errors
/// What is wrong and where.
pub(super) fn check_choice(choice: &Choice, n: usize, layers: usize) -> Result<()> {
    let runner_up = choice.runner_up.iter().map(|runner_up| &runner_up.drop);
    let listed = choice.short_list.iter().map(|listed| &listed.drop);
    for drop in runner_up.chain(listed).chain([&choice.drop]) {
        let ascending = drop.windows(2).all(|pair| pair[0] < pair[1]);
        if drop.len() != n || !ascending || drop.last().is_none_or(|last| *last >= layers) {
            return Err(Error::work(format!("drops {drop:?}, which are not {n} ascending layers of {layers}")));
        }
    }
    if choice.short_list.first().is_some_and(|first| first.drop != choice.drop || Some(first.loss) != choice.loss) {
        return Err(Error::work("\"short_list\" does not begin with what is dropped"));
    }
    let rises = choice.short_list.iter().map(|listed| listed.loss).chain(choice.loss);
    if let Some(odd) = rises.into_iter().find(|rise| !rise.stderr.is_none_or(is_error)) {
        return Err(Error::work(format!("a rise of the loss has the error {:?}", odd.stderr)));
    }
    match choice.rivals.iter().all(|rival| *rival < layers) {
        true => Ok(()),
        false => Err(Error::work(format!("has rivals {:?} beyond {layers} layers", choice.rivals))),
    }
}
