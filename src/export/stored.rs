//! The types that tensors are written in, and their blocks.
//!
//! candle's quantizers give Q8_0 and Q4_0 to the bit of `gguf.quants.quantize`; its K types are those of the first
//! version of llama.cpp's: valid blocks, a little further from the numbers than today's search finds
//! (`tests/interop/gguf_checks.py` measures both).

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::{Kind, kind_named};
use crate::{Error, Result, ops};

/// Numbers quantised by a thread at a time, whole rows.
const PIECE: usize = 1 << 18;

/// A type that a file is written in.
#[derive(Debug)]
pub struct StoredAs {
    /// Its name.
    pub name: &'static str,
    /// `general.file_type` of a file whose matrices are in it (`llama_ftype`).
    pub file_type: u32,
    /// The type of the head where that is another.
    head: Option<&'static str>,
}

const fn row(name: &'static str, file_type: u32, head: Option<&'static str>) -> StoredAs {
    StoredAs { name, file_type, head }
}

/// Every type that is written.
pub const STORED: &[StoredAs] = &[
    row("F32", 0, None),
    row("F16", 1, None),
    row("BF16", 32, None),
    row("Q8_0", 7, None),
    row("Q6_K", 18, None),
    // llama.cpp keeps the head finer as well
    row("Q4_K", 14, Some("Q6_K")),
    row("Q4_0", 2, Some("Q6_K")),
];

/// Where rows are no whole blocks: first this, then that.
const INSTEAD: [&str; 2] = ["Q8_0", "F16"];

impl StoredAs {
    /// The type called `name`, whatever its letters' case.
    ///
    /// # Errors
    /// Request: no such type.
    pub fn named(name: &str) -> Result<&'static Self> {
        STORED.iter().find(|stored| stored.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
            let known: Vec<&str> = STORED.iter().map(|stored| stored.name).collect();
            Error::request(format!("type {name:?} is not written, expected one of {}", known.join(", ")))
        })
    }

    /// The type that the config of `checkpoint` says; F32 where that is none of these.
    ///
    /// # Errors
    /// None that can be met.
    pub fn of(checkpoint: &Checkpoint) -> Result<&'static Self> {
        Self::named(match checkpoint.dtype_name() {
            Some("bfloat16") => "BF16",
            Some("float16") => "F16",
            _ => "F32",
        })
    }

    /// The type of the matrices, or of the head.
    pub(super) fn kind_of(&self, is_head: bool) -> &'static Kind {
        let name = self.head.filter(|_| is_head).unwrap_or(self.name);
        kind_named(name).unwrap_or(&crate::checkpoint::gguf::KINDS[0])
    }

    /// The type of a tensor of `shape`: vectors are in f32, rows that are no whole blocks in a coarser type's place.
    pub(super) fn kind(&self, shape: &[usize], is_head: bool) -> &'static Kind {
        let first = &crate::checkpoint::gguf::KINDS[0];
        if shape.len() < 2 {
            return first;
        }
        let row = shape.last().copied().unwrap_or(0) as u64;
        let kinds = [self.kind_of(is_head)].into_iter().chain(INSTEAD.into_iter().filter_map(kind_named));
        kinds.into_iter().find(|kind| row.is_multiple_of(kind.block)).unwrap_or(first)
    }
}

/// The bytes of `numbers` in the type `kind`.
///
/// # Errors
/// Work: a number that is not finite, or too large for the type.
pub(super) fn blocks(numbers: &Tensor, kind: &Kind) -> Result<Vec<u8>> {
    let plain = |dtype: DType| -> Result<Vec<u8>> {
        let stored = numbers.to_dtype(dtype)?;
        if !ops::all_finite(&stored)? {
            return Err(Error::work(format!("a number that is not finite, or too large for {}", kind.name)));
        }
        crate::checkpoint::with_bytes(&stored, |bytes| Ok(bytes.to_vec()))
    };
    let dtype = match kind.name {
        "F32" => return plain(DType::F32),
        "F16" => return plain(DType::F16),
        "BF16" => return plain(DType::BF16),
        "Q8_0" => GgmlDType::Q8_0,
        "Q4_0" => GgmlDType::Q4_0,
        "Q4_K" => GgmlDType::Q4K,
        "Q6_K" => GgmlDType::Q6K,
        other => return Err(Error::work(format!("{other} is not written"))),
    };
    if !ops::all_finite(numbers)? {
        return Err(Error::work("a number that is not finite"));
    }
    let width = numbers.dims().last().copied().unwrap_or(1);
    let flat = numbers.flatten_all()?;
    let (all, step) = (flat.elem_count(), (PIECE / width).max(1) * width);
    let pieces: Vec<usize> = (0..all).step_by(step).collect();
    let pieces = pieces.into_par_iter().map(|at| {
        // candle quantises a tensor's whole memory, whatever part of it the tensor is
        let piece = flat.narrow(0, at, step.min(all - at))?.to_vec1::<f32>()?;
        let piece = Tensor::from_vec(piece, step.min(all - at), &Device::Cpu)?;
        Ok(QTensor::quantize(&piece, dtype)?.data()?.into_owned())
    });
    Ok(pieces.collect::<Result<Vec<Vec<u8>>>>()?.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    /// In one piece or in several, and of a part of a tensor: the blocks of each row are its own.
    #[test]
    fn every_row_has_its_own_blocks() {
        let width = 1 << 10;
        let rows = 2 * PIECE / width + 3;
        let all = random(1, rows, width);
        for stored in STORED {
            let kind = stored.kind_of(false);
            let bytes = blocks(&all, kind).unwrap();
            let each = bytes.len() / rows;
            for row in [0, 1, PIECE / width, rows - 1] {
                let own = blocks(&all.narrow(0, row, 1).unwrap(), kind).unwrap();
                assert!(own == bytes[row * each..(row + 1) * each], "{} row {row}", stored.name);
            }
        }
    }
}
