//! The paper's curves: accuracy and loss against the fraction of layers dropped.

use super::super::super::chart::{Dot, Errors, Level, LineChart, Look, Point, Series};
use super::super::super::palette;
use super::super::super::run::{RunData, Score, ScoreColumn, Variant};
use super::super::cuts::{Way, fraction, has_repairs, score, shown, ways};
use super::super::words;
use super::{Drawing, NamedFigure, Part};

/// Losses whose largest is so many times the smallest are drawn on a logarithmic axis.
const WIDE: f64 = 20.0;

/// A chart for each measure that the summary shows.
pub(super) fn figures(data: &RunData) -> Vec<NamedFigure> {
    let measured = |place: usize| data.variants.iter().any(|variant| score(variant, place).is_some());
    shown(data).filter(|(place, _)| measured(*place)).map(|(place, measure)| figure(data, place, measure)).collect()
}

/// What is drawn as one curve: the variants of one way, healed or not, after the dense model.
fn groups(data: &RunData) -> Vec<(Way<'_>, usize, bool, Vec<&Variant>)> {
    let mut groups = Vec::new();
    for (index, way) in ways(data).into_iter().enumerate() {
        for is_healed in [true, false] {
            let is_in = |variant: &&Variant| Way::of(variant) == way && variant.is_healed == is_healed;
            let mut variants: Vec<&Variant> = data.variants.iter().filter(is_in).collect();
            variants.sort_by_key(|variant| variant.dropped.size());
            if !variants.is_empty() {
                groups.push((way, index, is_healed, variants));
            }
        }
    }
    groups
}

fn figure(data: &RunData, place: usize, measure: &ScoreColumn) -> NamedFigure {
    let mut series = Vec::new();
    let mut described = Vec::new();
    let mut missing = 0;
    for (way, index, is_healed, variants) in groups(data) {
        let scores = std::iter::once(&data.dense).chain(variants.iter().copied());
        let scores: Vec<(f64, Score)> =
            scores.filter_map(|variant| Some((fraction(data, variant), to_dense(data, variant, place)?))).collect();
        missing += scores.iter().filter(|(_, score)| !score.value.is_finite()).count();
        let look = Look { ink: palette::kind(index).light, is_dashed: !is_healed, dot: Dot::of(index) };
        let name = words::kind(way, is_healed);
        let own = std::iter::once(&data.dense).chain(variants.iter().copied());
        let own = own.filter_map(|variant| Some((fraction(data, variant), score(variant, place)?)));
        let said =
            own.map(|(x, score)| format!("{} at {}", words::with_error(score.value, score.stderr), words::short(x)));
        described.push(format!("{name}: {}.", said.collect::<Vec<_>>().join(", ")));
        let points = scores.iter().map(|(x, score)| {
            let error = score.stderr.filter(|error| error.is_finite()).unwrap_or(0.0);
            Point { x: *x, y: score.value, error }
        });
        series.push(Series { name, points: points.collect(), marked: None, look: Some(look) });
    }
    let values = || series.iter().flat_map(|series| &series.points).map(|point| point.y).filter(|y| y.is_finite());
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let is_logarithmic = measure.is_loss && low > 0.0 && high > WIDE * low;
    let chance = measure.chance.filter(|chance| chance.is_finite());
    let levels = chance.map(|y| Level { name: format!("chance, {}", words::short(y)), y });
    let caption = caption(data, place, measure, is_logarithmic, missing);
    NamedFigure {
        name: format!("scores-{}-{}", measure.task, measure.metric),
        title: words::measure(measure),
        description: described.join(" "),
        part: Part::Scores,
        drawing: Drawing::Curves(LineChart {
            subtitle: caption.clone(),
            across: "fraction of layers dropped".to_owned(),
            up: words::metric(measure),
            series,
            levels: levels.into_iter().collect(),
            errors: Errors::Bars,
            is_logarithmic,
            ..LineChart::default()
        }),
        caption,
    }
}

/// A score whose error, where models were compared document by document, is that of its difference to the dense
/// model's.
fn to_dense(data: &RunData, variant: &Variant, place: usize) -> Option<Score> {
    let score = score(variant, place)?;
    if !is_paired(data, place) {
        return Some(score);
    }
    let found = data.difference(&data.dense, variant, place);
    Some(Score { stderr: found.map_or(Some(0.0), |found| found.stderr), ..score })
}

/// Whether every model was compared with the dense one document by document.
fn is_paired(data: &RunData, place: usize) -> bool {
    let scored = || data.variants.iter().filter(|variant| score(variant, place).is_some());
    scored().next().is_some() && scored().all(|variant| data.difference(&data.dense, variant, place).is_some())
}

/// How to read the chart: only what there is on it.
fn caption(data: &RunData, place: usize, measure: &ScoreColumn, is_logarithmic: bool, missing: usize) -> String {
    let all = || data.all().filter_map(|variant| score(variant, place));
    let mut parts = Vec::new();
    let documents = all().map(|score| score.documents).max().unwrap_or(0);
    if documents > 0 {
        parts.push(words::plural(documents, "document"));
    }
    if data.variants.iter().any(|variant| variant.is_healed) {
        parts.push(format!("solid: healed, dashed: {}", if has_repairs(data) { "not healed" } else { "cut only" }));
    }
    if all().any(|score| score.stderr.is_some_and(|error| error > 0.0)) {
        let of = if is_paired(data, place) { " of the change" } else { "" };
        parts.push(format!("bars: one standard error{of}"));
    }
    let degenerate = all().filter(|score| score.is_degenerate).count();
    if degenerate > 0 {
        parts.push(format!("{} degenerate", words::plural(degenerate, "model")));
    }
    if measure.is_loss {
        parts.push(if is_logarithmic { "lower is better, logarithmic axis" } else { "lower is better" }.to_owned());
    }
    if missing > 0 {
        parts.push(format!("{} not finite and not drawn", words::plural(missing, "figure")));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::super::sample::repaired;
    use super::*;
    use crate::report::run::Difference;

    #[test]
    fn errors_are_those_of_what_was_compared() {
        let mut data = repaired();
        let to = 1..=data.variants.len();
        let difference =
            |(to, measure)| Difference { from: 0, to, measure, difference: 0.1, stderr: Some(0.1), p: None };
        let pairs = to.flat_map(|to| (0..data.measures.len()).map(move |measure| (to, measure)));
        data.differences = pairs.map(difference).collect();
        for figure in figures(&data) {
            assert!(figure.caption.contains("bars: one standard error of the change"), "{}", figure.caption);
        }
        data.differences.pop();
        let alone = figures(&data).pop().unwrap();
        assert!(!alone.caption.contains("change") && alone.caption.contains("bars: one standard error"));
    }
}
