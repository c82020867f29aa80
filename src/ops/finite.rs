//! Whether a tensor holds only finite values.

use candle_core::{DType, Storage, Tensor};

use super::cuda::{self, Arg, Grid};
use super::simd::vectorised;
use crate::Result;

/// Whether every element of `x` is finite. What is not f32 and contiguous is copied first.
///
/// # Errors
/// The device's.
pub fn all_finite(x: &Tensor) -> Result<bool> {
    let x = x.to_dtype(DType::F32)?.contiguous()?;
    if x.device().is_cuda() {
        let (flag, n) = (Tensor::zeros(1, DType::U32, x.device())?, x.elem_count());
        cuda::launch("find_not_finite", Grid::over_eights(n), &[Arg::Tensor(&x), Arg::Tensor(&flag), Arg::Size(n)])?;
        return Ok(flag.to_vec1::<u32>()? == [0]);
    }
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { return Ok(false) };
    let start = layout.start_offset();
    let values = &storage.as_slice::<f32>()?[start..start + layout.shape().elem_count()];
    // without the sign, the bits of what is finite are below those of infinity
    let largest = |values: &[f32]| values.iter().fold(0, |most, value| most.max(value.to_bits() << 1));
    let infinity = f32::INFINITY.to_bits() << 1;
    Ok(values.chunks(4096).all(|chunk| {
        vectorised(
            #[inline(always)]
            || largest(chunk),
        ) < infinity
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn finds_one_bad_value_anywhere() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 4095, 4096, 9999] {
                let mut values = vec![1e30_f32; 10_000];
                assert!(all_finite(&Tensor::from_slice(&values, 10_000, &Device::Cpu).unwrap()).unwrap());
                values[at] = bad;
                assert!(!all_finite(&Tensor::from_slice(&values, (100, 100), &Device::Cpu).unwrap()).unwrap());
            }
        }
    }
}
