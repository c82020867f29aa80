//! Four-bit weights: NormalFloat (QLoRA, arXiv 2305.14314) as bitsandbytes stores it.
//!
//! A weight is a list of four-bit codes, two a byte, the first in the high half, row after row. Every 64 codes share a
//! scale, the largest magnitude of their block. Under double quantisation the scales are bytes themselves: codes of a
//! dynamic map, 256 of them to a scale, around the scales' mean.

mod decode;
#[cfg(test)]
mod goldens;
mod gpu;
mod quantize;
mod tables;

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

pub use gpu::Nf4OnGpu;
pub use tables::{BLOCK, CODES, SCALE_BLOCK, dynamic_map};

use super::matmul::Weight;
use crate::{Error, Result};

/// The scales of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// One f32 a block.
    Plain(Vec<f32>),
    /// One byte a block: scale = map\[code\] · outer\[block / outer_block\] + offset.
    Double {
        /// A code a block.
        codes: Vec<u8>,
        /// The 256 values of the codes.
        map: Arc<[f32; 256]>,
        /// One f32 for every `outer_block` blocks.
        outer: Vec<f32>,
        /// Blocks that share an outer scale.
        outer_block: usize,
        /// What the codes are centred on.
        offset: f32,
    },
}

/// A frozen matrix `[o, i]` in four bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4Weight {
    packed: Vec<u8>,
    scales: Scales,
    codes: [f32; 16],
    block: usize,
    rows: usize,
    columns: usize,
    dtype: DType,
}

impl Nf4Weight {
    /// A weight from its stored parts: `packed` has two codes a byte, `codes` their 16 values, `block` the weights that
    /// share a scale, `dtype` the type the weight had before.
    ///
    /// # Errors
    /// Parts whose lengths do not fit the shape, or a scale that is not finite.
    pub fn new(
        packed: Vec<u8>,
        scales: Scales,
        codes: [f32; 16],
        block: usize,
        (rows, columns): (usize, usize),
        dtype: DType,
    ) -> Result<Self> {
        let count =
            rows.checked_mul(columns).ok_or_else(|| Error::work(format!("impossible shape [{rows}, {columns}]")))?;
        if block == 0 || !block.is_multiple_of(2) {
            return Err(Error::work(format!("{block} weights to a scale: expected an even number")));
        }
        let expect = |what: &str, found: usize, expected: usize| {
            let message =
                || format!("{found} {what} for a [{rows}, {columns}] weight in blocks of {block}, expected {expected}");
            if found == expected { Ok(()) } else { Err(Error::work(message())) }
        };
        let blocks = count.div_ceil(block);
        expect("bytes of codes", packed.len(), count.div_ceil(2))?;
        let finite = match &scales {
            Scales::Plain(scales) => {
                expect("scales", scales.len(), blocks)?;
                scales.iter().all(|scale| scale.is_finite())
            }
            Scales::Double { codes, map, outer, outer_block, offset } => {
                expect("codes of scales", codes.len(), blocks)?;
                if *outer_block == 0 {
                    return Err(Error::work("0 scales to an outer scale"));
                }
                expect("outer scales", outer.len(), blocks.div_ceil(*outer_block))?;
                offset.is_finite() && outer.iter().chain(map.iter()).all(|scale| scale.is_finite())
            }
        };
        if !finite || !codes.iter().all(|code| code.is_finite()) {
            return Err(Error::work("a scale of the 4-bit weight is not finite"));
        }
        Ok(Self { packed, scales, codes, block, rows, columns, dtype })
    }

    /// `(o, i)`.
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// The codes, two a byte.
    #[must_use]
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The scales.
    #[must_use]
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// The values of the 16 codes.
    #[must_use]
    pub fn codes(&self) -> &[f32; 16] {
        &self.codes
    }

    /// Weights that share a scale.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// The type the weight had before it was quantised.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(scales) => 4 * scales.len(),
            Scales::Double { codes, outer, .. } => codes.len() + 4 * outer.len(),
        };
        self.packed.len() + scales
    }

    /// Scale of block `index`.
    #[inline]
    fn scale(&self, index: usize) -> f32 {
        match &self.scales {
            Scales::Plain(scales) => scales[index],
            // two roundings, as bitsandbytes has: a fused multiply-add would differ in the last bit
            Scales::Double { codes, map, outer, outer_block, offset } => {
                map[codes[index] as usize] * outer[index / outer_block] + offset
            }
        }
    }

    /// The whole matrix `[o, i]` as `dtype` (f32, bf16 or f16): code times scale in f32, then one rounding.
    ///
    /// # Errors
    /// A dtype that is not a float.
    pub fn dequantize(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let mut values = vec![0_f32; self.rows * self.columns];
        let piece = 64 * self.block;
        values.par_chunks_mut(piece).enumerate().for_each(|(index, values)| self.decode(index * piece, values));
        Ok(Tensor::from_vec(values, (self.rows, self.columns), device)?.to_dtype(dtype)?)
    }
}

impl Weight for Nf4Weight {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    #[inline(always)]
    fn widen(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        self.decode(row * self.columns + columns.start, out);
    }

    #[inline(always)]
    fn widen_rows(&self, rows: Range<usize>, columns: Range<usize>, stride: usize, out: &mut [f32]) {
        self.decode_part(rows, columns, stride, out);
    }
}
