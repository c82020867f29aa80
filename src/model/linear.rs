//! A linear layer: a weight, perhaps a bias, perhaps an adapter.

use candle_core::Tensor;

use super::lora::Adapter;
use crate::Result;
use crate::ops::{self, WeightMatrix};

/// `y = x·Wᵀ + b`, plus the adapter's `(x·Aᵀ)·Bᵀ·scale`, with DoRA times a number for each output.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[o, i]`, in its type on disk or in four bits.
    pub(super) weight: WeightMatrix,
    /// `[o]` f32.
    pub(super) bias: Option<Tensor>,
    /// What is added to the frozen product.
    pub(super) adapter: Option<Adapter>,
    /// What DoRA multiplies each output with before the bias comes, `[o]` f32; such a layer is not trained.
    pub(super) ratio: Option<Tensor>,
}

impl Linear {
    /// `weight` is `[o, i]`, `bias` `[o]` in f32.
    #[must_use]
    pub fn new(weight: WeightMatrix, bias: Option<Tensor>) -> Self {
        Self { weight, bias, adapter: None, ratio: None }
    }

    /// `[t, i]` to `[t, o]`. Gradients for `x` and, where it is tracked, the adapter.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = match &self.adapter {
            None => self.weight.linear(x)?,
            Some(adapter) if x.track_op() || adapter.a.track_op() => (self.weight.linear(x)? + adapter.tracked(x)?)?,
            Some(adapter) => self.weight.linear_plus(x, &adapter.reduce(x)?, &adapter.b)?,
        };
        let y = match &self.ratio {
            Some(ratio) => y.broadcast_mul(ratio)?,
            None => y,
        };
        match &self.bias {
            Some(bias) => ops::add(&y, bias),
            None => Ok(y),
        }
    }
}
