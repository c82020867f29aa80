//! The types in which GGUF stores tensors, all that ggml names: what cannot be decoded can be copied.
//!
//! Sizes: `GGML_QUANT_SIZES` of the `gguf` package 0.19. Decoded in f32, bit for bit as `gguf.quants.dequantize`;
//! candle's decoders were found to be so for all that it has, on random and adversarial blocks.

use candle_core::quantized::GgmlDType;
use safetensors::Dtype;

use super::blocks;

/// How a block becomes numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decode {
    /// It is numbers of this type.
    Plain(Dtype),
    /// By candle.
    Candle(GgmlDType),
    /// By a function: bytes of whole blocks, their numbers.
    Own(fn(&[u8], &mut [f32])),
    /// Not at all: the tensor can be copied alone.
    Never,
}

/// A type.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Its number in a file.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: &'static str,
    /// Numbers of a block.
    pub(crate) block: u64,
    /// Bytes of a block.
    pub(crate) bytes: u64,
    /// How a block becomes numbers.
    pub(crate) decode: Decode,
}

const fn row(id: u32, name: &'static str, block: u64, bytes: u64, decode: Decode) -> Kind {
    Kind { id, name, block, bytes, decode }
}

/// Every type.
pub(crate) const KINDS: &[Kind] = &[
    row(0, "F32", 1, 4, Decode::Plain(Dtype::F32)),
    row(1, "F16", 1, 2, Decode::Plain(Dtype::F16)),
    row(2, "Q4_0", 32, 18, Decode::Candle(GgmlDType::Q4_0)),
    row(3, "Q4_1", 32, 20, Decode::Candle(GgmlDType::Q4_1)),
    row(6, "Q5_0", 32, 22, Decode::Candle(GgmlDType::Q5_0)),
    row(7, "Q5_1", 32, 24, Decode::Candle(GgmlDType::Q5_1)),
    row(8, "Q8_0", 32, 34, Decode::Candle(GgmlDType::Q8_0)),
    // ggml multiplies with these two and stores no tensor in them
    row(9, "Q8_1", 32, 40, Decode::Never),
    row(15, "Q8_K", 256, 292, Decode::Never),
    row(10, "Q2_K", 256, 84, Decode::Candle(GgmlDType::Q2K)),
    row(11, "Q3_K", 256, 110, Decode::Candle(GgmlDType::Q3K)),
    row(12, "Q4_K", 256, 144, Decode::Candle(GgmlDType::Q4K)),
    row(13, "Q5_K", 256, 176, Decode::Candle(GgmlDType::Q5K)),
    row(14, "Q6_K", 256, 210, Decode::Candle(GgmlDType::Q6K)),
    row(16, "IQ2_XXS", 256, 66, Decode::Never),
    row(17, "IQ2_XS", 256, 74, Decode::Never),
    row(18, "IQ3_XXS", 256, 98, Decode::Never),
    row(19, "IQ1_S", 256, 50, Decode::Never),
    row(20, "IQ4_NL", 32, 18, Decode::Own(blocks::iq4_nl)),
    row(21, "IQ3_S", 256, 110, Decode::Never),
    row(22, "IQ2_S", 256, 82, Decode::Never),
    row(23, "IQ4_XS", 256, 136, Decode::Own(blocks::iq4_xs)),
    row(24, "I8", 1, 1, Decode::Never),
    row(25, "I16", 1, 2, Decode::Never),
    row(26, "I32", 1, 4, Decode::Never),
    row(27, "I64", 1, 8, Decode::Never),
    row(28, "F64", 1, 8, Decode::Never),
    row(29, "IQ1_M", 256, 56, Decode::Never),
    row(30, "BF16", 1, 2, Decode::Plain(Dtype::BF16)),
    row(34, "TQ1_0", 256, 54, Decode::Never),
    row(35, "TQ2_0", 256, 66, Decode::Never),
    row(39, "MXFP4", 32, 17, Decode::Never),
    row(40, "NVFP4", 64, 36, Decode::Never),
    row(41, "Q1_0", 128, 18, Decode::Never),
];

/// The type of the number `id`.
pub(super) fn kind(id: u32) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.id == id)
}

/// The type called `name`.
pub(crate) fn kind_named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl Kind {
    /// Bytes of `count` numbers in rows of `row`; `None` where a row is no whole number of blocks, or for too many.
    pub(crate) fn len(&self, row: u64, count: u64) -> Option<u64> {
        if !row.is_multiple_of(self.block) || row == 0 {
            return None;
        }
        (count / self.block).checked_mul(self.bytes).filter(|len| i64::try_from(*len).is_ok())
    }

    /// The type of its numbers where they are read; `None` where they cannot be.
    pub(super) fn dtype(&self) -> Option<Dtype> {
        match self.decode {
            Decode::Plain(dtype) => Some(dtype),
            Decode::Candle(_) | Decode::Own(_) => Some(Dtype::F32),
            Decode::Never => None,
        }
    }
}
