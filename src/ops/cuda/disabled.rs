//! A build without CUDA.

use candle_core::{DType, Device, Tensor};

use super::{Arg, Grid, Side};
use crate::{Error, Result};

/// Whether this build can use a GPU.
pub(in crate::ops) const BUILT: bool = false;

fn absent() -> Error {
    Error::request(
        "this build has no CUDA: build it with `cargo build --release --features cuda`, which needs a CUDA toolkit \
         (nvcc), or compute with --device cpu",
    )
}

/// There is no GPU to open.
pub(in crate::ops) fn open(_index: usize) -> Result<Device> {
    Err(absent())
}

pub(in crate::ops) fn count() -> usize {
    0
}

pub(in crate::ops) fn name(_device: &Device) -> Result<String> {
    Err(absent())
}

pub(in crate::ops) fn memory(_device: &Device) -> Result<(u64, u64)> {
    Err(absent())
}

pub(in crate::ops) fn peak(_device: &Device) -> Result<Option<u64>> {
    Err(absent())
}

pub(in crate::ops) fn take_products_in(_device: &Device, _dtype: DType) -> Result<()> {
    Ok(())
}

pub(in crate::ops) fn products(_device: &Device) -> DType {
    DType::F32
}

/// There is nothing to start.
///
/// # Safety
/// As its twin's.
pub(in crate::ops) unsafe fn launch(_kernel: &str, _grid: Grid, _args: &[Arg]) -> Result<()> {
    Err(absent())
}

/// Nothing arrives.
pub(in crate::ops) enum Arriving {}

impl Arriving {
    pub(in crate::ops) fn numbers(&self) -> Result<&[f64]> {
        match *self {}
    }
}

pub(in crate::ops) fn send(_tensor: &Tensor) -> Result<Arriving> {
    Err(absent())
}

pub(in crate::ops) fn multiply(_: Side, _: Side, _out: &Tensor, _add: bool) -> Result<()> {
    Err(absent())
}
