//! A linear layer with DoRA (arXiv 2402.09353), as PEFT computes it: y = m / n ∘ (W + scale·B·A)·x, where n are the
//! norms of the rows of W + scale·B·A, constants of the backward pass (section 4.3 there).
//!
//! Norms change when A and B do, once a step: [`Dora::refresh`] then takes a product of the weight with r rows. In
//! training the product before the factors is saved for the gradient of m. Dropout costs a second product, since in
//! PEFT the frozen weight's own share sees the input whole: y = W·x + (m / n - 1) ∘ W·x' + m / n ∘ scale·B·A·x', x' the
//! input after dropout.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

use super::Linear;
use super::linear::Saved;
use crate::arch::Role;
use crate::model::Part;
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, RowNorms, WeightMatrix};
use crate::weights::lora::Adapter;
use crate::{Error, Result};

/// What is multiplied with each output before the bias comes; shared, and changed in place.
#[derive(Clone, Debug)]
pub(crate) struct Dora {
    /// m / n, `[o]` f32.
    ratio: Tensor,
    /// n, `[o]` f32, from the first [`Dora::refresh`] on.
    norms: Arc<OnceLock<Tensor>>,
    /// Of the weight alone, which does not change.
    rows: Arc<OnceLock<RowNorms>>,
}

impl Dora {
    /// With these ratios.
    pub(crate) fn new(ratio: Tensor) -> Self {
        Self { ratio, norms: Arc::default(), rows: Arc::default() }
    }

    /// Of `weight` in main memory, as it is held, with the update `adapter`; the ratios are to be on `device`.
    pub(crate) fn of(weight: &WeightMatrix, adapter: &Adapter, device: &Device) -> Result<Self> {
        let own = Self::new(Tensor::zeros(weight.shape()?.0, candle_core::DType::F32, device)?);
        own.refresh(weight, adapter)?;
        Ok(own)
    }

    /// m / n, `[o]` f32.
    pub(super) fn ratio(&self) -> &Tensor {
        &self.ratio
    }

    fn rows(&self, weight: &WeightMatrix) -> Result<&RowNorms> {
        if self.rows.get().is_none() {
            let counted = RowNorms::new(weight)?;
            return Ok(self.rows.get_or_init(|| counted));
        }
        self.rows.get().ok_or_else(|| Error::work("norms that were counted are gone"))
    }

    /// Brings norms and ratios up to date with A, B and m.
    ///
    /// # Errors
    /// Work: a row without a norm, by which nothing can be divided; a weight on a GPU.
    pub(super) fn refresh(&self, weight: &WeightMatrix, adapter: &Adapter) -> Result<()> {
        let magnitude = magnitude(adapter)?;
        let norms = self.rows(weight)?.updated(weight, (&adapter.a, &adapter.b), adapter.scale)?;
        if let Some(row) = norms.iter().position(|norm| *norm == 0.0) {
            return Err(Error::work(format!(
                "row {row} of its weight is zero, and DoRA divides by the norm: leave the module out (--target, \
                 --layers-to-transform)"
            )));
        }
        ops::numbers(magnitude, |m| {
            ops::edit(&self.ratio, |ratio| {
                ratio.iter_mut().zip(m.iter().zip(&norms)).for_each(|(ratio, (m, norm))| *ratio = m / norm);
            })
        })??;
        match self.norms.get() {
            Some(own) => ops::edit(own, |own| own.copy_from_slice(&norms)),
            None => {
                let own = Tensor::from_vec(norms, self.ratio.dims(), &Device::Cpu)?;
                self.norms.get_or_init(|| own);
                Ok(())
            }
        }
    }

    /// The gradient of m: Σ dy ∘ z / n over the tokens.
    fn of_magnitude(&self, linear: &Linear, adapter: &Adapter, z: &Tensor, dy: &Tensor) -> Result<Tensor> {
        if self.norms.get().is_none() {
            self.refresh(&linear.weight, adapter)?;
        }
        let norms = self.norms.get().ok_or_else(|| Error::work("norms that were counted are gone"))?;
        Ok((ops::sum_rows(&(dy * z)?)? / norms)?)
    }
}

fn magnitude(adapter: &Adapter) -> Result<&Tensor> {
    adapter.magnitude.as_ref().ok_or_else(|| Error::work("an adapter without magnitudes"))
}

impl Linear {
    /// Gives DoRA's magnitudes what the weight's rows have, so that a fresh adapter changes nothing.
    pub(crate) fn begin_magnitudes(&self) -> Result<()> {
        let (Some(dora), Some(adapter)) = (&self.dora, &self.adapter) else { return Ok(()) };
        let norms = dora.rows(&self.weight)?.of_weight();
        ops::edit(magnitude(adapter)?, |m| m.copy_from_slice(&norms))?;
        dora.refresh(&self.weight, adapter)
    }

    /// Brings what follows from trained parameters up to date.
    pub(crate) fn refresh(&self) -> Result<()> {
        match (&self.dora, &self.adapter) {
            (Some(dora), Some(adapter)) => dora.refresh(&self.weight, adapter),
            _ => Ok(()),
        }
    }

    /// Forward in training, without the bias; and what is saved of it.
    pub(super) fn forward_dora(
        &self,
        (dora, adapter): (&Dora, &Adapter),
        x: &Tensor,
        training: &TrainContext<'_>,
        (role, row): (Role, usize),
    ) -> Result<(Tensor, Saved)> {
        let Some(mask) = &training.mask(role, row) else {
            let saved = self.product(adapter, x)?;
            return Ok((ops::times_columns(saved.z()?, &dora.ratio)?, saved));
        };
        let entered = mask.apply(x)?;
        let saved = self.product(adapter, &entered)?;
        let lost = (x - entered)?;
        let y = ops::add(&ops::times_columns(saved.z()?, &dora.ratio)?, &self.weight.linear(&lost)?)?;
        Ok((y, saved))
    }

    /// z = (W + scale·B·A)·x', and x'·Aᵀ·scale.
    fn product(&self, adapter: &Adapter, entered: &Tensor) -> Result<Saved> {
        let u = adapter.reduce(entered)?;
        let z = self.weight.linear_plus(entered, &u, &adapter.b)?;
        Ok(Saved { u, z: Some(z) })
    }

    /// Gradients of A, B and m, and of `x` where it is wanted.
    pub(super) fn backward_dora(
        &self,
        (dora, adapter): (&Dora, &Adapter),
        at: &mut BackwardContext<'_>,
        (role, row): (Role, usize),
        saved: Option<&Saved>,
        (x, dy): (Tensor, &Tensor),
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let mask = at.mask(role, row);
        let mask = mask.as_ref();
        let entered = match mask {
            Some(mask) => mask.apply(&x)?,
            None => x.clone(),
        };
        drop(x);
        let saved = match saved {
            Some(saved) => saved.clone(),
            // a layer that is not computed again in full
            None => self.product(adapter, &entered)?,
        };
        at.note(role, Part::Magnitude, dora.of_magnitude(self, adapter, saved.z()?, dy)?)?;
        let dz = ops::times_columns(dy, &dora.ratio)?;
        let du = (ops::low_rank_up(&dz, &adapter.b)? * adapter.scale)?;
        at.note(role, Part::B, ops::outer(&dz, &saved.u)?)?;
        at.note(role, Part::A, ops::outer(&du, &entered)?)?;
        drop((entered, saved));
        Ok(match mask {
            _ if !wanted => None,
            None => Some(self.weight.linear_backward(&dz, Some((&du, &adapter.a)))?),
            Some(mask) => {
                // what goes through the input whole comes with dy itself
                let own = self.weight.linear_backward(&(dz - dy)?, Some((&du, &adapter.a)))?;
                Some(self.weight.linear_backward_onto(dy, mask.apply(&own)?)?)
            }
        })
    }
}
