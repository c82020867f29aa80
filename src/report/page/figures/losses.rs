//! Losses while healing.

use super::super::super::chart::{Dot, Level, LineChart, Look, Point, Series, means};
use super::super::super::palette;
use super::super::super::run::{Healing, RunData, Variant};
use super::super::cuts::{Way, ways};
use super::super::words;
use super::{Drawing, NamedFigure, Part};

/// Points of a curve, at most.
const POINTS: usize = 100;

/// A chart for each way to cut that was healed.
pub(super) fn figures(data: &RunData) -> Vec<NamedFigure> {
    let several = ways(data).len() > 1;
    let of = |way: Way<'_>| {
        let healed = data.variants.iter().filter(|variant| Way::of(variant) == way);
        let healed = healed.filter_map(|variant| Some((variant, variant.healing.as_ref()?)));
        let mut healed: Vec<(&Variant, &Healing)> =
            healed.filter(|(_, healing)| !healing.training.is_empty() || !healing.validation.is_empty()).collect();
        healed.sort_by_key(|(variant, _)| variant.dropped.size());
        (!healed.is_empty()).then(|| figure(way.strategy.and(several.then_some(way)), &healed))
    };
    ways(data).into_iter().filter_map(of).collect()
}

fn figure(way: Option<Way<'_>>, healed: &[(&Variant, &Healing)]) -> NamedFigure {
    let (series, caption) = match healed {
        [(_, healing)] => (one(healing), "loss while training, ring: best validation"),
        _ => (
            several(healed),
            if has_validation(healed) { "validation loss while training, ring: the best" } else { "training loss" },
        ),
    };
    let described = healed.iter().map(|(variant, healing)| {
        let step = healing.best_step.map(|step| format!(" after step {step}")).unwrap_or_default();
        format!(
            "{}: loss {} uncut, {} {}, {} healed as written; while training {} before, {} at best{step}, {}.",
            words::variant(variant),
            number(healing.uncut),
            number(healing.cut),
            before(variant),
            number(healing.healed),
            number(healing.loss_before),
            number(healing.best_loss),
            words::plural(healing.steps, "step")
        )
    });
    NamedFigure {
        name: ways_name(way),
        title: format!("Healing{}", way.map(|way| format!(", {}", words::way(way))).unwrap_or_default()),
        description: described.collect::<Vec<_>>().join(" "),
        part: Part::Healing,
        drawing: Drawing::Curves(LineChart {
            levels: match healed {
                [(variant, healing)] => levels(variant, healing),
                _ => Vec::new(),
            },
            subtitle: caption.to_owned(),
            across: "step".to_owned(),
            up: "loss, nats a token".to_owned(),
            legend: if healed.len() > 1 { "layers dropped".to_owned() } else { String::new() },
            series,
            ..LineChart::default()
        }),
        caption: caption.to_owned(),
    }
}

/// `healing-similarity-refit`.
fn ways_name(way: Option<Way<'_>>) -> String {
    let parts = way.into_iter().flat_map(|way| way.strategy.into_iter().chain(way.repair));
    std::iter::once("healing").chain(parts).collect::<Vec<_>>().join("-")
}

/// What a model is before it is healed.
fn before(variant: &Variant) -> &'static str {
    if variant.repair.is_some() { "repaired" } else { "cut" }
}

/// What the curves of one fine-tuning lie between: the models themselves.
fn levels(variant: &Variant, healing: &Healing) -> Vec<Level> {
    let levels = [("uncut", healing.uncut), (before(variant), healing.cut), ("healed, as written", healing.healed)];
    levels.into_iter().filter_map(|(name, y)| Some(Level { name: name.to_owned(), y: y? })).collect()
}

/// A loss, or that there is none.
fn number(loss: Option<f64>) -> String {
    loss.map_or_else(|| "unknown".to_owned(), |loss| words::with_error(loss, None))
}

fn has_validation(healed: &[(&Variant, &Healing)]) -> bool {
    healed.iter().any(|(_, healing)| !healing.validation.is_empty())
}

/// Training and validation of one fine-tuning.
fn one(healing: &Healing) -> Vec<Series> {
    let curve = |name: &str, points: Vec<Point>, marked, index: usize, is_dashed| Series {
        name: name.to_owned(),
        points,
        marked,
        look: Some(Look { ink: palette::kind(index).light, is_dashed, dot: Dot::of(index) }),
    };
    let mut series = Vec::new();
    if !healing.training.is_empty() {
        series.push(curve("training", means(&healing.training, POINTS), None, 1, false));
    }
    if !healing.validation.is_empty() {
        series.push(curve("validation", means(&healing.validation, POINTS), best(&healing.validation), 0, false));
    }
    series
}

/// The validation of each of several, by layers dropped; their training where no one has a validation.
fn several(healed: &[(&Variant, &Healing)]) -> Vec<Series> {
    let is_validation = has_validation(healed);
    let curves = healed.iter().enumerate().map(|(index, (variant, healing))| {
        let losses = if is_validation { &healing.validation } else { &healing.training };
        Series {
            name: variant.dropped.size().to_string(),
            points: means(losses, POINTS),
            marked: best(losses).filter(|_| is_validation),
            look: Some(Look {
                ink: palette::step(index, healed.len()).light,
                is_dashed: index >= palette::STEPS,
                dot: Dot::of(index),
            }),
        }
    });
    curves.collect()
}

/// Place of the smallest loss, among the points that are drawn.
fn best(losses: &[(usize, f64)]) -> Option<usize> {
    let points = means(losses, POINTS);
    let finite = (0..points.len()).filter(|index| points[*index].y.is_finite());
    finite.min_by(|a, b| points[*a].y.total_cmp(&points[*b].y))
}
