//! GPTQ's weights: codes of 2, 3, 4 or 8 bits down the columns of the transposed matrix, zeros and scales by group.
//!
//! The reference is GPTQModel's `TorchQuantLinear` (`dequantize_weight`): scale times (code minus zero), in the scales'
//! type. Its older layout, `gptq`, keeps each zero less one; `gptq_v2` keeps it as it is.

use super::bits::{code, mask, words, words_of};
use super::decoded::Decoding;
use super::grid::{dtype_of, numbers};
use super::{QuantizedWeight, Stored, expect, matrix};
use crate::checkpoint::{Index, Slot};
use crate::{Error, Result};

/// The weights whose codes are in a `qweight`.
pub(super) fn find(stored: &Stored<'_>) -> Result<Vec<QuantizedWeight>> {
    let Stored { index, said, dtype } = *stored;
    let bits = stored.number("bits").filter(|bits| matches!(bits, 2 | 3 | 4 | 8));
    let bits = bits.ok_or_else(|| Error::work("quantization_config: bits is none of 2, 3, 4 and 8"))?;
    let format = said.get("checkpoint_format").and_then(|format| format.as_str()).unwrap_or("gptq");
    let less = match format {
        "gptq" => 1,
        "gptq_v2" => 0,
        other => {
            return Err(Error::request(format!(
                "checkpoint_format {other:?} is laid out for one kernel, expected \"gptq\" or \"gptq_v2\""
            )));
        }
    };
    let weight = |prefix: &str| {
        let part = |name: &str| format!("{prefix}.{name}");
        let (_, packed, outputs) = matrix(index, &part("qweight"))?;
        let (scales, groups, across) = matrix(index, &part("scales"))?;
        let inputs = packed * 32 / bits;
        if words_of(inputs, bits) != packed || across != outputs || groups == 0 || groups > inputs {
            return Err(Error::work(format!(
                "{prefix}: qweight of {packed} x {outputs} words and scales of {groups} x {across} do not fit together"
            )));
        }
        expect(index, &part("qzeros"), &[groups, words_of(outputs, bits)])?;
        let order = index.tensors.contains_key(&part("g_idx"));
        if order {
            expect(index, &part("g_idx"), &[inputs])?;
        }
        let name = format!("{prefix}.weight");
        let slot = Slot { name, dtype: dtype_of(scales, dtype), shape: vec![outputs, inputs] };
        let parts = ["qweight", "qzeros", "scales", "g_idx"].map(part).into_iter().take(if order { 4 } else { 3 });
        let how = Gptq { prefix: prefix.to_owned(), bits, less, order, inputs, outputs, groups };
        Ok(QuantizedWeight { slot, parts: parts.collect(), how: Box::new(how) })
    };
    stored.ending(".qweight").map(weight).collect()
}

#[derive(Debug)]
struct Gptq {
    prefix: String,
    bits: usize,
    /// What a zero is kept less.
    less: u32,
    /// Whether inputs name their group.
    order: bool,
    inputs: usize,
    outputs: usize,
    groups: usize,
}

impl Decoding for Gptq {
    fn decode(&self, index: &Index, _piece: usize, out: &mut [f32]) -> Result<()> {
        let Self { bits, inputs, outputs, groups, less, .. } = *self;
        let part = |name: &str| index.entry(&format!("{}.{name}", self.prefix));
        let (codes, zeros) = (words(index, part("qweight")?)?, words(index, part("qzeros")?)?);
        let scales = numbers(index, part("scales")?)?;
        let of_group = inputs.div_ceil(groups);
        let own: Vec<usize> = match self.order {
            true => words(index, part("g_idx")?)?.into_iter().map(|group| group as usize).collect(),
            false => (0..inputs).map(|input| input / of_group).collect(),
        };
        if let Some(group) = own.iter().find(|group| **group >= groups) {
            return Err(Error::work(format!("{}.g_idx names group {group} of {groups}", self.prefix)));
        }
        let row = zeros.len() / groups;
        let zeros: Vec<f32> = (0..groups * outputs)
            .map(|place| {
                let (group, output) = (place / outputs, place % outputs);
                ((code(output, bits, |word| zeros[group * row + word]) + less) & mask(bits)) as f32
            })
            .collect();
        for (output, row) in out.chunks_exact_mut(inputs).enumerate() {
            for (input, out) in row.iter_mut().enumerate() {
                let place = own[input] * outputs + output;
                let own = code(input, bits, |word| codes[word * outputs + output]);
                *out = scales[place] * (own as f32 - zeros[place]);
            }
        }
        Ok(())
    }
}
