//! What lies between two models, as people look at it.

use super::analysis_view::subtitle;
use crate::importance::{Against, Analysis, Scores, metric};
use crate::report::{Level, LineChart, Point, Series};
use crate::shown::shown;

/// The scores that compare two models, with the other one.
fn compared(analysis: &Analysis) -> Option<(&Against, Vec<&Scores>)> {
    let is_mixed = |scores: &&Scores| metric(&scores.metric).is_ok_and(|metric| metric.mixture().is_some());
    let scores: Vec<&Scores> = analysis.scores.iter().filter(is_mixed).collect();
    analysis.against.as_ref().filter(|_| !scores.is_empty()).map(|against| (against, scores))
}

/// A curve for each way to mix, over the layers.
pub(super) fn chart(analysis: &Analysis) -> Option<LineChart> {
    let (against, scores) = compared(analysis)?;
    let series = scores.into_iter().map(|scores| Series {
        name: scores.metric.clone(),
        points: scores.mean[0]
            .iter()
            .enumerate()
            .map(|(l, mean)| Point { x: l as f64, y: *mean, error: scores.error(1, l).unwrap_or(0.0) })
            .collect(),
        ..Series::default()
    });
    Some(LineChart {
        title: format!("{} with layers of {}", analysis.model.id, against.model.id),
        subtitle: subtitle(analysis),
        across: "layer, l".to_owned(),
        up: "loss less the mean of both models, nats a token".to_owned(),
        legend: "mixed".to_owned(),
        series: series.collect(),
        levels: vec![
            Level { name: "no layer".to_owned(), y: (against.own_loss - against.loss) / 2.0 },
            Level { name: "mean of both".to_owned(), y: 0.0 },
        ],
        ..LineChart::default()
    })
}

/// What the scores are counted from.
pub(super) fn note(analysis: &Analysis) -> Option<String> {
    let (against, scores) = compared(analysis)?;
    let names: Vec<&str> = scores.iter().map(|scores| scores.metric.as_str()).collect();
    Some(format!(
        "{}: nats a token above the mean of {:.4} ({}) and {:.4} ({}); with no layer mixed {:+.4}",
        names.join(", "),
        against.own_loss,
        shown(&analysis.model.id),
        against.loss,
        shown(&against.model.id),
        (against.own_loss - against.loss) / 2.0
    ))
}
