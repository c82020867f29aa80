//! An RMS norm with its weight.

use candle_core::Tensor;

use crate::arch::Role;
use crate::model::Part;
use crate::model::training::BackwardContext;
use crate::{Result, ops};

/// `x / rms(x) · weight` over the last dimension.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) role: Role,
    /// `[d]`, or `[e]` of each head, f32.
    pub(crate) weight: Tensor,
    pub(crate) eps: f64,
}

impl Norm {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }

    /// Gradient of `x`; the weight's is noted when the whole block is trained.
    pub(super) fn backward(&self, at: &mut BackwardContext<'_>, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (dx, dweight) = ops::rms_norm_backward(x, &self.weight, self.eps, dy, at.unfrozen)?;
        if let Some(dweight) = dweight {
            at.note(self.role, Part::Weight, dweight)?;
        }
        Ok(dx)
    }
}
