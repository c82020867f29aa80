//! Experts of four bits, E2M1, 32 of them to a scale that is a power of two (gpt-oss; OCP Microscaling Formats 1.0).
//!
//! `P_blocks` `[n, o, groups, 16]` has two codes a byte, the low bits first, `P_scales` `[n, o, groups]` the exponents
//! plus 127. The reference is transformers' `convert_moe_packed_tensors`: it gives P `[n, i, o]` in bf16, in which
//! outputs are columns.

use std::fmt::Debug;

use safetensors::Dtype;

use super::decoded::Decoding;
use super::{QuantizedWeight, Stored};
use crate::checkpoint::{Entry, Index, Slot};
use crate::{Error, Result};

/// What the names of codes and of scales end in.
const CODES: &str = "_blocks";
const SCALES: &str = "_scales";

/// Bytes of a block, and the numbers in it.
const BYTES: usize = 16;
const NUMBERS: usize = 2 * BYTES;

/// The numbers of the codes: a sign, two bits of exponent, one of fraction.
const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// Outputs that are decoded together: their numbers stand side by side.
const TOGETHER: usize = 16;

/// The tensors that are stored as codes and scales.
pub(super) fn find(stored: &Stored<'_>) -> Result<Vec<QuantizedWeight>> {
    let index = stored.index;
    let weight = |name: &str| {
        let (codes, scales) = (format!("{name}{CODES}"), format!("{name}{SCALES}"));
        let entry = index.entry(&codes)?;
        let [experts, outputs, groups, BYTES] = entry.shape[..] else {
            let fault = format!("has the shape {:?}, expected experts, outputs, groups and {BYTES} bytes", entry.shape);
            return Err(index.fault(entry, fault));
        };
        if !index.tensors.contains_key(&scales) {
            return Err(Error::work(format!("{codes} has no scales: {scales} is missing")));
        }
        super::expect(index, &scales, &[experts, outputs, groups])?;
        for entry in [entry, index.entry(&scales)?] {
            if entry.dtype != Dtype::U8 {
                return Err(index.fault(entry, format!("is {}, expected U8", entry.dtype)));
            }
        }
        let inputs = groups.checked_mul(NUMBERS).ok_or_else(|| index.fault(entry, "is too large".to_owned()))?;
        let slot = Slot { name: name.to_owned(), dtype: Dtype::BF16, shape: vec![experts, inputs, outputs] };
        let how = Blocks { codes: codes.clone(), scales: scales.clone(), experts, outputs, groups };
        Ok(QuantizedWeight { slot, parts: vec![codes, scales], how: Box::new(how) })
    };
    stored.ending(CODES).map(weight).collect()
}

#[derive(Debug)]
struct Blocks {
    codes: String,
    scales: String,
    experts: usize,
    outputs: usize,
    groups: usize,
}

impl Blocks {
    /// The bytes of an expert, so many for each group of an output.
    fn bytes(&self, index: &Index, entry: &Entry, expert: usize, each: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.outputs * self.groups * each];
        index.read_range(entry, (expert * bytes.len()) as u64, &mut bytes)?;
        Ok(bytes)
    }
}

impl Decoding for Blocks {
    fn pieces(&self) -> usize {
        self.experts
    }

    fn decode(&self, index: &Index, expert: usize, out: &mut [f32]) -> Result<()> {
        let codes = self.bytes(index, index.entry(&self.codes)?, expert, BYTES)?;
        let scales = self.bytes(index, index.entry(&self.scales)?, expert, 1)?;
        let scales: Vec<f32> = scales.into_iter().map(power).collect();
        let (outputs, groups) = (self.outputs, self.groups);
        let mut rows = vec![0_f32; TOGETHER * NUMBERS];
        for first in (0..outputs).step_by(TOGETHER) {
            let count = TOGETHER.min(outputs - first);
            for group in 0..groups {
                for (row, numbers) in rows.chunks_exact_mut(NUMBERS).take(count).enumerate() {
                    let block = (first + row) * groups + group;
                    let scale = scales[block];
                    for (pair, byte) in numbers.chunks_exact_mut(2).zip(&codes[block * BYTES..(block + 1) * BYTES]) {
                        pair[0] = VALUES[usize::from(byte & 15)] * scale;
                        pair[1] = VALUES[usize::from(byte >> 4)] * scale;
                    }
                }
                for input in 0..NUMBERS {
                    let start = (group * NUMBERS + input) * outputs + first;
                    for (row, out) in out[start..start + count].iter_mut().enumerate() {
                        *out = rows[row * NUMBERS + input];
                    }
                }
            }
        }
        Ok(())
    }
}

/// 2^(exponent - 127).
fn power(exponent: u8) -> f32 {
    match exponent {
        // below the normal numbers
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits(u32::from(exponent) << 23),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_powers() {
        assert!((0..=254).all(|exponent| f64::from(power(exponent)) == 2_f64.powi(i32::from(exponent) - 127)));
        assert_eq!(power(255), f32::INFINITY);
    }
}
