//! The fold: the last update before a seam through a linear map, which goes into its output projection.

use super::sums::{Map, SeamEstimate, SeamSums};
use super::{How, Repair};
use crate::Result;

/// Share of the mean square of the update's channels that is added to the equations.
const RIDGE: f64 = 1e-2;

/// The map (PᵀP + a·I)⁻¹ Pᵀ(Z - Y), a = 0.01 times the mean of PᵀP's diagonal; the projection W becomes TᵀW.
pub(super) const FOLD: Repair = Repair {
    name: "fold",
    about: "a linear map of the last update before a seam, in its projection; least squares with a ridge",
    reference: "ReplaceMe, arXiv 2505.02819",
    opens_everywhere: true,
    how: How::Seams(|sums| folded(sums, RIDGE)),
};

/// The same without the ridge.
pub(super) const FOLD_PLAIN: Repair = Repair {
    name: "fold-plain",
    about: "the same without the ridge, which needs more text",
    reference: "ReplaceMe, arXiv 2505.02819",
    opens_everywhere: true,
    how: How::Seams(|sums| folded(sums, 0.0)),
};

fn folded(sums: &SeamSums, ridge: f64) -> Result<SeamEstimate> {
    Ok(SeamEstimate { scale: 1.0, map: Map::Matrix(sums.map(1.0, ridge)?), bias: None })
}
