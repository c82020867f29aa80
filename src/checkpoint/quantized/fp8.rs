//! Weights of one byte, E4M3, times scales: one for each block (DeepSeek, Qwen3), or one a row (FBGEMM).
//!
//! The reference is transformers' `Fp8Dequantize`: the byte's number times its scale in f32, rounded to the type of the
//! model.

use safetensors::Dtype;
use serde_json::Value;

use super::decoded::Decoding;
use super::grid::{Grid, numbers};
use super::{QuantizedWeight, Stored, matrix};
use crate::checkpoint::{Index, Slot};
use crate::{Error, Result};

/// What the scales of a weight end in.
const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// The weights that have scales beside them.
pub(super) fn find(stored: &Stored<'_>) -> Result<Vec<QuantizedWeight>> {
    let Stored { index, said, dtype } = *stored;
    let told = said.get("weight_block_size").and_then(Value::as_array);
    let told = told.and_then(|sizes| match &sizes[..] {
        [down, across] => Some([down.as_u64()? as usize, across.as_u64()? as usize]),
        _ => None,
    });
    let mut found = Vec::new();
    for prefix in stored.ending(".weight") {
        let name = format!("{prefix}.weight");
        let entry = index.entry(&name)?;
        if entry.dtype != Dtype::F8_E4M3 {
            continue;
        }
        let scales =
            SCALES.iter().map(|ending| format!("{name}{ending}")).find(|name| index.tensors.contains_key(name));
        let scales = scales.ok_or_else(|| Error::work(format!("{name} has no scales: {name}_scale_inv is missing")))?;
        found.push(scaled(index, (name, scales), told, dtype)?);
    }
    Ok(found)
}

/// The matrix `name`, a number an element, times `scales`.
pub(super) fn scaled(
    index: &Index,
    (name, scales): (String, String),
    told: Option<[usize; 2]>,
    dtype: Dtype,
) -> Result<QuantizedWeight> {
    let (_, rows, columns) = matrix(index, &name)?;
    let grid = Grid::over([rows, columns], index.entry(&scales)?, told)?;
    let slot = Slot { name: name.clone(), dtype, shape: vec![rows, columns] };
    let how = Scaled { name: name.clone(), scales: scales.clone(), columns, grid };
    Ok(QuantizedWeight { slot, parts: vec![name, scales], how: Box::new(how) })
}

#[derive(Debug)]
struct Scaled {
    name: String,
    scales: String,
    columns: usize,
    grid: Grid,
}

impl Decoding for Scaled {
    fn decode(&self, index: &Index, _piece: usize, out: &mut [f32]) -> Result<()> {
        let scales = numbers(index, index.entry(&self.scales)?)?;
        let codes = numbers(index, index.entry(&self.name)?)?;
        for (place, (out, code)) in out.iter_mut().zip(&codes).enumerate() {
            *out = code * scales[self.grid.at(place / self.columns, place % self.columns)];
        }
        Ok(())
    }
}

/// The number of a byte of E4M3: a sign, four bits of exponent, three of fraction; no infinities, one pattern is none.
pub(super) fn number(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 8.0 * 2_f32.powi(-6),
        _ => (1.0 + fraction / 8.0) * 2_f32.powi(exponent - 7),
    };
    if byte >> 7 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_numbers() {
        let numbers: Vec<f32> = [0x00, 0x01, 0x08, 0x38, 0x39, 0x7e, 0xfe, 0x80].map(number).into();
        assert_eq!(numbers, [0.0, 1.0 / 512.0, 1.0 / 64.0, 1.0, 1.125, 448.0, -448.0, -0.0]);
        assert!(number(0x7f).is_nan() && number(0xff).is_nan());
        assert!((1..0x7f).all(|byte| number(byte) > number(byte - 1)));
    }
}
