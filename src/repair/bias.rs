//! The bias: the mean of what the gap added.

use super::sums::{Map, SeamEstimate};
use super::{How, Repair};

/// b, the mean over tokens of Z - X, added to the bias of the projection before the seam, in families that have one.
pub(super) const BIAS: Repair = Repair {
    name: "bias",
    about: "the mean of what the gap added, in families whose projection before the seam has a bias",
    reference: "A deeper look at depth pruning, arXiv 2407.16286",
    opens_everywhere: true,
    how: How::BiasAtSeams(|sums| {
        let [p, y, z] = &sums.totals;
        let mean = |((p, y), z): ((&f64, &f64), &f64)| (z - y - p) / sums.tokens as f64;
        let bias = p.iter().zip(y).zip(z).map(mean).collect();
        Ok(SeamEstimate { scale: 1.0, map: Map::Times(1.0), bias: Some(bias) })
    }),
};
