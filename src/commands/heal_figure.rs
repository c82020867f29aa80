//! The loss curve of a healing.

use crate::heal::Line;
use crate::report::{LineChart, Point, Series, means};

/// Points of the training curve, at most: each is the mean of as many steps as it takes.
const POINTS: usize = 100;

/// Training and validation loss over steps.
pub(super) fn losses(lines: &[Line]) -> LineChart {
    let steps: Vec<(usize, f64)> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Step { step, loss, .. } => Some((*step, *loss)),
            Line::Validation { .. } => None,
        })
        .collect();
    let validation = lines.iter().filter_map(|line| match line {
        Line::Validation { step, val_loss } => Some(Point { x: *step as f64, y: *val_loss, error: 0.0 }),
        Line::Step { .. } => None,
    });
    let validation: Vec<Point> = validation.collect();
    let best = (0..validation.len()).min_by(|a, b| validation[*a].y.total_cmp(&validation[*b].y));
    let mut series = vec![Series { name: "training".to_owned(), points: means(&steps, POINTS), ..Series::default() }];
    if !validation.is_empty() {
        series.push(Series { name: "validation".to_owned(), points: validation, marked: best, ..Series::default() });
    }
    LineChart {
        title: "Healing".to_owned(),
        subtitle: "loss while training; a mark is the best validation".to_owned(),
        across: "step".to_owned(),
        up: "loss, nats a token".to_owned(),
        legend: String::new(),
        series,
        ..LineChart::default()
    }
}
