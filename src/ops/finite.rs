//! Whether a tensor holds only finite values.

use candle_core::{DType, Device, Storage, Tensor};

use super::cuda::{self, Arg, Grid};
use super::simd::vectorized;
use crate::Result;

/// Whether every element of `x` is finite. What is not f32 and contiguous is copied first.
///
/// # Errors
/// The device's.
pub fn all_finite(x: &Tensor) -> Result<bool> {
    let x = x.to_dtype(DType::F32)?.contiguous()?;
    if x.device().is_cuda() {
        let flag = Tensor::zeros(1, DType::U32, x.device())?;
        raise(&flag, &x)?;
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
        vectorized(
            #[inline(always)]
            || largest(chunk),
        ) < infinity
    }))
}

/// The first row of `x` `[n, d]` that holds a value that is not finite. For messages: `x` is copied to main memory.
///
/// # Errors
/// The device's.
pub(crate) fn first_not_finite(x: &Tensor) -> Result<Option<usize>> {
    let rows = x.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    Ok(rows.iter().position(|row| row.iter().any(|value| !value.is_finite())))
}

/// Raises a flag, of one number, on a GPU where `x` holds a value that is not finite.
fn raise(flag: &Tensor, x: &Tensor) -> Result<()> {
    cuda::all_are(DType::F32, &[x])?;
    cuda::all_are(DType::U32, &[flag])?;
    let n = x.elem_count();
    let args = [Arg::Tensor(x), Arg::Tensor(flag), Arg::Size(n)];
    // SAFETY: n numbers are read, and one flag is raised
    unsafe { cuda::launch("find_not_finite", Grid::over_eights(n), &args) }
}

/// A look at residual streams, one after the other, that waits for a GPU only at the end.
#[derive(Debug)]
pub struct FiniteWatch {
    /// On a GPU one for each place.
    flags: Option<Tensor>,
    /// In main memory the first place that is known to be broken.
    broken: Option<usize>,
}

impl FiniteWatch {
    /// For `places` streams on `device`.
    ///
    /// # Errors
    /// The device's.
    pub fn new(places: usize, device: &Device) -> Result<Self> {
        let flags = device.is_cuda().then(|| Tensor::zeros(places, DType::U32, device)).transpose()?;
        Ok(Self { flags, broken: None })
    }

    /// Looks at the stream of `place`, f32. True while nothing is known to be wrong.
    ///
    /// # Errors
    /// The device's.
    pub fn look(&mut self, place: usize, x: &Tensor) -> Result<bool> {
        match &self.flags {
            Some(flags) => raise(&flags.narrow(0, place, 1)?, &x.contiguous()?)?,
            None if self.broken.is_none() && !all_finite(x)? => self.broken = Some(place),
            None => {}
        }
        Ok(self.broken.is_none())
    }

    /// The first place whose stream was not finite.
    ///
    /// # Errors
    /// The device's.
    pub fn first_broken(&self) -> Result<Option<usize>> {
        match &self.flags {
            Some(flags) => Ok(flags.to_vec1::<u32>()?.iter().position(|flag| *flag != 0)),
            None => Ok(self.broken),
        }
    }
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
