//! Products with a weight matrix, x·Wᵀ.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, DType, Layout as Strides, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::cuda::{self, plain, turned};
use super::matmul::{LowRank, Matrix, Weight, weight_product, weight_product_back};
use super::rows::{Held, by_rows, filled, with_rows};
use super::simd::{self, prefetch};
use crate::{Error, Result};

/// x·Wᵀ: `x` is `[t, i]` f32, `weight` is `[o, i]` f32, bf16 or f16, the product `[t, o]` f32. Narrow weights are
/// widened in cache and stay narrow in memory.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let ((t, i), (o, depth)) = (x.dims2()?, weight.dims2()?);
    if i != depth || o == 0 || i == 0 {
        return Err(Error::work(format!("linear: x is {:?}, weight {:?}", x.shape(), weight.shape())));
    }
    if x.device().is_cuda() {
        return cuda::product(plain(x), turned(weight), DType::F32);
    }
    let y = with_rows("linear", [x], |[x]| with_dense(weight, Multiply { x: x.matrix(), low: None, back: false }))?;
    Ok(Tensor::from_vec(y, (t, o), x.device())?)
}

/// Something to do with a weight, whatever its type.
pub(crate) trait WithWeight {
    type Output;
    fn run(self, weight: &impl Weight) -> Self::Output;
}

/// Runs `work` on the `weight`, `[o, i]` f32, bf16 or f16 in main memory.
pub(crate) fn with_dense<W: WithWeight>(weight: &Tensor, work: W) -> candle_core::Result<W::Output> {
    let weight = by_rows(weight)?;
    let held = Held::new(&weight);
    let (storage, strides) = held.cpu("linear")?;
    Ok(match storage {
        CpuStorage::F32(data) => work.run(&Dense::new(data, strides)?),
        CpuStorage::BF16(data) => work.run(&Dense::new(data, strides)?),
        CpuStorage::F16(data) => work.run(&Dense::new(data, strides)?),
        other => bail!("linear: a weight of {:?} is not supported; expected f32, bf16 or f16", other.dtype()),
    })
}

/// x · weightᵀ, or `back` x · weight, and what low-rank factors add.
pub(super) struct Multiply<'a> {
    pub(super) x: Matrix<'a>,
    pub(super) low: Option<LowRank<'a>>,
    pub(super) back: bool,
}

impl WithWeight for Multiply<'_> {
    type Output = Vec<f32>;

    fn run(self, weight: &impl Weight) -> Vec<f32> {
        let (t, width) = (self.x.rows, if self.back { weight.columns() } else { weight.rows() });
        filled(t, width, |out| match self.back {
            true => weight_product_back(self.x, weight, self.low, out, false),
            false => weight_product(self.x, weight, self.low, out),
        })
    }
}

/// Rows that are asked for ahead of their use.
const AHEAD: usize = 8;
/// Bytes of a line of the cache.
const LINE: usize = 64;

/// A weight that is stored as plain numbers.
pub(crate) struct Dense<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a, T> Dense<'a, T> {
    fn new(data: &'a [T], strides: &Strides) -> candle_core::Result<Self> {
        let (rows, columns) = strides.shape().dims2()?;
        let stride = match *strides.stride() {
            [stride, 1] => stride,
            [stride, _] if columns == 1 => stride,
            _ => bail!("linear: the numbers of a weight's row are not consecutive"),
        };
        let data = &data[strides.start_offset()..];
        if rows > 0 && (rows - 1) * stride + columns > data.len() {
            bail!("linear: the weight reaches past its storage")
        }
        Ok(Self { data, rows, columns, stride })
    }
}

impl<'a> Dense<'a, f32> {
    /// The rows of a matrix whose numbers are consecutive, in the place of a weight.
    pub(crate) fn of_rows(x: Matrix<'a>) -> Self {
        let (data, stride) = x.row_data();
        Self { data, rows: x.rows, columns: x.columns, stride }
    }
}

/// A number that widens to f32 without loss.
trait Narrow: Copy + Sync {
    fn widen(from: &[Self], to: &mut [f32]);
    /// Σ x·self, in the order of [`simd::dot`]; `scratch` is as long.
    #[inline(always)]
    fn dot(x: &[f32], own: &[Self], scratch: &mut [f32]) -> f32 {
        if let Some(wide) = Self::wide(own) {
            return simd::dot(x, wide);
        }
        Self::widen(own, scratch);
        simd::dot(x, scratch)
    }
    /// The numbers themselves, if they are f32.
    #[inline(always)]
    fn wide(_: &[Self]) -> Option<&[f32]> {
        None
    }
    /// The numbers themselves, if they are bf16.
    #[inline(always)]
    fn bf16(_: &[Self]) -> Option<&[bf16]> {
        None
    }
}

impl Narrow for f32 {
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn wide(from: &[Self]) -> Option<&[f32]> {
        Some(from)
    }
}

impl Narrow for bf16 {
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }

    #[inline(always)]
    fn dot(x: &[f32], own: &[Self], _: &mut [f32]) -> f32 {
        simd::sum2(x, own, |x, own| x * f32::from_bits(u32::from(own.to_bits()) << 16))
    }

    #[inline(always)]
    fn bf16(from: &[Self]) -> Option<&[bf16]> {
        Some(from)
    }
}

impl Narrow for f16 {
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
}

impl<T: Narrow> Weight for Dense<'_, T> {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    #[inline(always)]
    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        T::widen(&self.data[row * self.stride..][columns], out);
    }

    #[inline(always)]
    fn widen_rows(&self, rows: Range<usize>, columns: Range<usize>, stride: usize, out: &mut [f32]) {
        for (row, out) in rows.zip(out.chunks_mut(stride)) {
            // a panel's rows are too far apart for the processor to guess the next
            let ahead = (row + AHEAD) * self.stride;
            for column in columns.clone().step_by(LINE / size_of::<T>()) {
                prefetch(self.data, ahead + column);
            }
            self.widen(row, columns.clone(), &mut out[..columns.len()]);
        }
    }

    #[inline(always)]
    fn dot(&self, row: usize, start: usize, x: &[f32], scratch: &mut [f32]) -> f32 {
        // from one row to a later one
        let ahead = (row + AHEAD) * self.stride + start;
        for column in (0..x.len()).step_by(LINE / size_of::<T>()) {
            prefetch(self.data, ahead + column);
        }
        T::dot(x, &self.data[row * self.stride + start..][..x.len()], scratch)
    }

    #[inline(always)]
    fn bf16_row(&self, row: usize) -> Option<&[bf16]> {
        if row >= self.rows {
            return None;
        }
        T::bf16(self.data.get(row * self.stride..)?.get(..self.columns)?)
    }

    #[inline(always)]
    fn plain(&self) -> Option<Matrix<'_>> {
        Some(Matrix::new(T::wide(self.data)?, self.rows, self.columns, self.stride, 1))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};
    use crate::ops::{WeightMatrix, outer};

    /// t, i, o: single rows, odd sizes, sums longer than a block, outputs wider and narrower than a panel.
    const SHAPES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 1100, 97),
        (3, 7, 5),
        (4, 600, 200),
        (5, 520, 1),
        (17, 48, 300),
        (33, 1, 2),
        (100, 1030, 113),
        (513, 20, 8),
        (600, 8, 210),
        (64, 96, 96),
        (530, 130, 260),
    ];

    #[test]
    fn agrees_with_the_product() {
        for (t, i, o) in SHAPES {
            let weight = random(2, o, i);
            let exact = weight.to_dtype(DType::F64).unwrap();
            check(
                &[random(1, t, i)],
                |x| linear(&x[0], &weight),
                |_, dy| Ok(vec![WeightMatrix::Dense(weight.clone()).linear_backward(dy, None)?]),
                |x| x[0].matmul(&exact.t()?),
                3e-6,
            );
        }
    }

    #[test]
    fn narrow_weights_count_as_what_they_hold() {
        for (t, i, o) in SHAPES {
            for dtype in [DType::BF16, DType::F16] {
                let narrow = random(2, o, i).to_dtype(dtype).unwrap();
                let wide = narrow.to_dtype(DType::F32).unwrap();
                let x = random(1, t, i);
                let results = [&narrow, &wide].map(|weight| {
                    let y = linear(&x, weight).unwrap();
                    let dx = WeightMatrix::Dense(weight.clone()).linear_backward(&y, None).unwrap();
                    (y, dx)
                });
                assert_close("value", &results[0].0, &results[1].0, 0.0);
                assert_close("gradient", &results[0].1, &results[1].1, 0.0);
            }
        }
    }

    #[test]
    fn views_are_read_where_they_are() {
        for (t, i, o) in SHAPES {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let (x, weight) = (random(1, t, i), random(2, o, i).to_dtype(dtype).unwrap());
                let expected = linear(&x, &weight).unwrap();
                assert_close("view", &linear(&as_view(&x), &as_view(&weight)).unwrap(), &expected, 0.0);
                let x = x.t().unwrap().contiguous().unwrap().t().unwrap();
                assert_close("columns", &linear(&x, &weight).unwrap(), &expected, 0.0);
            }
        }
    }

    #[test]
    fn same_on_any_threads() {
        for (t, i, o) in [(700, 600, 300), (3, 2000, 400), (1000, 700, 8)] {
            let (x, weight) = (random(1, t, i), random(2, o, i));
            assert_same_on_any_threads(|| {
                let y = linear(&x, &weight).unwrap();
                let dx = WeightMatrix::Dense(weight.clone()).linear_backward(&y, None).unwrap();
                vec![outer(&y, &x).unwrap(), dx, y]
            });
        }
    }

    #[test]
    fn faults_are_named() {
        let message = linear(&random(1, 2, 3), &random(1, 4, 5)).unwrap_err().to_string();
        assert!(message.contains("[2, 3]") && message.contains("[4, 5]"), "{message}");
        let whole = random(2, 4, 3).to_dtype(DType::U32).unwrap();
        assert!(linear(&random(1, 2, 3), &whole).unwrap_err().to_string().contains("U32"));
        assert!(linear(&random(1, 2, 3).to_dtype(DType::F64).unwrap(), &random(1, 4, 3)).is_err());
    }
}
