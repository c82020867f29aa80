//! What becomes of an output projection: in the checkpoint that is written, and in the pass that fits what follows.

use candle_core::{DType, Tensor};

use crate::Result;
use crate::arch::{Role, SeamMap};
use crate::model::{Linear, LinearMap, Model};
use crate::ops::WeightMatrix;
use crate::weights::{Expr, stored};

/// The tensors of an output projection, by the names that the cut model has for them.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    pub(super) weight: String,
    pub(super) bias: Option<String>,
}

/// How an output projection is made otherwise.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A difference is added to the weight, `[o, i]`; of it, a part may be taken.
    Added(Tensor),
    /// Weight and bias are made so, where they are made otherwise.
    Made { weight: Option<Expr>, bias: Option<Expr> },
    /// The projection stays, and a map follows the layer at this place.
    Behind(usize, StoredMap),
}

/// A map as it is written, f32.
#[derive(Clone, Debug)]
pub(super) struct StoredMap {
    pub(super) what: SeamMap,
    /// What [`ModelSpec::seam_tensors`](crate::arch::ModelSpec::seam_tensors) calls, in that order.
    pub(super) factors: Vec<Tensor>,
    /// The same where the model is.
    pub(super) map: LinearMap,
}

impl Projection {
    /// Of the layer at `place` of `cut`.
    pub(super) fn new(cut: &Model, place: usize, role: Role) -> Self {
        let tensor = cut.spec().layer_tensor(place, role);
        Self { weight: tensor.name, bias: tensor.bias }
    }
}

impl Change {
    /// The tensors it makes, going `step` of the way: nothing at 0.
    pub(super) fn at(&self, projection: &Projection, step: f64) -> Vec<(String, Expr)> {
        let weight = &projection.weight;
        match self {
            Self::Behind(..) => Vec::new(),
            _ if step == 0.0 => Vec::new(),
            Self::Added(difference) => {
                let terms = vec![(1.0, Expr::Source(weight.clone())), (step, Expr::Tensor(difference.clone()))];
                vec![(weight.clone(), Expr::Sum(terms))]
            }
            Self::Made { weight: made, bias } => {
                let weight = made.clone().map(|made| (weight.clone(), made));
                let bias = projection.bias.clone().zip(bias.clone());
                weight.into_iter().chain(bias).collect()
            }
        }
    }

    /// The projection `linear` of `cut` with this change, in the very numbers that are written.
    ///
    /// # Errors
    /// A tensor that cannot be read, numbers that are not finite in the type in which they are stored.
    pub(super) fn linear(&self, linear: &Linear, projection: &Projection, step: f64, cut: &Model) -> Result<Linear> {
        let (mut linear, source) = (linear.clone(), &cut.checkpoint().index);
        for (name, expr) in self.at(projection, step) {
            let tensor = stored(source, &name, &expr, source.entry(&name)?.dtype)?;
            if name == projection.weight {
                linear.weight = WeightMatrix::Dense(tensor).on(cut.device())?;
            } else {
                linear.bias = Some(tensor.to_dtype(DType::F32)?.to_device(cut.device())?);
            }
        }
        Ok(linear)
    }

    /// The stream `x` `[t, d]` that leaves the sub-layer, going `step` of the way.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn behind(&self, x: Tensor, step: f64) -> Result<Tensor> {
        match self {
            Self::Behind(_, stored) if step != 0.0 => stored.map.forward(&x),
            _ => Ok(x),
        }
    }
}
