//! Scores of blocks: the heat map, and curves over the depth.

use super::super::super::chart::{Dot, LineChart, Look, Point, Series};
use super::super::super::format::PictureFormat;
use super::super::super::heatmap::HeatMap;
use super::super::super::palette;
use super::super::super::run::{Distances, RunData};
use super::super::super::triangle::Triangle;
use super::super::cuts::cuts;
use super::super::words;
use super::{Drawing, NamedFigure, Part};
use crate::plan::ranges;

/// Heat map and curves; nothing where nothing was scored.
pub(super) fn figures(data: &RunData) -> Vec<NamedFigure> {
    let Some(distances) = &data.distances else { return Vec::new() };
    let scores = triangle(data, distances);
    if scores.shown_rows() == 0 || scores.layers() == 0 {
        return Vec::new();
    }
    vec![map(data, distances, scores.clone()), curves(distances, &scores)]
}

/// The scores, with the cut of the run marked where there is one and the scores chose it.
fn triangle(data: &RunData, distances: &Distances) -> Triangle {
    let mut scores = Triangle {
        rows: distances.mean.clone(),
        best: distances.best.clone(),
        highest_first: distances.highest_first,
        ..Triangle::default()
    };
    let whole = cuts(data).into_iter().map(|cut| cut.dropped).filter(|dropped| dropped.are_layers());
    let mut chosen: Vec<Vec<usize>> = whole.map(|dropped| dropped.layers.iter().copied().collect()).collect();
    chosen.retain(|dropped| is_choice(&scores, dropped));
    chosen.sort();
    chosen.dedup();
    if let [dropped] = &chosen[..] {
        scores.chosen = Some(dropped.len());
        scores.dropped.clone_from(dropped);
    }
    scores
}

/// Whether the scores say that `dropped` goes: the best block of its size, or the layers that come first one by one.
fn is_choice(scores: &Triangle, dropped: &[usize]) -> bool {
    let Some(first) = dropped.first().copied() else { return false };
    if !scores.is_single() {
        return scores.best(dropped.len()) == Some(first) && dropped.iter().copied().eq(first..first + dropped.len());
    }
    let rank =
        |layer: &usize| scores.rows[0].get(*layer).map(|score| if scores.highest_first { -score } else { *score });
    let kept = (0..scores.layers()).filter(|layer| !dropped.contains(layer)).filter_map(|layer| rank(&layer));
    let first_kept = kept.fold(f64::INFINITY, f64::min);
    dropped.iter().all(|layer| rank(layer).is_some_and(|score| score <= first_kept))
}

/// Where the scores come from.
fn source(distances: &Distances) -> String {
    format!("{} of {}", words::plural(distances.samples, "sample"), distances.text)
}

fn map(data: &RunData, distances: &Distances, scores: Triangle) -> NamedFigure {
    let best = best_blocks(distances, &scores);
    let reading = match (scores.is_single(), scores.highest_first) {
        (true, _) => "yellow goes first",
        (false, false) => "each row rescaled, yellow the smallest of its row",
        (false, true) => "each row rescaled, yellow the largest of its row",
    };
    let plan = if scores.chosen.is_some() {
        format!("dropped: {}", ranges(scores.dropped.iter().copied()))
    } else {
        String::new()
    };
    NamedFigure {
        name: "distances".to_owned(),
        title: format!("{} of every {}", distances.title, if scores.is_single() { "layer" } else { "block" }),
        caption: format!("{}; {reading}", source(distances)),
        description: format!("Of {} layers. {best}", data.dense.layers),
        part: Part::Blocks,
        drawing: Drawing::Map(HeatMap {
            title: String::new(),
            subtitle: source(distances),
            measure: distances.title.clone(),
            plan,
            scores,
            note: String::new(),
            format: PictureFormat::Sheet,
        }),
    }
}

/// The best block of each size, in words.
fn best_blocks(distances: &Distances, scores: &Triangle) -> String {
    let best = (1..=scores.rows.len()).filter_map(|n| {
        let l = scores.best(n)?;
        let (score, error) = entry(distances, n, l)?;
        Some(format!("{} ({})", words::block(l, n), words::with_error(score, error)))
    });
    format!("Best: {}.", best.collect::<Vec<_>>().join(", "))
}

/// Score and error of the block of `n` layers that starts at `l`.
pub(in super::super) fn entry(distances: &Distances, n: usize, l: usize) -> Option<(f64, Option<f64>)> {
    let at = |rows: &[Vec<f64>]| rows.get(n.checked_sub(1)?)?.get(l).copied();
    Some((at(&distances.mean)?, at(&distances.stderr)))
}

/// The score against l for a few n.
fn curves(distances: &Distances, scores: &Triangle) -> NamedFigure {
    let rows = scores.shown_rows();
    let mut sizes: Vec<usize> = (0..palette::STEPS - 1).map(|i| (1 << i).min(rows)).collect();
    sizes.extend(scores.chosen.filter(|n| *n <= rows));
    sizes.sort_unstable();
    sizes.dedup();
    let series = sizes.iter().enumerate().map(|(index, &n)| {
        let points = (0..scores.rows[n - 1].len()).filter_map(|l| {
            let (y, error) = entry(distances, n, l)?;
            Some(Point { x: l as f64, y, error: error.filter(|error| error.is_finite()).unwrap_or(0.0) })
        });
        Series {
            name: if scores.is_single() { distances.title.clone() } else { format!("n = {n}") },
            points: points.collect(),
            marked: scores.best(n),
            look: Some(Look { ink: palette::step(index, sizes.len()).light, is_dashed: false, dot: Dot::of(index) }),
        }
    });
    let (across, legend) = match scores.is_single() {
        true => ("layer, l", ""),
        false => ("first layer of the block, l", "block size"),
    };
    let mut caption = source(distances);
    if distances.stderr.iter().flatten().any(|error| *error > 0.0) {
        caption.push_str("; bands: one standard error");
    }
    caption.push_str(if scores.is_single() { "; ring: what goes first" } else { "; ring: best block of its size" });
    NamedFigure {
        name: "distance-curves".to_owned(),
        title: format!("{} against depth", distances.title),
        description: best_blocks(distances, scores),
        part: Part::Blocks,
        drawing: Drawing::Curves(LineChart {
            subtitle: caption.clone(),
            across: across.to_owned(),
            up: distances.title.clone(),
            legend: legend.to_owned(),
            series: series.collect(),
            ..LineChart::default()
        }),
        caption,
    }
}
