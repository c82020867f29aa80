//! Products with a weight matrix, x·Wᵀ.

use std::ops::Range;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Layout as Strides, Shape, Tensor, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::cuda::{self, plain, turned};
use super::matmul::{Matrix, Weight, product, product_back};
use super::rows::{Held, Rows, by_rows, filled};
use super::simd::prefetch;
use crate::{Error, Result};

/// x·Wᵀ with a frozen weight: `x` is `[t, i]` f32, `weight` is `[o, i]` f32, bf16 or f16, the product `[t, o]` f32.
/// Only `x` receives a gradient. Narrow weights are widened in cache and stay narrow in memory.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    apply(x, &weight.detach(), Linear { trained: false })
}

/// x·Wᵀ with gradients for both: `x` is `[t, i]`, `weight` is `[o, i]`, both f32.
///
/// # Errors
/// Shapes that do not fit, a narrow weight, or a device without this kernel.
pub(crate) fn trainable_linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    apply(x, weight, Linear { trained: true })
}

fn apply(x: &Tensor, weight: &Tensor, op: Linear) -> Result<Tensor> {
    let ((_, i), (o, depth)) = (x.dims2()?, weight.dims2()?);
    if i != depth || o == 0 || i == 0 {
        return Err(Error::work(format!("linear: x is {:?}, weight {:?}", x.shape(), weight.shape())));
    }
    if x.device().is_cuda() {
        return cuda::product(plain(x), turned(weight), DType::F32);
    }
    Ok(by_rows(x)?.apply_op2(&by_rows(weight)?, op)?)
}

struct Linear {
    trained: bool,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_strides: &Strides,
        weight: &CpuStorage,
        weight_strides: &Strides,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = Rows::new(self.name(), x, x_strides)?.matrix();
        let y = with_dense(weight, weight_strides, Forward(x))?;
        Ok((CpuStorage::F32(y), (x.rows, weight_strides.dims()[0]).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = by_rows(dy)?;
        let held_dy = Held::new(&dy);
        let rows = held_dy.rows(self.name())?.matrix();
        let dx = match x.track_op() {
            false => None,
            true => {
                let held = Held::new(weight);
                let (storage, strides) = held.cpu(self.name())?;
                Some(Tensor::from_vec(with_dense(storage, strides, Backward(rows))?, x.shape(), x.device())?)
            }
        };
        let dw = match self.trained && weight.track_op() {
            false => None,
            true => {
                let held = Held::new(x);
                let (storage, strides) = held.cpu(self.name())?;
                let dw = with_dense(storage, strides, Backward(rows.transposed()))?;
                Some(Tensor::from_vec(dw, weight.shape(), weight.device())?)
            }
        };
        Ok((dx, dw))
    }
}

/// Something to do with a weight, whatever its type.
pub(crate) trait WithWeight {
    type Output;
    fn run(self, weight: &impl Weight) -> Self::Output;
}

/// Runs `work` on the `[o, i]` weight in `storage`.
pub(crate) fn with_dense<W: WithWeight>(
    storage: &CpuStorage,
    strides: &Strides,
    work: W,
) -> candle_core::Result<W::Output> {
    Ok(match storage {
        CpuStorage::F32(data) => work.run(&Dense::new(data, strides)?),
        CpuStorage::BF16(data) => work.run(&Dense::new(data, strides)?),
        CpuStorage::F16(data) => work.run(&Dense::new(data, strides)?),
        other => bail!("linear: a weight of {:?} is not supported; expected f32, bf16 or f16", other.dtype()),
    })
}

/// x · weightᵀ.
pub(super) struct Forward<'a>(pub(super) Matrix<'a>);

impl WithWeight for Forward<'_> {
    type Output = Vec<f32>;

    fn run(self, weight: &impl Weight) -> Vec<f32> {
        let (t, o) = (self.0.rows, weight.rows());
        filled(t, o, |out| product(self.0, weight, None, out))
    }
}

/// x · weight.
struct Backward<'a>(Matrix<'a>);

impl WithWeight for Backward<'_> {
    type Output = Vec<f32>;

    fn run(self, weight: &impl Weight) -> Vec<f32> {
        let (t, i) = (self.0.rows, weight.columns());
        filled(t, i, |out| product_back(self.0, weight, None, out, false))
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
    /// The numbers themselves, if they are f32.
    #[inline(always)]
    fn wide(_: &[Self]) -> Option<&[f32]> {
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
    fn plain(&self) -> Option<Matrix<'_>> {
        Some(Matrix::new(T::wide(self.data)?, self.rows, self.columns, self.stride, 1))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};

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
            let inputs = [random(1, t, i), random(2, o, i)];
            check(&inputs, |x| trainable_linear(&x[0], &x[1]), |x| x[0].matmul(&x[1].t()?), 3e-6);
            let weight = &inputs[1];
            let exact = weight.to_dtype(DType::F64).unwrap();
            check(&inputs[..1], |x| linear(&x[0], weight), |x| x[0].matmul(&exact.t()?), 3e-6);
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
                    let x = Var::from_tensor(&x).unwrap();
                    let y = linear(&x, weight).unwrap();
                    let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                    (y, grads.get(&x).unwrap().clone())
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
    fn a_frozen_weight_gets_no_gradient_and_keeps_no_graph() {
        let (x, weight) = (random(1, 6, 9), Var::from_tensor(&random(2, 4, 9)).unwrap());
        assert!(!linear(&x, &weight).unwrap().track_op());
        let x = Var::from_tensor(&x).unwrap();
        let grads = linear(&x, &weight).unwrap().sum_all().unwrap().backward().unwrap();
        assert!(grads.get(&x).is_some() && grads.get(&weight).is_none());
    }

    #[test]
    fn same_on_any_threads() {
        for (t, i, o) in [(700, 600, 300), (3, 2000, 400), (1000, 700, 8)] {
            let (x, weight) = (random(1, t, i), random(2, o, i));
            assert_same_on_any_threads(|| {
                let (x, weight) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&weight).unwrap());
                let y = trainable_linear(&x, &weight).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                vec![y, grads.get(&x).unwrap().clone(), grads.get(&weight).unwrap().clone()]
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
