//! A weight matrix in whatever form it is kept, and its products.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, bail};

use super::add;
use super::cuda::{self, Arg, Grid, plain, turned};
use super::linear::{Multiply, WithWeight, with_dense};
use super::nf4::{Nf4OnGpu, Nf4Weight};
use super::rows::with_rows;
use crate::{Error, Result};

/// A frozen matrix `[o, i]` that multiplies.
#[derive(Clone, Debug)]
pub enum WeightMatrix {
    /// f32, bf16 or f16.
    Dense(Tensor),
    /// Four bits, decoded straight to f32 a panel at a time.
    FourBit(Arc<Nf4Weight>),
    /// Four bits on a GPU, decoded whole for each product.
    OnGpu(Arc<Nf4OnGpu>),
}

impl WeightMatrix {
    /// `(o, i)`.
    ///
    /// # Errors
    /// Work: not a matrix.
    pub fn shape(&self) -> Result<(usize, usize)> {
        match self {
            Self::Dense(weight) => Ok(weight.dims2()?),
            Self::FourBit(weight) => Ok(weight.shape()),
            Self::OnGpu(weight) => Ok(weight.shape()),
        }
    }

    /// x·Wᵀ, `[t, i]` to `[t, o]` in f32, on a GPU in the type of products.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device without this kernel.
    pub fn linear(&self, x: &Tensor) -> Result<Tensor> {
        self.fits("x", x, self.shape()?.1)?;
        if x.device().is_cuda() {
            return cuda::product(plain(x), turned(&self.on_gpu()?), cuda::products(x.device()));
        }
        self.multiply(x, None, false)
    }

    /// x·Wᵀ + u·Bᵀ: `u` is `[t, r]`, `b` `[o, r]`.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device without this kernel.
    pub fn linear_plus(&self, x: &Tensor, u: &Tensor, b: &Tensor) -> Result<Tensor> {
        let (o, i) = self.shape()?;
        self.fits("x", x, i)?;
        check_low(x, u, b, (o, 0))?;
        if x.device().is_cuda() {
            // the small one first: where y is bf16 its rounding is the smaller
            let y = cuda::product(plain(u), turned(b), cuda::products(x.device()))?;
            cuda::multiply(plain(x), turned(&self.on_gpu()?), &y, true)?;
            return Ok(y);
        }
        self.multiply(x, Some((u, b)), false)
    }

    /// dy·W, `[t, o]` to `[t, i]`, plus du·A: `du` is `[t, r]`, `a` `[r, i]`. The gradient of x.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device without this kernel.
    pub fn linear_backward(&self, dy: &Tensor, low: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
        let (o, i) = self.shape()?;
        self.fits("dy", dy, o)?;
        if let Some((du, a)) = low {
            check_low(dy, du, a, (i, 1))?;
        }
        if dy.device().is_cuda() {
            let Some((du, a)) = low else {
                return cuda::product(plain(dy), plain(&self.on_gpu()?), cuda::products(dy.device()));
            };
            let dx = cuda::product(plain(du), plain(a), cuda::products(dy.device()))?;
            cuda::multiply(plain(dy), plain(&self.on_gpu()?), &dx, true)?;
            return Ok(dx);
        }
        self.multiply(dy, low, true)
    }

    /// x·Wᵀ + u·Bᵀ, or `back` x·W + u·A, on the CPU.
    fn multiply(&self, x: &Tensor, low: Option<(&Tensor, &Tensor)>, back: bool) -> Result<Tensor> {
        let (t, (o, i)) = (x.dim(0)?, self.shape()?);
        let y = match low {
            None => with_rows("linear", [x], |[x]| self.run(Multiply { x: x.matrix(), low: None, back })),
            Some((left, right)) => with_rows("linear", [x, left, right], |[x, left, right]| {
                let right = if back { right.matrix() } else { right.matrix().transposed() };
                self.run(Multiply { x: x.matrix(), low: Some((left.matrix(), right)), back })
            }),
        }?;
        Ok(Tensor::from_vec(y, (t, if back { i } else { o }), x.device())?)
    }

    /// dy·W + own, `own` `[t, i]`, which is used up: on a GPU the sum lies in its place.
    ///
    /// # Errors
    /// Shapes that do not fit, or a device without this kernel.
    pub(crate) fn linear_backward_onto(&self, dy: &Tensor, own: Tensor) -> Result<Tensor> {
        self.fits("dy", dy, self.shape()?.0)?;
        if dy.device().is_cuda() {
            cuda::multiply(plain(dy), plain(&self.on_gpu()?), &own, true)?;
            return Ok(own);
        }
        add(&self.linear_backward(dy, None)?, &own)
    }

    /// The same matrix in four bits; one that is already is left as it is.
    ///
    /// # Errors
    /// Work: a weight that is not finite.
    pub fn quantize(&self, double: bool) -> Result<Self> {
        match self {
            Self::Dense(weight) => Ok(Self::FourBit(Arc::new(Nf4Weight::quantize(weight, double)?))),
            Self::FourBit(_) | Self::OnGpu(_) => Ok(self.clone()),
        }
    }

    /// The same matrix where `device` computes with it: on a GPU plain numbers in the type that its products take.
    ///
    /// # Errors
    /// The device's.
    pub fn on(&self, device: &Device) -> Result<Self> {
        if !device.is_cuda() {
            return Ok(self.clone());
        }
        match self {
            Self::Dense(weight) => Ok(Self::Dense(on_device(weight, device)?)),
            Self::FourBit(weight) => Ok(Self::OnGpu(Arc::new(Nf4OnGpu::new(weight, device)?))),
            Self::OnGpu(_) => Ok(self.clone()),
        }
    }

    /// The numbers, for a product on a GPU.
    fn on_gpu(&self) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight.clone()),
            Self::OnGpu(weight) => weight.dequantize(cuda::products(weight.device())),
            Self::FourBit(_) => Err(Error::work("linear: the weight is in main memory, the numbers on a GPU")),
        }
    }

    /// The whole matrix as numbers of `dtype`, on `device`.
    ///
    /// # Errors
    /// The device's.
    pub fn dense(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        match self {
            Self::Dense(weight) => Ok(weight.to_dtype(dtype)?.to_device(device)?),
            Self::FourBit(weight) => weight.dequantize(dtype, device),
            Self::OnGpu(weight) => Ok(weight.dequantize(DType::F32)?.to_dtype(dtype)?.to_device(device)?),
        }
    }

    fn fits(&self, name: &str, x: &Tensor, expected: usize) -> Result<()> {
        match x.dims2()? {
            (_, width) if width == expected => Ok(()),
            found => Err(Error::work(format!("linear: {name} is {found:?}, the weight {:?}", self.shape()?))),
        }
    }

    /// Runs `work` on a weight in this process's memory.
    pub(super) fn run<W: WithWeight>(&self, work: W) -> candle_core::Result<W::Output> {
        match self {
            Self::Dense(weight) => with_dense(weight, work),
            Self::FourBit(weight) => Ok(work.run(&**weight)),
            Self::OnGpu(_) => bail!("linear: the weight is on a GPU, the numbers in main memory"),
        }
    }
}

/// A dense matrix where `device` computes with it: on a GPU in the type that its products take.
///
/// # Errors
/// The device's.
pub(crate) fn on_device(weight: &Tensor, device: &Device) -> Result<Tensor> {
    let weight = match weight.dtype() {
        // no kernel of ours takes f16
        DType::F16 if device.is_cuda() => weight.to_dtype(DType::F32)?,
        _ => weight.clone(),
    };
    if device.is_cuda() { cuda::operand(&weight.to_device(device)?) } else { Ok(weight) }
}

/// A dense matrix on a GPU in its own type; f16 becomes f32.
///
/// # Errors
/// The device's.
pub(crate) fn as_stored_on(matrix: &Tensor, device: &Device) -> Result<Tensor> {
    let matrix = if matrix.dtype() == DType::F16 { matrix.to_dtype(DType::F32)? } else { matrix.clone() };
    Ok(matrix.to_device(device)?)
}

/// Row `ids[i]` of `matrix` (f32 or bf16, on a GPU) at row i, in f32.
///
/// # Errors
/// The device's.
pub(crate) fn gather(matrix: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (device, (rows, d)) = (matrix.device(), matrix.dims2()?);
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        return Err(Error::work(format!("row {id} of a matrix of {rows}")));
    }
    let kernel = match matrix.dtype() {
        DType::BF16 => "gather_bf16",
        DType::F32 => "gather_f32",
        other => return Err(Error::work(format!("rows of {other:?} are not gathered on a GPU"))),
    };
    let (grid, places) = (Grid::rows(ids.len(), d), Tensor::new(ids, device)?);
    // SAFETY: a block for each of the ids, which are rows of the matrix; it writes all of its row
    unsafe {
        let out = cuda::empty((ids.len(), d), DType::F32, device)?;
        let args = [Arg::Tensor(matrix), Arg::Tensor(&places), Arg::Tensor(&out), Arg::Size(d)];
        cuda::launch(kernel, grid, &args)?;
        Ok(out)
    }
}

/// Bytes that `numbers` of a weight, `stored` bytes on disk, take where `device` computes with them.
#[must_use]
pub fn weight_bytes(numbers: u64, stored: u64, device: &Device) -> u64 {
    if device.is_cuda() { numbers * cuda::products(device).size_in_bytes() as u64 } else { stored }
}

/// The two narrow factors beside a product with `x`: `[t, r]`, and `[n, r]` or `[r, n]`.
fn check_low(x: &Tensor, left: &Tensor, right: &Tensor, (n, rank_at): (usize, usize)) -> Result<()> {
    let (t, rank) = left.dims2()?;
    let expected = if rank_at == 0 { (n, rank) } else { (rank, n) };
    match t == x.dim(0)? && right.dims2()? == expected {
        true => Ok(()),
        false => Err(Error::work(format!("linear: low-rank factors {:?} and {:?}", left.shape(), right.shape()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_close, assert_same_on_any_threads, check, random};

    /// Tokens, outputs, inputs, rank: shapes that divide nothing, and rows whose blocks of 64 straddle them.
    const SHAPES: [(usize, usize, usize, usize); 6] =
        [(1, 3, 5, 1), (7, 130, 65, 3), (600, 64, 128, 8), (33, 200, 600, 16), (5, 1030, 64, 2), (70, 96, 1100, 8)];

    fn weights(o: usize, i: usize) -> Vec<WeightMatrix> {
        let dense = WeightMatrix::Dense(random(2, o, i));
        let narrow = WeightMatrix::Dense(random(3, o, i).to_dtype(DType::BF16).unwrap());
        vec![dense.quantize(false).unwrap(), dense.quantize(true).unwrap(), narrow, dense]
    }

    /// The product and its gradient equal those of the matrix written out.
    #[test]
    fn agrees_with_the_matrix() {
        for (t, o, i, _) in SHAPES {
            for weight in weights(o, i) {
                let exact = weight.dense(DType::F64, &Device::Cpu).unwrap();
                check(
                    &[random(1, t, i)],
                    |x| weight.linear(&x[0]),
                    |_, dy| Ok(vec![weight.linear_backward(dy, None)?]),
                    |x| x[0].matmul(&exact.t()?),
                    3e-6,
                );
            }
        }
    }

    /// With low-rank factors beside it, forward and backward.
    #[test]
    fn agrees_with_the_matrix_plus_low_rank() {
        for (t, o, i, r) in SHAPES {
            for weight in weights(o, i) {
                let exact = weight.dense(DType::F32, &Device::Cpu).unwrap();
                let (x, dy, u, du) = (random(4, t, i), random(5, t, o), random(6, t, r), random(7, t, r));
                let (a, b) = (random(8, r, i), random(9, o, r));
                let y = weight.linear_plus(&x, &u, &b).unwrap();
                let product = |x: &Tensor, w: &Tensor| x.matmul(w).unwrap();
                let expected = (product(&x, &exact.t().unwrap()) + product(&u, &b.t().unwrap())).unwrap();
                assert_close("y", &y, &expected, 2e-5);
                let dx = weight.linear_backward(&dy, Some((&du, &a))).unwrap();
                let expected = (product(&dy, &exact) + product(&du, &a)).unwrap();
                assert_close("dx", &dx, &expected, 2e-5);
            }
        }
    }

    #[test]
    fn threads_views_and_faults() {
        let weight = weights(300, 200).remove(1);
        let (x, u, b) = (random(1, 700, 200), random(2, 700, 8), random(3, 300, 8));
        assert_same_on_any_threads(|| {
            let y = weight.linear_plus(&x, &u, &b).unwrap();
            vec![weight.linear_backward(&y, None).unwrap(), y]
        });
        assert!(weight.linear(&random(1, 2, 199)).is_err());
        assert!(weight.linear_plus(&x, &u, &random(3, 300, 7)).is_err());
        assert!(weight.linear_backward(&x, None).is_err());
    }
}
