//! Changing a tensor where it lies, for all who hold it.

use std::cell::RefCell;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, bail};

use super::cuda::{self, Arg, Grid};
use super::rows::Held;
use crate::{Error, Result};

/// Runs `change` on the numbers of a contiguous f32 tensor; every tensor that shares them sees the new ones. Numbers on
/// a GPU come to main memory and go back.
///
/// # Errors
/// Another dtype, a view with gaps, or a device without this kernel.
pub fn edit<R>(tensor: &Tensor, change: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    if tensor.device().is_cuda() {
        let mut numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
        let result = change(&mut numbers);
        let n = numbers.len();
        let new = Tensor::from_vec(numbers, n, tensor.device())?;
        // SAFETY: both hold n numbers, f32 as they came
        unsafe { cuda::launch("copy", Grid::over_eights(n), &[Arg::Tensor(&new), Arg::Tensor(tensor), Arg::Size(n)])? };
        return Ok(result);
    }
    let op = Edit(RefCell::new(Change::Ahead(change)));
    tensor.inplace_op1(&op)?;
    match op.0.into_inner() {
        Change::Done(result) => Ok(result),
        _ => Err(Error::work("edit: nothing was done")),
    }
}

/// Lends the numbers of a contiguous f32 tensor; those on a GPU are copied to main memory.
///
/// # Errors
/// Another dtype, a view with gaps, or a device without this kernel.
pub fn numbers<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    let held = Held::new(&tensor);
    let (storage, layout) = held.cpu("numbers")?;
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((begin, end))) => Ok(read(&numbers[begin..end])),
        _ => Err(Error::work("expected contiguous f32 numbers")),
    }
}

/// Something to do once, then what came of it.
enum Change<F, R> {
    Ahead(F),
    Done(R),
    Gone,
}

struct Edit<F, R>(RefCell<Change<F, R>>);

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Edit<F, R> {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(numbers), Some((begin, end))) => {
                if let Change::Ahead(change) = self.0.replace(Change::Gone) {
                    self.0.replace(Change::Done(change(&mut numbers[begin..end])));
                }
                Ok(())
            }
            _ => bail!("edit: expected contiguous f32 numbers"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::{edit, numbers};

    #[test]
    fn sharers_see_it() {
        let tensor = Tensor::zeros(3, candle_core::DType::F32, &Device::Cpu).unwrap();
        let shared = tensor.detach();
        edit(&tensor, |numbers| numbers[1] = 2.0).unwrap();
        assert_eq!(shared.to_vec1::<f32>().unwrap(), [0.0, 2.0, 0.0]);
        assert_eq!(numbers(&shared, <[f32]>::to_vec).unwrap(), [0.0, 2.0, 0.0]);
        let gaps = Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(edit(&gaps.t().unwrap(), |_| ()).is_err());
        assert!(edit(&gaps.to_dtype(candle_core::DType::F64).unwrap(), |_| ()).is_err());
    }
}
