//! Linear maps of the stream behind a gap, x + x·M. No standard file holds them: what comes of it opens here. They say
//! what a repair in a standard file leaves on the table.

use candle_core::{DType, Device, Tensor};
use nalgebra::{DMatrix, SymmetricEigen};

use super::change::{Change, Projection, StoredMap};
use super::course::Course;
use super::fit::{Fitter, Found, Seen};
use super::hadamard::hadamard;
use super::seam::SeamFit;
use super::sums::{Map, SeamEstimate, SeamSums, Summing};
use super::units::Unit;
use super::{How, Repair};
use crate::arch::SeamMap;
use crate::model::{LinearMap, Model};
use crate::ops::{Cholesky, WeightMatrix, product64};
use crate::{Context, Error, Result};

/// What is added to the diagonal of XᵀX, as published.
const RIDGE: f64 = 1e-6;
/// Rank where nobody says otherwise; no source names one.
const RANK: usize = 64;

/// M = (XᵀX + 1e-6·I)⁻¹ Xᵀ(Z - X).
pub(super) const OPERATOR: Repair = Repair {
    name: "operator",
    about: "a linear map of the stream at a seam, least squares: what no standard file holds; fold comes nearest",
    reference: "Ghosted Layers, arXiv 2605.15491",
    opens_everywhere: false,
    how: How::Maps(SeamMapping { rotated: false, rank: None, map: operator }),
};

/// M·V·Vᵀ, V the top eigenvectors of (XM)ᵀ(XM): the best map of its rank.
pub(super) const REDUCED_RANK: Repair = Repair {
    name: "reduced-rank",
    about: "the best such map of a rank, two thin matrices",
    reference: "A deeper look at depth pruning, arXiv 2407.16286, in closed form",
    opens_everywhere: false,
    how: How::Maps(SeamMapping { rotated: false, rank: Some(RANK), map: operator }),
};

/// H·(diag(s) - I)·Hᵀ, s the ratios of magnitudes behind and before the gap in the basis of a Hadamard matrix.
pub(super) const PATCH: Repair = Repair {
    name: "patch",
    about: "the stream's channels times ratios of magnitudes, in the basis of a Hadamard matrix",
    reference: "LinearPatch, arXiv 2505.24680",
    opens_everywhere: false,
    how: How::Maps(SeamMapping { rotated: true, rank: None, map: diagonal }),
};

/// diag(s) - I.
pub(super) const PATCH_DIAGONAL: Repair = Repair {
    name: "patch-diagonal",
    about: "the same channel by channel",
    reference: "LinearPatch, arXiv 2505.24680",
    opens_everywhere: false,
    how: How::Maps(SeamMapping { rotated: false, rank: None, map: diagonal }),
};

/// How a map comes of sums over tokens, whose P is the stream that enters the seam and whose Y is nothing.
#[derive(Clone, Copy, Debug)]
pub struct SeamMapping {
    /// Whether the sums, and the map, are those of streams times a Hadamard matrix.
    pub rotated: bool,
    /// The rank that it is reduced to, unless another is wanted; `None` leaves it whole.
    pub rank: Option<usize>,
    /// M, `[d, d]`.
    pub map: fn(&SeamSums) -> Result<Vec<f64>>,
}

impl SeamMapping {
    /// The same of another rank, where it is reduced at all, for a stream of width `d`.
    pub(super) fn with(self, rank: Option<usize>, d: usize) -> Self {
        Self { rank: self.rank.map(|own| rank.unwrap_or(own).clamp(1, d)), ..self }
    }
}

fn operator(sums: &SeamSums) -> Result<Vec<f64>> {
    let (d, mut gram) = (sums.d, sums.gram.clone());
    (0..d).for_each(|i| gram[i * d + i] += RIDGE);
    let factor = Cholesky::new(gram, d).ok_or_else(|| {
        Error::work(format!(
            "the equations of the seam have no single solution: the stream does not reach all {d} channels in this \
             text; give more text"
        ))
    })?;
    let mut map: Vec<f64> = sums.with_target.iter().zip(&sums.gram).map(|(target, own)| target - own).collect();
    factor.solve(&mut map, d);
    Ok(map)
}

#[expect(clippy::unnecessary_wraps, reason = "what a row of the table is")]
fn diagonal(sums: &SeamSums) -> Result<Vec<f64>> {
    let d = sums.d;
    let mut map = vec![0.0; d * d];
    sums.ratios.iter().enumerate().for_each(|(i, ratio)| map[i * d + i] = ratio - 1.0);
    Ok(map)
}

/// The top `rank` eigenvectors of (XM)ᵀ(XM), `[d, rank]`.
fn directions(sums: &SeamSums, map: &[f64], rank: usize) -> Vec<f64> {
    let d = sums.d;
    let seen = product64(&sums.gram, map, (d, d, d));
    let turned: Vec<f64> = (0..d * d).map(|at| map[at % d * d + at / d]).collect();
    let eigen = SymmetricEigen::new(DMatrix::from_row_slice(d, d, &product64(&turned, &seen, (d, d, d))));
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let at = |row: usize, column: usize| eigen.eigenvectors[(row, order[column])];
    (0..d * rank).map(|index| at(index / rank, index % rank)).collect()
}

/// Fits a map at each seam.
pub(super) struct MapFitter {
    mapping: SeamMapping,
    /// Whether first tokens count.
    first: bool,
    /// The matrix that streams are rotated with, `[d, d]`, here and where they are.
    rotation: Option<(Vec<f64>, WeightMatrix)>,
    sums: Option<(Summing, Summing)>,
    found: Vec<SeamFit>,
}

impl MapFitter {
    /// For the model `whole`.
    ///
    /// # Errors
    /// Request: a width without a Hadamard matrix.
    pub(super) fn new(mapping: SeamMapping, first: bool, whole: &Model) -> Result<Self> {
        let d = whole.spec().hidden_size;
        let rotation = mapping.rotated.then(|| {
            let matrix = hadamard(d)?;
            // a weight multiplies by its transpose
            let turned: Vec<f32> = (0..d * d).map(|at| matrix[at % d * d + at / d] as f32).collect();
            let weight = WeightMatrix::Dense(Tensor::from_vec(turned, (d, d), &Device::Cpu)?).on(whole.device())?;
            Ok::<_, Error>((matrix, weight))
        });
        Ok(Self { mapping, first, rotation: rotation.transpose()?, sums: None, found: Vec::new() })
    }

    /// `map` in the basis of the stream.
    fn turned_back(&self, map: Vec<f64>, d: usize) -> Vec<f64> {
        let Some((rotation, _)) = &self.rotation else { return map };
        let back: Vec<f64> = (0..d * d).map(|at| rotation[at % d * d + at / d]).collect();
        product64(&product64(rotation, &map, (d, d, d)), &back, (d, d, d))
    }
}

impl Fitter for MapFitter {
    fn steps(&self) -> &'static [f64] {
        &[0.0]
    }

    fn looks(&self, unit: &Unit) -> bool {
        unit.is_seam
    }

    fn begin(&mut self, (_, d): (usize, usize), course: &Course<'_>) -> Result<()> {
        let summing = || Summing::new(d, self.first, course.device());
        self.sums = Some((summing()?, summing()?));
        Ok(())
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<()> {
        let Some((fit, judge)) = &mut self.sums else { return Err(Error::work("a fit that was not begun")) };
        let sums = if seen.judges { judge } else { fit };
        let x = crate::ops::add(seen.stream, seen.update)?;
        let rotated = |x: &Tensor| match &self.rotation {
            Some((_, rotation)) => rotation.linear(&x.to_dtype(DType::F32)?),
            None => Ok(x.clone()),
        };
        let (x, z) = (rotated(&x)?, rotated(seen.target)?);
        sums.add(seen.batch, [&x, &x.zeros_like()?, &z])
    }

    fn solve(&mut self, unit: &Unit, _projection: &Projection, cut: &Model) -> Result<Option<Change>> {
        let Some((fit, judge)) = self.sums.take() else { return Ok(None) };
        let place = || format!("the seam behind layer {}", unit.layer);
        let (fit, judge, d) = (fit.finish()?, judge.finish()?, cut.spec().hidden_size);
        let map = (self.mapping.map)(&fit).context(place)?;
        let turned = |map: &[f64], (rows, columns): (usize, usize)| -> Result<Tensor> {
            let numbers: Vec<f32> = (0..rows * columns).map(|at| map[at % rows * columns + at / rows] as f32).collect();
            Ok(Tensor::from_vec(numbers, (columns, rows), &Device::Cpu)?)
        };
        // x·M is M's transpose times a column
        let (map, what, factors) = match self.mapping.rank {
            None => {
                let whole = self.turned_back(map.clone(), d);
                (map, SeamMap::Full, vec![turned(&whole, (d, d))?])
            }
            Some(rank) => {
                let to = directions(&fit, &map, rank);
                let reduced = product64(&map, &to, (d, d, rank));
                let back: Vec<f64> = (0..rank * d).map(|at| to[at % d * rank + at / d]).collect();
                let factors = vec![turned(&reduced, (d, rank))?, turned(&back, (rank, d))?];
                (product64(&reduced, &back, (d, rank, d)), SeamMap::Rank(rank), factors)
            }
        };
        let mut estimate = map;
        (0..d).for_each(|i| estimate[i * d + i] += 1.0);
        let estimate = SeamEstimate { scale: 1.0, map: Map::Matrix(estimate), bias: None };
        let explained = estimate.explained(&fit);
        if !explained.is_finite() {
            return Err(Error::work("the fit gives numbers that are not finite")).context(place);
        }
        self.found.push(SeamFit {
            layer: unit.layer,
            sublayer: unit.sublayer,
            scale: 1.0,
            explained,
            explained_other: estimate.explained(&judge),
        });
        let weights = factors.iter().map(|factor| WeightMatrix::Dense(factor.clone()).on(cut.device()));
        let map = LinearMap::new(weights.collect::<Result<_>>()?)?;
        Ok(Some(Change::Behind(unit.place, StoredMap { what, factors, map })))
    }

    fn found(self: Box<Self>) -> Found {
        Found::Seams(self.found)
    }
}
