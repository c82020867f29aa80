//! Repairs at seams, one seam after the other on the model as it is repaired by then.

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::change::{Change, Projection};
use super::course::Course;
use super::fit::{Fitter, Found, Seen};
use super::sums::{Map, SeamEstimate, SeamSums, Summing};
use super::units::Unit;
use crate::model::Model;
use crate::plan::SubLayer;
use crate::weights::Expr;
use crate::{Context, Error, Result};

/// What became of a seam.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeamFit {
    /// Layer of the source before the seam.
    pub layer: usize,
    /// The sub-layer whose output projection is made otherwise.
    pub sublayer: SubLayer,
    /// What later output projections are divided by; 1 where they stay.
    pub scale: f64,
    /// Share of what the gap did that the repair explains, on the text it was fitted on.
    pub explained: f64,
    /// The same on the judging text.
    pub explained_other: f64,
}

/// Fits what a function says of the sums at each seam.
pub(super) struct SeamFitter {
    estimate: fn(&SeamSums) -> Result<SeamEstimate>,
    /// Whether first tokens count.
    first: bool,
    sums: Option<(Summing, Summing)>,
    /// What output projections are divided by from here on.
    scale: f64,
    found: Vec<SeamFit>,
}

impl SeamFitter {
    pub(super) fn new(estimate: fn(&SeamSums) -> Result<SeamEstimate>, first: bool) -> Self {
        Self { estimate, first, sums: None, scale: 1.0, found: Vec::new() }
    }
}

impl Fitter for SeamFitter {
    fn steps(&self) -> &'static [f64] {
        &[0.0]
    }

    fn before(&self, projection: &Projection) -> Option<Change> {
        (self.scale != 1.0).then(|| times(projection, self.scale.recip()))
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
        (if seen.judges { judge } else { fit }).add(seen.batch, [seen.update, seen.stream, seen.target])
    }

    fn solve(&mut self, unit: &Unit, projection: &Projection, cut: &Model) -> Result<Option<Change>> {
        let Some((fit, judge)) = self.sums.take() else { return Ok(None) };
        let place = || format!("the seam behind layer {}", unit.layer);
        let (fit, judge) = (fit.finish()?, judge.finish()?);
        let estimate = (self.estimate)(&fit).context(place)?;
        let explained = estimate.explained(&fit);
        if !explained.is_finite() || !estimate.scale.is_normal() {
            return Err(Error::work("the fit gives numbers that are not finite")).context(place);
        }
        self.found.push(SeamFit {
            layer: unit.layer,
            sublayer: unit.sublayer,
            scale: estimate.scale,
            explained,
            explained_other: estimate.explained(&judge),
        });
        let change = changed(&estimate, self.scale, projection, cut).context(place)?;
        self.scale = estimate.scale;
        Ok(Some(change))
    }

    fn found(self: Box<Self>) -> Found {
        Found::Seams(self.found)
    }
}

/// Weight and bias of a projection times a number.
fn times(projection: &Projection, by: f64) -> Change {
    let of = |name: &String| Expr::Sum(vec![(by, Expr::Source(name.clone()))]);
    Change::Made { weight: Some(of(&projection.weight)), bias: projection.bias.as_ref().map(of) }
}

/// The projection before the seam, which was divided by `before` until now: its update becomes P·T + b, and the stream
/// is left as much smaller as later updates are.
fn changed(estimate: &SeamEstimate, before: f64, projection: &Projection, cut: &Model) -> Result<Change> {
    let less = estimate.scale * before;
    let mut change = match &estimate.map {
        Map::Times(own) if *own == less => Change::Made { weight: None, bias: None },
        Map::Times(own) => times(projection, own / less),
        Map::Matrix(map) => {
            let d = cut.spec().hidden_size;
            let turned: Vec<f32> = (0..d * d).map(|at| (map[at % d * d + at / d] / less) as f32).collect();
            let turned = Tensor::from_vec(turned, (d, d), &Device::Cpu)?;
            let weight =
                Expr::MatMul(Box::new(Expr::Tensor(turned.clone())), Box::new(Expr::Source(projection.weight.clone())));
            let bias = projection.bias.as_ref().map(|name| {
                let bias = cut.checkpoint().load_f32(name, &[d], &Device::Cpu)?.reshape((d, 1))?;
                Ok::<_, Error>(Expr::Tensor(turned.matmul(&bias)?.reshape(d)?))
            });
            Change::Made { weight: Some(weight), bias: bias.transpose()? }
        }
    };
    if let (Some(added), Change::Made { bias, .. }) = (&estimate.bias, &mut change) {
        let name = projection.bias.clone().ok_or_else(|| Error::work("a projection without a bias"))?;
        let added: Vec<f32> = added.iter().map(|number| (number / estimate.scale) as f32).collect();
        let d = added.len();
        let known = bias.take().unwrap_or(Expr::Source(name));
        let added = Expr::Tensor(Tensor::from_vec(added, d, &Device::Cpu)?);
        *bias = Some(Expr::Sum(vec![(1.0, known), (1.0, added)]));
    }
    Ok(change)
}
