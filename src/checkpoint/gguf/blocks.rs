//! Blocks to numbers: candle's decoders behind one face, and the two types that candle has not.

use std::borrow::Cow;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};

use super::kinds::{Decode, Kind};
use crate::{Error, Result};

/// What four bits of the IQ4 types stand for (`kvalues_iq4nl` of ggml).
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Bytes that begin where any block may: candle reads blocks where they lie, and wants them aligned.
#[derive(Default)]
pub(super) struct Raw {
    words: Vec<u64>,
    len: usize,
}

impl Raw {
    /// Room for `len` bytes, whatever is in it.
    pub(super) fn of(&mut self, len: usize) -> &mut [u8] {
        self.words.resize(len.div_ceil(8), 0);
        self.len = len;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        bytes.get_mut(..len).unwrap_or_default()
    }

    /// Those bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice::<u64, u8>(&self.words).get(..self.len).unwrap_or_default()
    }
}

/// The numbers of the whole blocks in `raw`, of the type `kind`.
///
/// # Errors
/// Work: a type that is not decoded.
pub(super) fn decode(kind: &Kind, raw: &Raw, numbers: &mut Vec<f32>) -> Result<()> {
    let bytes = raw.bytes();
    let count = bytes.len() / kind.bytes as usize * kind.block as usize;
    match kind.decode {
        Decode::Own(function) => {
            numbers.resize(count, 0.0);
            function(bytes, numbers);
        }
        Decode::Candle(dtype) => *numbers = by_candle(dtype, bytes, count)?,
        Decode::Plain(_) | Decode::Never => {
            return Err(Error::work(format!("stored as {}, which is not decoded", kind.name)));
        }
    }
    Ok(())
}

fn by_candle(dtype: GgmlDType, bytes: &[u8], count: usize) -> Result<Vec<f32>> {
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, count)?.dequantize(&Device::Cpu)?.to_vec1()?)
}

fn half(bytes: &[u8]) -> f32 {
    bytes.first_chunk::<2>().map_or(0.0, |bytes| half::f16::from_le_bytes(*bytes).to_f32())
}

/// The low halves of `codes`, then the high ones, times `scale`.
fn iq4(codes: &[u8], scale: f32, numbers: &mut [f32]) {
    let (low, high) = numbers.split_at_mut(codes.len());
    for ((code, low), high) in codes.iter().zip(low).zip(high) {
        *low = scale * f32::from(IQ4[usize::from(code & 15)]);
        *high = scale * f32::from(IQ4[usize::from(code >> 4)]);
    }
}

/// A half-precision scale and 32 codes.
pub(super) fn iq4_nl(bytes: &[u8], numbers: &mut [f32]) {
    for (block, numbers) in bytes.chunks_exact(18).zip(numbers.chunks_exact_mut(32)) {
        iq4(&block[2..], half(block), numbers);
    }
}

/// A half-precision scale, eight scales of six bits, the upper two of each apart, and eight times 32 codes.
pub(super) fn iq4_xs(bytes: &[u8], numbers: &mut [f32]) {
    for (block, numbers) in bytes.chunks_exact(136).zip(numbers.chunks_exact_mut(256)) {
        let (scale, upper) = (half(block), u16::from_le_bytes([block[2], block[3]]));
        for (at, (codes, numbers)) in block[8..].chunks_exact(16).zip(numbers.chunks_exact_mut(32)).enumerate() {
            let lower = block[4 + at / 2] >> (4 * (at % 2)) & 15;
            let six = i16::from(lower) | ((upper >> (2 * at) & 3) << 4) as i16;
            iq4(codes, scale * f32::from(six - 32), numbers);
        }
    }
}
