//! Four-bit weights on a GPU.

use candle_core::{DType, Device, Tensor};

use super::super::cuda::{self, Arg, Grid};
use super::{Nf4Weight, Scales};
use crate::{Error, Result};

/// A frozen matrix `[o, i]` in four bits, in the memory of a GPU.
#[derive(Debug)]
pub struct Nf4OnGpu {
    /// Two codes a byte.
    packed: Tensor,
    /// The values of the 16 codes.
    codes: Tensor,
    scales: ScalesOnGpu,
    block: usize,
    shape: (usize, usize),
}

#[derive(Debug)]
enum ScalesOnGpu {
    Plain(Tensor),
    Double { codes: Tensor, map: Tensor, outer: Tensor, outer_block: usize, offset: f32 },
}

impl Nf4OnGpu {
    /// Copies a weight to `device`.
    ///
    /// # Errors
    /// The device's.
    pub fn new(weight: &Nf4Weight, device: &Device) -> Result<Self> {
        let bytes = |bytes: &[u8]| Tensor::from_slice(bytes, bytes.len(), device);
        let floats = |floats: &[f32]| Tensor::from_slice(floats, floats.len(), device);
        Ok(Self {
            packed: bytes(weight.packed())?,
            codes: floats(weight.codes())?,
            scales: match weight.scales() {
                Scales::Plain(scales) => ScalesOnGpu::Plain(floats(scales)?),
                Scales::Double { codes, map, outer, outer_block, offset } => ScalesOnGpu::Double {
                    codes: bytes(codes)?,
                    map: floats(&map[..])?,
                    outer: floats(outer)?,
                    outer_block: *outer_block,
                    offset: *offset,
                },
            },
            block: weight.block(),
            shape: weight.shape(),
        })
    }

    /// `(o, i)`.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        self.shape
    }

    /// Where it is.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.packed.device()
    }

    /// The whole matrix `[o, i]` in bf16 or f32: code times scale in f32, then one rounding.
    ///
    /// # Errors
    /// The device's, or another type.
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        let n = self.shape.0 * self.shape.1;
        if u32::try_from(n).is_err() {
            return Err(Error::work(format!("a four-bit matrix of {:?} is too large for a GPU's kernel", self.shape)));
        }
        let (scales, kernel, more) = match (&self.scales, dtype) {
            (ScalesOnGpu::Plain(scales), DType::F32) => (vec![scales], "nf4_f32", vec![]),
            (ScalesOnGpu::Plain(scales), DType::BF16) => (vec![scales], "nf4_bf16", vec![]),
            (ScalesOnGpu::Double { codes, map, outer, outer_block, offset }, DType::F32 | DType::BF16) => {
                let kernel = if dtype == DType::F32 { "nf4_double_f32" } else { "nf4_double_bf16" };
                (vec![codes, map, outer], kernel, vec![Arg::Size(*outer_block), Arg::Float(*offset)])
            }
            _ => return Err(Error::work(format!("a four-bit weight becomes f32 or bf16 on a GPU, not {dtype:?}"))),
        };
        let mut args = vec![Arg::Tensor(&self.packed), Arg::Tensor(&self.codes)];
        args.extend(scales.into_iter().map(Arg::Tensor));
        // SAFETY: codes and scales are as many as the n weights need, asked when the weight was made; the kernel, which
        // is the one for `dtype`, writes n numbers
        unsafe {
            let out = cuda::empty(self.shape, dtype, self.device())?;
            let written = [Arg::Tensor(&out), Arg::Size(n), Arg::Size(self.block)];
            cuda::launch(kernel, Grid::over_eights(n), &[&args[..], &written, &more].concat())?;
            Ok(out)
        }
    }
}
