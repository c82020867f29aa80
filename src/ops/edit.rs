//! Changing a tensor where it lies, for all who hold it.

use std::cell::RefCell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor, bail};

use super::rows::Held;
use crate::{Error, Result};

/// Runs `change` on the numbers of a contiguous f32 tensor; every tensor that shares them sees the new ones.
///
/// # Errors
/// Another dtype, a view with gaps, or a device without this kernel.
pub fn edit(tensor: &Tensor, change: impl FnMut(&mut [f32])) -> Result<()> {
    Ok(tensor.inplace_op1(&Edit(RefCell::new(change)))?)
}

/// Lends the numbers of a contiguous f32 tensor in main memory.
///
/// # Errors
/// Another dtype, a view with gaps, or a device without this kernel.
pub fn numbers<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let held = Held::new(tensor);
    let (storage, layout) = held.cpu("numbers")?;
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((begin, end))) => Ok(read(&numbers[begin..end])),
        _ => Err(Error::work("expected contiguous f32 numbers")),
    }
}

struct Edit<F>(RefCell<F>);

impl<F: FnMut(&mut [f32])> InplaceOp1 for Edit<F> {
    fn name(&self) -> &'static str {
        "edit"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(numbers), Some((begin, end))) => {
                (self.0.borrow_mut())(&mut numbers[begin..end]);
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
