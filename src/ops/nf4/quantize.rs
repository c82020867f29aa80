//! From numbers to codes.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::super::simd::vectorized;
use super::tables::{BLOCK, CODES, SCALE_BLOCK, THRESHOLDS, ZERO_CODE, dynamic_map, nearest_scale_code};
use super::{Nf4Weight, Scales};
use crate::{Error, Result};

/// Below this, 1/scale overflows; bitsandbytes' CPU code divides by no less.
const LEAST_SCALE: f32 = 1e-38;

impl Nf4Weight {
    /// Quantises a matrix `[o, i]` of f32, bf16 or f16 in blocks of 64: index = number of thresholds strictly below
    /// weight · (1 / scale), scale = largest magnitude of the block. `double` quantises the scales as well. The codes
    /// equal those of bitsandbytes' CUDA and CPU kernels; an empty block holds zeros, as on the CPU.
    ///
    /// # Errors
    /// A weight that is not finite.
    pub fn quantize(weight: &Tensor, double: bool) -> Result<Self> {
        let (rows, columns) = weight.dims2()?;
        let dtype = weight.dtype();
        let weight = weight.flatten_all()?;
        let count = rows * columns;
        let mut packed = vec![0_u8; count.div_ceil(2)];
        let mut scales = vec![0_f32; count.div_ceil(BLOCK)];
        // a piece at a time: the f32 copy never stands whole
        let pieces = packed.par_chunks_mut(PIECE * BLOCK / 2).zip(scales.par_chunks_mut(PIECE)).enumerate();
        pieces.try_for_each(|(piece, (packed, scales))| {
            let begin = piece * PIECE * BLOCK;
            let len = (PIECE * BLOCK).min(count - begin);
            let values = weight.narrow(0, begin, len)?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            let blocks = values.chunks(BLOCK).zip(packed.chunks_mut(BLOCK / 2)).zip(scales);
            vectorized(
                #[inline(always)]
                || blocks.for_each(|((values, packed), scale)| *scale = quantize_block(values, packed)),
            );
            Ok::<_, candle_core::Error>(())
        })?;
        if let Some(block) = scales.iter().position(|scale| !scale.is_finite()) {
            let row = block * BLOCK / columns;
            return Err(Error::work(format!("a weight of row {row} is not finite: it cannot be quantised")));
        }
        let scales = if double { double_quantize(&scales) } else { Scales::Plain(scales) };
        Self::new(packed, scales, CODES, BLOCK, (rows, columns), dtype)
    }
}

/// Blocks that one thread quantises at a time.
const PIECE: usize = 1024;

/// Codes of up to 64 values; returns their scale (infinite or NaN when one of them is).
#[inline(always)]
fn quantize_block(values: &[f32], packed: &mut [u8]) -> f32 {
    // f32::max drops a NaN; the sum keeps it
    let (largest, sum) = values.iter().fold((0_f32, 0_f32), |(largest, sum), x| (largest.max(x.abs()), sum + x * 0.0));
    let inverse = 1.0 / largest.max(LEAST_SCALE);
    let mut codes = [ZERO_CODE; BLOCK];
    let mut scaled = [0_f32; BLOCK];
    for (scaled, value) in scaled.iter_mut().zip(values) {
        *scaled = value * inverse;
    }
    codes[..values.len()].fill(0);
    for threshold in THRESHOLDS {
        for (code, scaled) in codes[..values.len()].iter_mut().zip(&scaled) {
            *code += u8::from(*scaled > threshold);
        }
    }
    for (byte, pair) in packed.iter_mut().zip(codes.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    largest + sum
}

/// Scales as bytes around their mean. The mean is taken in f64; PyTorch's f32 mean differs from it in the last bit for
/// some large weights, on each device in its own way.
fn double_quantize(scales: &[f32]) -> Scales {
    let map = dynamic_map();
    let mean = scales.iter().map(|scale| f64::from(*scale)).sum::<f64>() / scales.len().max(1) as f64;
    let offset = mean as f32;
    let (codes, outer) = encode_scales(scales, offset, &map);
    Scales::Double { codes, map: Arc::new(map), outer, outer_block: SCALE_BLOCK, offset }
}

/// Codes of the scales, each centred on `offset` and divided by the largest magnitude of its 256.
pub(super) fn encode_scales(scales: &[f32], offset: f32, map: &[f32; 256]) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0; scales.len()];
    let mut outer = vec![0.0; scales.len().div_ceil(SCALE_BLOCK)];
    let blocks = scales.par_chunks(SCALE_BLOCK).zip(codes.par_chunks_mut(SCALE_BLOCK)).zip(&mut outer);
    blocks.for_each(|((scales, codes), outer)| {
        *outer = scales.iter().fold(0_f32, |largest, scale| largest.max((scale - offset).abs()));
        let inverse = 1.0 / *outer;
        for (code, scale) in codes.iter_mut().zip(scales) {
            *code = nearest_scale_code(map, (scale - offset) * inverse);
        }
    });
    (codes, outer)
}
