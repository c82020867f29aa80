//! A linear layer: a weight, perhaps a bias, perhaps an adapter; forward, forward with dropout, and backward.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::Dora;
use crate::arch::Role;
use crate::model::Part;
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, WeightMatrix};
use crate::weights::lora::Adapter;
use crate::{Error, Result};

/// `y = x·Wᵀ + b`, plus the adapter's `(x·Aᵀ)·Bᵀ·scale`, with DoRA times a number for each output.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[o, i]`, in its type on disk or in four bits.
    pub(crate) weight: WeightMatrix,
    /// `[o]` f32.
    pub(crate) bias: Option<Tensor>,
    /// What is added to the frozen product.
    pub(crate) adapter: Option<Adapter>,
    /// What DoRA multiplies each output with before the bias comes.
    pub(crate) dora: Option<Dora>,
}

/// What an adapter saves for its way back.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    /// x·Aᵀ·scale, `[t, r]`.
    pub(super) u: Tensor,
    /// With DoRA what its factors meet, `[t, o]`.
    pub(super) z: Option<Tensor>,
}

impl Saved {
    /// What DoRA's factors meet.
    pub(super) fn z(&self) -> Result<&Tensor> {
        self.z.as_ref().ok_or_else(|| Error::work("a product was not saved"))
    }
}

/// Of the adapters of a sub-layer.
pub(super) type LoraHidden = BTreeMap<Role, Saved>;

impl Linear {
    /// `[t, i]` to `[t, o]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.adapter {
            None => self.weight.linear(x)?,
            Some(adapter) => self.weight.linear_plus(x, &adapter.reduce(x)?, &adapter.b)?,
        };
        let y = match &self.dora {
            Some(dora) => ops::times_columns(&y, dora.ratio())?,
            None => y,
        };
        match &self.bias {
            Some(bias) => ops::add(&y, bias),
            None => Ok(y),
        }
    }

    /// [`Linear::forward`] with dropout on the rows of the pass from `row` on; what the adapter saves is put into
    /// `hidden`.
    pub(super) fn forward_saving(
        &self,
        x: &Tensor,
        training: &TrainContext<'_>,
        (role, row): (Role, usize),
        hidden: &mut LoraHidden,
    ) -> Result<Tensor> {
        training.inputs.map_or(Ok(()), |inputs| inputs.add((training.place, role), x))?;
        let y = match (&self.adapter, &self.dora) {
            (None, _) => self.weight.linear(x)?,
            (Some(adapter), Some(dora)) => {
                let (y, saved) = self.forward_dora((dora, adapter), x, training, (role, row))?;
                hidden.insert(role, saved);
                y
            }
            (Some(adapter), None) => {
                let u = match training.mask(role, row) {
                    Some(mask) => adapter.reduce(&mask.apply(x)?)?,
                    None => adapter.reduce(x)?,
                };
                let y = self.weight.linear_plus(x, &u, &adapter.b)?;
                hidden.insert(role, Saved { u, z: None });
                y
            }
        };
        Ok(match &self.bias {
            Some(bias) => ops::add(&y, bias)?,
            None => y,
        })
    }

    /// Gradients of the layer's own parameters, and of `x` where it is wanted, for the rows of the pass from `row` on.
    /// `x` is asked for only if something is trained here.
    pub(super) fn backward(
        &self,
        at: &mut BackwardContext<'_>,
        (role, row): (Role, usize),
        hidden: &LoraHidden,
        x: Tensor,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        if at.unfrozen {
            at.note(role, Part::Weight, ops::outer(dy, &x)?)?;
            if self.bias.is_some() {
                at.note(role, Part::Bias, ops::sum_rows(dy)?)?;
            }
        }
        let Some(adapter) = &self.adapter else {
            drop(x);
            return wanted.then(|| self.weight.linear_backward(dy, None)).transpose();
        };
        if let Some(dora) = &self.dora {
            return self.backward_dora((dora, adapter), at, (role, row), hidden.get(&role), (x, dy), wanted);
        }
        let mask = at.mask(role, row);
        let mask = mask.as_ref();
        let du = (ops::low_rank_up(dy, &adapter.b)? * adapter.scale)?;
        let dropped = match mask {
            Some(mask) => mask.apply(&x)?,
            None => x.clone(),
        };
        let reduced = match hidden.get(&role) {
            Some(saved) => saved.u.clone(),
            // a layer that is not computed again in full
            None => adapter.reduce(&dropped)?,
        };
        at.note(role, Part::B, ops::outer(dy, &reduced)?)?;
        at.note(role, Part::A, ops::outer(&du, &dropped)?)?;
        // the inputs are as wide as what comes now
        drop((x, dropped));
        Ok(match mask {
            _ if !wanted => None,
            None => Some(self.weight.linear_backward(dy, Some((&du, &adapter.a)))?),
            Some(mask) => {
                let own = mask.apply(&ops::low_rank_up(&du, &adapter.a)?)?;
                Some(self.weight.linear_backward_onto(dy, own)?)
            }
        })
    }
}
