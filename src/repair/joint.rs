//! Fold and scale at once: the best of both together.

use super::sums::{Map, SeamEstimate};
use super::{How, Repair};

/// The α and T that leave least of |α·Y + P·T - Z|²: α = ⟨Y', Z'⟩ / ⟨Y', Y'⟩ with what P does not explain of Y and Z.
pub(super) const JOINT: Repair = Repair {
    name: "joint",
    about: "fold and scale in one least squares",
    reference: "this program, from ReplaceMe and Prune&Comp",
    opens_everywhere: true,
    how: How::Seams(|sums| {
        let explained = sums.solved(sums.with_stream.clone(), 0.0)?;
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let target = sums.stream_target - dot(&explained, &sums.with_target);
        let scale = target / (sums.stream - dot(&explained, &sums.with_stream));
        Ok(SeamEstimate { scale, map: Map::Matrix(sums.map(scale, 0.0)?), bias: None })
    }),
};
