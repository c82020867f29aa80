//! Layers that are quiet on two counts: they turn the stream little, and they add little to it.

use super::{Evaluate, Metric, Order, Subject, Tokens, cosine, relative_magnitude};

pub(super) const ON_BOTH: Metric = Metric {
    name: "quiet-on-both",
    about: "the larger z-score over layers of block influence and relative growth; drops single layers",
    reference: "XMerge, arXiv 2609.02083",
    subject: Subject::Layer,
    tokens: Tokens::All,
    order: Order::Lowest,
    value: Evaluate::Scores(&[&cosine::BLOCK_INFLUENCE, &relative_magnitude::OF_ENTERING], larger_z),
    usual: false,
};

fn larger_z(rows: &[&[f64]]) -> Vec<f64> {
    let rows: Vec<Vec<f64>> = rows.iter().map(|row| z_scores(row)).collect();
    let largest = |l: usize| rows.iter().map(|row| row[l]).fold(f64::NEG_INFINITY, f64::max);
    (0..rows.first().map_or(0, Vec::len)).map(largest).collect()
}

/// Distances from the mean in (population) standard deviations; 0 where all are the same.
fn z_scores(row: &[f64]) -> Vec<f64> {
    let count = row.len() as f64;
    let mean = row.iter().sum::<f64>() / count;
    let deviation = (row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    row.iter().map(|value| if deviation > 0.0 { (value - mean) / deviation } else { 0.0 }).collect()
}
