//! compressed-tensors, as llm-compressor writes them: whole numbers of up to eight bits packed into words along the
//! inputs (`pack-quantized`), or a byte an element, E4M3 or whole numbers, with scales beside it.
//!
//! The reference is the package's own `decompress`: (code minus zero) times scale, in the scales' type.

use safetensors::Dtype;
use serde_json::Value;

use super::bits::{code, width, words, words_of};
use super::decoded::Decoding;
use super::fp8;
use super::grid::{Grid, dtype_of, numbers};
use super::{QuantizedWeight, Stored, expect, matrix};
use crate::checkpoint::{Index, Slot};
use crate::{Error, Result};

/// The weights that are packed, and those that are bytes with scales.
pub(super) fn find(stored: &Stored<'_>) -> Result<Vec<QuantizedWeight>> {
    let Stored { index, said, dtype } = *stored;
    let told = block(said.get("config_groups"));
    let mut found: Vec<QuantizedWeight> =
        stored.ending(".weight_packed").map(|prefix| packed(index, prefix, dtype)).collect::<Result<_>>()?;
    for prefix in stored.ending(".weight_scale") {
        let name = format!("{prefix}.weight");
        let Some(entry) = index.tensors.get(&name) else { continue };
        match entry.dtype {
            Dtype::F8_E4M3 | Dtype::I8 => {}
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => continue,
            other => return Err(Error::request(format!("{name} is {other}, which is not read with a scale"))),
        }
        if index.tensors.contains_key(&format!("{name}_zero_point")) {
            return Err(Error::request(format!("{name}_zero_point: zeros beside bytes are not read")));
        }
        let scales = format!("{name}_scale");
        let dtype = dtype_of(index.entry(&scales)?, dtype);
        found.push(fp8::scaled(index, (name, scales), told, dtype)?);
    }
    Ok(found)
}

/// Rows and columns of a block, where a group says so.
fn block(groups: Option<&Value>) -> Option<[usize; 2]> {
    let groups = groups?.as_object()?;
    groups.values().find_map(|group| {
        let sizes = group.get("weights")?.get("block_structure")?.as_array()?;
        match &sizes[..] {
            [down, across] => Some([down.as_u64()? as usize, across.as_u64()? as usize]),
            _ => None,
        }
    })
}

fn packed(index: &Index, prefix: &str, dtype: Dtype) -> Result<QuantizedWeight> {
    let part = |name: &str| format!("{prefix}.weight_{name}");
    let shape = index.entry(&part("shape"))?;
    if shape.shape != [2] || !matches!(shape.dtype, Dtype::I64 | Dtype::I32) {
        return Err(Error::work(format!("{} is no shape of a matrix", shape.name)));
    }
    let bytes = index.read(shape)?;
    let size = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)) as usize;
    let half = bytes.len() / 2;
    let (rows, columns) = (size(&bytes[..half]), size(&bytes[half..]));
    let (_, down, across) = matrix(index, &part("packed"))?;
    let bits = width(columns, across).filter(|_| down == rows && rows > 0 && columns > 0);
    let bits = bits.ok_or_else(|| {
        Error::work(format!("{prefix}: {down} x {across} words cannot hold a weight of {rows} x {columns}"))
    })?;
    let scales = index.entry(&part("scale"))?;
    let grid = Grid::over([rows, columns], scales, None)?;
    let mut parts = vec![part("packed"), part("scale"), part("shape")];
    let has_zeros = index.tensors.contains_key(&part("zero_point"));
    if has_zeros {
        expect(index, &part("zero_point"), &[words_of(rows, bits), grid.across])?;
        parts.push(part("zero_point"));
    }
    let has_order = index.tensors.contains_key(&part("g_idx"));
    if has_order {
        expect(index, &part("g_idx"), &[columns])?;
        parts.push(part("g_idx"));
    }
    let slot = Slot { name: format!("{prefix}.weight"), dtype: dtype_of(scales, dtype), shape: vec![rows, columns] };
    let how = PackedCodes { prefix: prefix.to_owned(), bits, columns, grid, has_zeros, has_order };
    Ok(QuantizedWeight { slot, parts, how: Box::new(how) })
}

#[derive(Debug)]
struct PackedCodes {
    prefix: String,
    bits: usize,
    columns: usize,
    grid: Grid,
    has_zeros: bool,
    has_order: bool,
}

impl Decoding for PackedCodes {
    fn decode(&self, index: &Index, _piece: usize, out: &mut [f32]) -> Result<()> {
        let Self { bits, columns, grid, .. } = *self;
        let part = |name: &str| index.entry(&format!("{}.weight_{name}", self.prefix));
        let codes = words(index, part("packed")?)?;
        let scales = numbers(index, part("scale")?)?;
        let zeros = self.has_zeros.then(|| words(index, part("zero_point")?)).transpose()?;
        let order = self.has_order.then(|| words(index, part("g_idx")?)).transpose()?;
        if let Some(group) = order.iter().flatten().find(|group| **group as usize >= grid.across) {
            return Err(Error::work(format!("{}.weight_g_idx names group {group} of {}", self.prefix, grid.across)));
        }
        let row_words = words_of(columns, bits);
        // codes are kept without a sign
        let middle = (1_u32 << (bits - 1)) as f32;
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            let own = &codes[row * row_words..];
            for (column, out) in out.iter_mut().enumerate() {
                let group = order.as_ref().map_or(column / grid.block[1], |order| order[column] as usize);
                let zero = zeros
                    .as_ref()
                    .map_or(0.0, |zeros| code(row, bits, |word| zeros[word * grid.across + group]) as f32 - middle);
                let number = code(column, bits, |word| own[word]) as f32 - middle;
                *out = (number - zero) * scales[row / grid.block[0] * grid.across + group];
            }
        }
        Ok(())
    }
}
