//! CUDA: kernels, launches, products, the device's memory. Nothing outside this folder knows how a GPU is reached.
//!
//! Where products take bf16, what is made for a product or by one is bf16 too. The residual stream, its gradient,
//! losses and the gradients of parameters are f32, and so is every sum.
//!
//! `enabled` and `disabled` are twins with the same functions. Without the feature `cuda` no device can be opened, so
//! no tensor is ever on one, and what else `disabled` has is never reached.

#[cfg(not(feature = "cuda"))]
mod disabled;
#[cfg(feature = "cuda")]
mod enabled;

use candle_core::{DType, Device, Tensor};
#[cfg(not(feature = "cuda"))]
pub(super) use disabled::{
    Arriving, BUILT, count, launch, memory, multiply, name, open, peak, products, send, take_products_in,
};
#[cfg(feature = "cuda")]
pub(super) use enabled::{
    Arriving, BUILT, count, launch, memory, multiply, name, open, peak, products, send, take_products_in,
};

use crate::{Error, Result};

/// An argument of a kernel.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a build with CUDA reads it"))]
pub(super) enum Arg<'a> {
    /// Address of a contiguous tensor's first number; kernels write through it as well.
    Tensor(&'a Tensor),
    /// A `size_t`.
    Size(usize),
    /// A `float`.
    Float(f32),
}

/// How many threads run a kernel.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only a build with CUDA reads it"))]
pub(super) struct Grid {
    /// Blocks of threads, in two dimensions; those next to each other in the first start together.
    pub(super) blocks: (usize, usize),
    /// Threads of a block.
    pub(super) threads: usize,
    /// Bytes of memory that a block shares, besides what the kernel itself declares.
    pub(super) shared: usize,
}

/// Threads of a block, where the kernel has no wish of its own.
const THREADS: usize = 256;

impl Grid {
    /// Enough threads for `n` elements; with more than that each takes several.
    pub(super) fn over(n: usize) -> Self {
        Self { blocks: (n.div_ceil(THREADS).min(1 << 16), 1), threads: THREADS, shared: 0 }
    }

    /// The same where a thread takes eight elements at a time.
    pub(super) fn over_eights(n: usize) -> Self {
        Self::over(n.div_ceil(8))
    }

    /// A block a row of `width` numbers.
    pub(super) fn rows(rows: usize, width: usize) -> Self {
        let threads = width.div_ceil(8).next_multiple_of(32).clamp(32, THREADS);
        Self { blocks: (rows, 1), threads, shared: 0 }
    }
}

/// One side of a product.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) matrix: &'a Tensor,
    /// Take its transpose.
    pub(super) turned: bool,
}

/// The matrix as it is.
pub(super) fn plain(matrix: &Tensor) -> Side<'_> {
    Side { matrix, turned: false }
}

/// Its transpose.
pub(super) fn turned(matrix: &Tensor) -> Side<'_> {
    Side { matrix, turned: true }
}

/// Uninitialised numbers, for a kernel that writes all of them.
///
/// # Safety
/// Every number is written before any is read.
pub(super) unsafe fn empty(shape: impl Into<candle_core::Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the caller's word
    Ok(unsafe { Tensor::empty(shape, dtype, device)? })
}

/// Refuses tensors of another type than the kernel declares that is given their addresses.
pub(super) fn all_are(dtype: DType, tensors: &[&Tensor]) -> Result<()> {
    match tensors.iter().find(|tensor| tensor.dtype() != dtype) {
        None => Ok(()),
        Some(other) => Err(Error::work(format!("a GPU's kernel takes {dtype:?} here, not {:?}", other.dtype()))),
    }
}

/// The kernel of a family for tensors of these types.
pub(super) fn named(family: &str, types: &[DType]) -> String {
    types.iter().fold(family.to_owned(), |name, dtype| name + "_" + dtype.as_str())
}

/// left · right as numbers of `dtype`.
pub(super) fn product(left: Side, right: Side, dtype: DType) -> Result<Tensor> {
    let rows = left.matrix.dim(usize::from(left.turned))?;
    let columns = right.matrix.dim(usize::from(!right.turned))?;
    // SAFETY: the product is all of it
    let out = unsafe { empty((rows, columns), dtype, left.matrix.device())? };
    multiply(left, right, &out, false)?;
    Ok(out)
}

/// `x` in the type of a product's operands.
pub(super) fn operand(x: &Tensor) -> Result<Tensor> {
    in_type(x, products(x.device()))
}

/// `x`, without gaps, as numbers of `dtype`.
pub(super) fn in_type(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let x = x.contiguous()?;
    let kernel = match (x.dtype(), dtype) {
        (own, wanted) if own == wanted => return Ok(x),
        (DType::F32, DType::BF16) => "narrow_to_bf16",
        (DType::BF16, DType::F32) => "widen_bf16",
        (_, wanted) => return Ok(x.to_dtype(wanted)?),
    };
    let n = x.elem_count();
    // SAFETY: the kernel is the one for these types; it reads n numbers and writes as many, which are all
    unsafe {
        let y = empty(x.shape(), dtype, x.device())?;
        launch(kernel, Grid::over_eights(n), &[Arg::Tensor(&x), Arg::Tensor(&y), Arg::Size(n)])?;
        Ok(y)
    }
}
