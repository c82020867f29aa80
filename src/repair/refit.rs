//! Stream refit: each output projection behind the first seam is fitted anew, so that the stream of the cut model
//! follows that of the whole one.

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::change::{Change, Projection};
use super::counted::Counting;
use super::course::Course;
use super::fit::{Fitter, Found, Seen};
use super::normal::{Normal, NormalSums, square};
use super::units::Unit;
use super::{How, Repair};
use crate::model::Model;
use crate::ops::Cholesky;
use crate::plan::SubLayer;
use crate::{Error, Result};

/// The row of the table.
///
/// x is the stream that enters a sub-layer of the cut model, with everything below repaired; a, `[t, i]`, what enters
/// its output projection W and y the update that comes out; z the stream of the whole model that enters the sub-layer
/// which comes next in the new stack. With r = z - x - y, G = aᵀa, R = aᵀr and D = diag(G)^(-1/2), sums over tokens as
/// they are [`Counting`], the difference is dW = D (D·G·D + α·I)⁻¹ D·R, with the α of 0.001, 0.01, 0.1, 1, 10 that
/// leaves least of r on the judging text; where that is no 0.1 % less than without, W stays. The stream goes on with
/// the W + dW that is written. In the end all differences are taken η times, with the η of 0, 0.25, 0.5, 0.75 and 1
/// under which the judging text has the least loss.
pub(super) const REFIT: Repair = Repair {
    name: "refit",
    about: "fits every output projection behind a seam so that the stream follows the whole model's",
    reference: "this program; nearest is ReplaceMe's map at the seam, arXiv 2505.02819",
    opens_everywhere: true,
    how: How::Projections,
};

/// Ridges that are tried, in units of each input's own square.
pub(super) const RIDGES: [f64; 5] = [1e-3, 1e-2, 1e-1, 1.0, 10.0];

/// Parts of the way from the cut model to the fitted one that are tried besides all of it.
pub(super) const STEPS: [f64; 4] = [0.0, 0.25, 0.5, 0.75];

/// The least share of a residual that has to go for a projection to be changed.
const GAIN: f64 = 1e-3;

/// A residual below this share of its target is rounding.
const ROUNDING: f64 = 1e-9;

/// What became of one output projection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefitStep {
    /// Layer of the source.
    pub layer: usize,
    /// Which of its sub-layers.
    pub sublayer: SubLayer,
    /// Sum of squares of what was to be explained, over the tokens of the judging text.
    pub before: f64,
    /// What is left of it with each ridge: ridge and sum of squares.
    pub after: Vec<(f64, f64)>,
    /// The ridge that was taken; `None` where the projection stays.
    pub ridge: Option<f64>,
    /// Sum of squares of the best difference.
    pub difference: f64,
    /// Tokens that count for less than they would: those with massive activations.
    pub clipped: usize,
}

/// Fits one projection after the other.
#[derive(Debug)]
pub(super) struct Refit {
    /// Whether first tokens count.
    first: bool,
    counting: Counting,
    /// Tokens that count for less at this sub-layer.
    clipped: usize,
    sums: Option<(NormalSums, NormalSums)>,
    /// Sum of squares of the targets of the judging text.
    target: f64,
    steps: Vec<RefitStep>,
}

impl Refit {
    pub(super) fn new(first: bool) -> Self {
        let counting = Counting::default();
        Self { first, counting, clipped: 0, sums: None, target: 0.0, steps: Vec::new() }
    }
}

impl Fitter for Refit {
    fn steps(&self) -> &'static [f64] {
        &STEPS
    }

    fn looks(&self, _unit: &Unit) -> bool {
        true
    }

    fn begin(&mut self, (n, d): (usize, usize), course: &Course<'_>) -> Result<()> {
        (self.target, self.clipped) = (0.0, 0);
        self.counting = Counting::of(course, self.first)?;
        self.sums = Some((NormalSums::new(n, d, course.device())?, NormalSums::new(n, d, course.device())?));
        Ok(())
    }

    fn see(&mut self, seen: &Seen<'_>) -> Result<()> {
        let Some((fit, judge)) = &mut self.sums else { return Err(Error::work("a fit that was not begun")) };
        let missing = ((seen.target - seen.stream)? - seen.update.to_dtype(DType::F32)?)?;
        let Some(counted) = self.counting.counted(seen.batch, &missing)? else { return Ok(()) };
        self.clipped += counted.clipped;
        if seen.judges {
            self.target += square(&counted.of(seen.target)?)?;
        }
        (if seen.judges { judge } else { fit }).add(&counted.of(seen.input)?, &counted.of(&missing)?)
    }

    fn solve(&mut self, unit: &Unit, _projection: &Projection, _cut: &Model) -> Result<Option<Change>> {
        let Some((fit, judge)) = self.sums.take() else { return Ok(None) };
        let (fit, judge) = (fit.finish()?, judge.finish()?);
        let is_silent = (0..fit.n).all(|i| fit.gram[i * fit.n + i] == 0.0);
        if judge.square <= ROUNDING * self.target || is_silent {
            return Ok(None);
        }
        let mut after = Vec::new();
        let mut best: Option<(f64, f64, Vec<f64>)> = None;
        for ridge in RIDGES {
            let map = ridge_map(&fit, ridge)?;
            let left = judge.left(&map);
            after.push((ridge, left));
            if best.as_ref().is_none_or(|(_, least, _)| left < *least) {
                best = Some((ridge, left, map));
            }
        }
        let Some((ridge, left, map)) = best else { return Ok(None) };
        let takes = left < judge.square * (1.0 - GAIN);
        self.steps.push(RefitStep {
            layer: unit.layer,
            sublayer: unit.sublayer,
            before: judge.square,
            after,
            ridge: takes.then_some(ridge),
            difference: map.iter().map(|x| x * x).sum(),
            clipped: self.clipped,
        });
        takes.then(|| difference(&map, (fit.n, fit.d)).map(Change::Added)).transpose()
    }

    fn found(self: Box<Self>) -> Found {
        Found::Projections(self.steps)
    }
}

/// D (D·G·D + ridge·I)⁻¹ D·R, `[n, d]`.
fn ridge_map(normal: &Normal, ridge: f64) -> Result<Vec<f64>> {
    let Normal { n, d, gram, cross, .. } = normal;
    let diagonal = || (0..*n).map(|i| gram[i * n + i]);
    let floor = 1e-12 * diagonal().sum::<f64>() / *n as f64;
    let scale: Vec<f64> = diagonal().map(|own| (own + floor).sqrt().recip()).collect();
    let mut scaled = gram.clone();
    for (row, numbers) in scaled.chunks_exact_mut(*n).enumerate() {
        numbers.iter_mut().zip(&scale).for_each(|(number, column)| *number *= scale[row] * column);
        numbers[row] += ridge;
    }
    let factor = Cholesky::new(scaled, *n)
        .ok_or_else(|| Error::work("the equations of a projection have no solution: what enters it is not finite"))?;
    let mut map = cross.clone();
    let rescale = |map: &mut [f64]| {
        for (row, scale) in map.chunks_exact_mut(*d).zip(&scale) {
            row.iter_mut().for_each(|number| *number *= scale);
        }
    };
    rescale(&mut map);
    factor.solve(&mut map, *d);
    rescale(&mut map);
    Ok(map)
}

/// A map `[n, d]` as it is added to a weight, `[d, n]` f32.
fn difference(map: &[f64], (n, d): (usize, usize)) -> Result<Tensor> {
    let turned = (0..n * d).map(|at| map[at % n * d + at / n] as f32).collect();
    Ok(Tensor::from_vec::<_, f32>(turned, (d, n), &Device::Cpu)?)
}
