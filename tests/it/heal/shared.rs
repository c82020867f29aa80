//! Reading goldens, and comparing with them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

/// All tensors of a safetensors file.
pub(crate) fn tensors(path: impl AsRef<Path>) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Largest absolute difference.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    difference.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}
