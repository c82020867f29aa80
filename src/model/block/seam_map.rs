//! The linear map behind a block: what a repair put at the seam of a cut. It is frozen, and held in f32 on a CPU.

use candle_core::{DType, Tensor};

use crate::model::load_options::Loader;
use crate::ops::{self, WeightMatrix};
use crate::{Error, Result};

/// x + x·M.
#[derive(Clone, Debug)]
pub(crate) struct LinearMap {
    /// Mᵀ, `[d, d]`; or what reduces, `[r, d]`, and what expands, `[d, r]`.
    factors: Vec<WeightMatrix>,
}

impl LinearMap {
    /// Of these factors, in the order in which they multiply, f32.
    ///
    /// # Errors
    /// Work: no factor.
    pub(crate) fn new(factors: Vec<WeightMatrix>) -> Result<Self> {
        match factors.is_empty() {
            true => Err(Error::work("a linear map without a matrix")),
            false => Ok(Self { factors }),
        }
    }

    /// The map behind the layer of `loader`; `None` where it has none.
    pub(super) fn load(loader: &Loader<'_>) -> Result<Option<Self>> {
        let tensors = loader.spec.seam_tensors(loader.layer);
        if tensors.is_empty() {
            return Ok(None);
        }
        let cpu = candle_core::Device::Cpu;
        let factors = tensors.iter().map(|tensor| {
            let weight = loader.checkpoint.load_f32(&tensor.name, &tensor.shape, &cpu)?.to_dtype(DType::F32)?;
            WeightMatrix::Dense(weight).on(loader.device)
        });
        Self::new(factors.collect::<Result<_>>()?).map(Some)
    }

    /// The stream `[t, d]` behind it.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let update = self.factors.iter().try_fold(x.clone(), |x, factor| factor.linear(&x))?;
        ops::add(x, &update)
    }

    /// From the gradient of what left it to that of what entered, `[t, d]`.
    pub(super) fn backward(&self, dy: &Tensor) -> Result<Tensor> {
        let update = self.factors.iter().rev().try_fold(dy.clone(), |dy, factor| factor.linear_backward(&dy, None))?;
        ops::add(dy, &update)
    }
}
