//! Dropout whose mask is a function of numbers, so that a backward pass makes the same one again.

use candle_core::Tensor;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::cuda::{self, Arg, Grid};
use super::rows::{Rows, with_rows};
use super::simd::vectorized;
use crate::{Error, Result};

/// A mask: which numbers of a tensor are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Share of the numbers that is dropped, in [0, 1).
    pub rate: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Different for every use.
    pub stream: u64,
    /// Rows of the same tensor that come before the first one: a tensor that is masked some rows at a time gets the
    /// mask of the whole.
    pub row: usize,
}

/// Sets a share of the numbers to zero and divides the others by what is left of one; `x` is `[t, i]` f32. Its gradient
/// is the same again.
///
/// # Errors
/// A device without this kernel.
pub fn dropout(x: &Tensor, mask: Mask) -> Result<Tensor> {
    if x.device().is_cuda() {
        return mask.on_gpu(x);
    }
    let y = with_rows("dropout", [x], |[x]| Ok(mask.on_rows(x, None)))?;
    Ok(Tensor::from_vec(y, x.shape(), x.device())?)
}

/// [`dropout`] of the rows `rows` of a tensor, which `x` is: each is masked as it is in the whole.
///
/// # Errors
/// As many rows as `x` has not, or a device without this kernel.
pub fn dropout_rows(x: &Tensor, mask: Mask, rows: &[u32]) -> Result<Tensor> {
    if x.dim(0)? != rows.len() {
        return Err(Error::work(format!("dropout: {} rows of {:?}", rows.len(), x.shape())));
    }
    if !x.device().is_cuda() {
        let y = with_rows("dropout", [x], |[x]| Ok(mask.on_rows(x, Some(rows))))?;
        return Ok(Tensor::from_vec(y, x.shape(), x.device())?);
    }
    let Some(most) = rows.iter().max() else { return Ok(x.clone()) };
    let ones = Tensor::ones((*most as usize + 1, x.dim(1)?), x.dtype(), x.device())?;
    let rows = Tensor::new(rows, x.device())?;
    Ok((x * mask.on_gpu(&ones)?.index_select(&rows, 0)?)?)
}

/// Numbers that one task masks.
const CHUNK: usize = 1 << 14;

impl Mask {
    /// What an undropped number is multiplied with.
    fn keep(&self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }

    /// A number is dropped where its random word is below.
    fn limit(&self) -> u32 {
        (self.rate * f64::from(u32::MAX)) as u32
    }

    /// The same mask as on the CPU.
    fn on_gpu(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let (n, first) = (x.elem_count(), self.row * x.dim(1)?);
        // SAFETY: the kernel below writes all n numbers
        let y = unsafe { cuda::empty(x.shape(), x.dtype(), x.device())? };
        let seed = ChaCha8Rng::seed_from_u64(self.seed).get_seed();
        let key = seed.as_chunks::<8>().0.iter().map(|eight| Arg::Size(u64::from_le_bytes(*eight) as usize));
        let mut args = vec![Arg::Tensor(&x), Arg::Tensor(&y), Arg::Size(n), Arg::Size(first)];
        args.extend(key);
        args.extend([Arg::Size(self.stream as usize), Arg::Size(self.limit() as usize), Arg::Float(self.keep())]);
        let kernel = cuda::named("dropout", &[x.dtype()]);
        // SAFETY: both hold n numbers of the kernel's type
        unsafe { cuda::launch(&kernel, Grid::over((first % 16 + n).div_ceil(16)), &args)? };
        Ok(y)
    }

    /// `places`: which rows of the whole these are; one after the other where it does not say.
    fn on_rows(&self, x: Rows, places: Option<&[u32]>) -> Vec<f32> {
        let (width, keep, limit) = (x.width.max(1), self.keep(), self.limit());
        let mut y = vec![0_f32; x.count * x.width];
        let rows = CHUNK.div_ceil(width);
        y.par_chunks_mut(rows * width).enumerate().for_each(|(chunk, y)| {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(self.stream);
            random.set_word_pos(((self.row + chunk * rows) * width) as u128);
            let mut words = vec![[0; 4]; width];
            for (row, y) in y.chunks_exact_mut(width).enumerate() {
                if let Some(place) = places.and_then(|places| places.get(chunk * rows + row)) {
                    random.set_word_pos(((self.row + *place as usize) * width) as u128);
                }
                // a row's words at one time: the generator makes many as fast as one
                random.fill_bytes(words.as_flattened_mut());
                let numbers = x.row(chunk * rows + row);
                vectorized(
                    #[inline(always)]
                    || {
                        for ((y, x), word) in y.iter_mut().zip(numbers).zip(&words) {
                            *y = if u32::from_le_bytes(*word) < limit { 0.0 } else { x * keep };
                        }
                    },
                );
            }
        });
        y
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A row's words are those that come one by one.
    #[test]
    fn masks_are_the_generators() {
        let mask = Mask { rate: 0.5, seed: 5, stream: 2, row: 3 };
        let x = Tensor::ones((4, 37), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(5);
        random.set_stream(2);
        random.set_word_pos(3 * 37);
        let expected: Vec<f32> =
            (0..4 * 37).map(|_| if random.next_u32() < mask.limit() { 0.0 } else { mask.keep() }).collect();
        assert_eq!(dropout(&x, mask).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
    }

    #[test]
    fn keeps_the_mean_and_repeats() {
        let x = Tensor::ones((300, 257), candle_core::DType::F32, &Device::Cpu).unwrap();
        let mask = Mask { rate: 0.25, seed: 3, stream: 9, row: 0 };
        let numbers = |mask| dropout(&x, mask).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let y = numbers(mask);
        assert!(y.iter().all(|y| *y == 0.0 || *y == 1.0 / 0.75));
        let dropped = y.iter().filter(|y| **y == 0.0).count() as f64 / y.len() as f64;
        assert!((dropped - 0.25).abs() < 0.01, "{dropped}");
        assert_eq!(y, numbers(mask));
        assert_ne!(y, numbers(Mask { stream: 10, ..mask }));
        assert_ne!(y, numbers(Mask { seed: 4, ..mask }));
        for row in [0, 1, 64, 230] {
            let part = dropout(&x.narrow(0, row, 70).unwrap(), Mask { row, ..mask }).unwrap();
            assert_eq!(part.flatten_all().unwrap().to_vec1::<f32>().unwrap(), y[row * 257..][..70 * 257]);
        }
        assert!(numbers(Mask { rate: 0.0, ..mask }).iter().all(|y| *y == 1.0));
        let some = dropout_rows(&x.narrow(0, 0, 3).unwrap(), Mask { row: 2, ..mask }, &[200, 7, 8]).unwrap();
        let whole: Vec<f32> = [202, 9, 10].iter().flat_map(|row| y[row * 257..][..257].to_vec()).collect();
        assert_eq!(some.flatten_all().unwrap().to_vec1::<f32>().unwrap(), whole);
        assert!(dropout_rows(&x, mask, &[1]).is_err());
    }
}
