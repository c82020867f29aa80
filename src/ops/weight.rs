//! A weight matrix in whatever form it is kept.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::nf4::nf4_linear_backward;
use super::{Nf4Weight, linear, nf4_linear};
use crate::Result;

/// A matrix `[o, i]` that multiplies.
#[derive(Clone, Debug)]
pub enum WeightMatrix {
    /// f32, bf16 or f16.
    Dense(Tensor),
    /// Four bits.
    FourBit(Arc<Nf4Weight>),
}

impl WeightMatrix {
    /// `(o, i)`.
    ///
    /// # Errors
    /// Work: not a matrix.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => Ok(weight.dims2()?),
            Self::FourBit(weight) => Ok(weight.shape()),
        }
    }

    /// x·Wᵀ, `[t, i]` to `[t, o]` in f32. Only `x` receives a gradient.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device without this kernel.
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => linear(x, weight),
            Self::FourBit(weight) => nf4_linear(x, weight),
        }
    }

    /// dy·W, `[t, o]` to `[t, i]` in f32: the gradient of x. No gradient of its own.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device without this kernel.
    pub fn linear_backward(&self, dy: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok(dy.matmul(&weight.to_dtype(DType::F32)?)?),
            Self::FourBit(weight) => nf4_linear_backward(dy, weight),
        }
    }

    /// The same matrix in four bits; one that is already is left as it is.
    ///
    /// # Errors
    /// Work: a weight that is not finite.
    pub fn quantise(&self, double: bool) -> Result<Self> {
        match self {
            Self::Dense(weight) => Ok(Self::FourBit(Arc::new(Nf4Weight::quantise(weight, double)?))),
            Self::FourBit(_) => Ok(self.clone()),
        }
    }

    /// The whole matrix as numbers of `dtype`.
    ///
    /// # Errors
    /// The device's.
    pub fn dense(&self, dtype: DType) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight.to_dtype(dtype)?),
            Self::FourBit(weight) => weight.dequantise(dtype, &candle_core::Device::Cpu),
        }
    }

    /// Bytes it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::FourBit(weight) => weight.bytes(),
        }
    }
}
