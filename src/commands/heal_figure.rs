//! The loss curve of a healing.

use super::heal::HealResult;
use crate::heal::Line;
use crate::report::{Level, LineChart, Point, Series, means};

/// Points of the training curve, at most: each is the mean of as many steps as it takes.
const POINTS: usize = 100;

/// Training and validation loss over steps; across it the loss of the uncut and the cut model, and at the end that of
/// the model that is written.
pub(super) fn losses(lines: &[Line], result: &HealResult) -> LineChart {
    let steps: Vec<(usize, f64)> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Step { step, loss, .. } => Some((*step, *loss)),
            Line::Validation { .. } | Line::Measured { .. } => None,
        })
        .collect();
    let validation = lines.iter().filter_map(|line| match line {
        Line::Validation { step, val_loss, .. } => Some(Point { x: *step as f64, y: *val_loss, error: 0.0 }),
        Line::Step { .. } | Line::Measured { .. } => None,
    });
    let validation: Vec<Point> = validation.collect();
    let best = (0..validation.len()).min_by(|a, b| validation[*a].y.total_cmp(&validation[*b].y));
    let mut series = vec![Series { name: "training".to_owned(), points: means(&steps, POINTS), ..Series::default() }];
    if !validation.is_empty() {
        series.push(Series { name: "validation".to_owned(), points: validation, marked: best, ..Series::default() });
    }
    let mut levels = Vec::new();
    if let Some(measured) = &result.measured {
        let level = |name: &str, y: f64| Level { name: name.to_owned(), y };
        levels.extend(measured.uncut.map(|uncut| level("uncut", uncut)));
        levels.push(level("cut", measured.cut));
        let end = Point { x: result.steps as f64, y: measured.healed, error: 0.0 };
        let name = "healed, as written".to_owned();
        series.push(Series { name, points: vec![end], marked: Some(0), ..Series::default() });
    }
    LineChart {
        title: "Healing".to_owned(),
        subtitle: "loss while training, a ring: the best validation; the models before and after".to_owned(),
        across: "step".to_owned(),
        up: "loss, nats a token".to_owned(),
        legend: String::new(),
        series,
        levels,
        ..LineChart::default()
    }
}
