//! AWQ's weights, as AutoAWQ's GEMM kernels have them: eight codes of four bits a word, across the outputs, in an order
//! of their own; zeros and scales by group.
//!
//! The reference is AutoAWQ's `dequantize_gemm`: (code minus zero) times scale, in the scales' type.

use super::bits::words;
use super::decoded::Decoding;
use super::grid::{dtype_of, numbers};
use super::{QuantizedWeight, Stored, expect, matrix};
use crate::checkpoint::{Index, Slot};
use crate::{Error, Result};

/// Codes of a word.
const IN_WORD: usize = 8;
/// Which four bits of a word hold output 0, 1, ... of the eight.
const NIBBLE: [u32; IN_WORD] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The weights whose codes are in a `qweight`.
pub(super) fn find(stored: &Stored<'_>) -> Result<Vec<QuantizedWeight>> {
    let Stored { index, said, dtype } = *stored;
    let bits = stored.number("bits").or(stored.number("w_bit"));
    let version = said.get("version").and_then(|version| version.as_str()).unwrap_or("gemm").to_lowercase();
    if bits != Some(4) || version != "gemm" {
        return Err(Error::request(format!(
            "bits {} in version {version:?} are not read, expected 4 bits in version \"gemm\"",
            bits.map_or_else(|| "unknown".to_owned(), |bits| bits.to_string())
        )));
    }
    let weight = |prefix: &str| {
        let part = |name: &str| format!("{prefix}.{name}");
        let (_, inputs, packed) = matrix(index, &part("qweight"))?;
        let (scales, groups, across) = matrix(index, &part("scales"))?;
        let outputs = packed * IN_WORD;
        if across != outputs || groups == 0 || inputs == 0 || !inputs.is_multiple_of(groups) {
            return Err(Error::work(format!(
                "{prefix}: qweight of {inputs} x {packed} words and scales of {groups} x {across} do not fit together"
            )));
        }
        expect(index, &part("qzeros"), &[groups, packed])?;
        let name = format!("{prefix}.weight");
        let slot = Slot { name, dtype: dtype_of(scales, dtype), shape: vec![outputs, inputs] };
        let parts = ["qweight", "qzeros", "scales"].map(part).into();
        Ok(QuantizedWeight { slot, parts, how: Box::new(Awq { prefix: prefix.to_owned(), inputs, outputs, groups }) })
    };
    stored.ending(".qweight").map(weight).collect()
}

#[derive(Debug)]
struct Awq {
    prefix: String,
    inputs: usize,
    outputs: usize,
    groups: usize,
}

impl Decoding for Awq {
    fn decode(&self, index: &Index, _piece: usize, out: &mut [f32]) -> Result<()> {
        let Self { inputs, outputs, groups, .. } = *self;
        let part = |name: &str| index.entry(&format!("{}.{name}", self.prefix));
        let (codes, zeros) = (words(index, part("qweight")?)?, words(index, part("qzeros")?)?);
        let scales = numbers(index, part("scales")?)?;
        let of_group = inputs / groups;
        let code = |words: &[u32], row: usize, output: usize| {
            let word = words[(row * outputs + output) / IN_WORD];
            (word >> (4 * NIBBLE[output % IN_WORD]) & 15) as f32
        };
        for (output, row) in out.chunks_exact_mut(inputs).enumerate() {
            for (input, out) in row.iter_mut().enumerate() {
                let group = input / of_group;
                *out = (code(&codes, input, output) - code(&zeros, group, output)) * scales[group * outputs + output];
            }
        }
        Ok(())
    }
}
