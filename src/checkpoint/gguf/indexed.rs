//! The tensors of a GGUF file as those of a checkpoint: by transformers' names where a family has them, of experts each
//! by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use safetensors::Dtype;

use super::config::Said;
use super::families::Family;
use super::header::TensorInfo;
use super::opened::{Gguf, Part, is_beside};
use super::packed::Packed;
use super::value::Value;
use crate::checkpoint::index::{Entry, Index};
use crate::checkpoint::overlay::Held;
use crate::{Error, Result};

/// The tensors by transformers' names where the family has them, by llama.cpp's where not.
pub(super) fn index(gguf: &Gguf, family: Option<&'static Family>) -> Result<Index> {
    let said = Said { header: gguf.header(), arch: &gguf.arch };
    let heads = match family {
        None => (1, 1),
        Some(_) => {
            let query = said.size("attention.head_count")?;
            let key = said.get("attention.head_count_kv").map(|_| said.size("attention.head_count_kv")).transpose()?;
            (query as usize, key.unwrap_or(query) as usize)
        }
    };
    let experts = said.get("expert_count").and_then(Value::unsigned).unwrap_or(0);
    let mut index =
        Index { shards: Vec::new(), tensors: BTreeMap::new(), disputes: BTreeMap::new(), files: Vec::new() };
    for (shard, part) in gguf.parts.iter().enumerate() {
        let at = |error: std::io::Error| Error::io(&part.path, &error);
        let (file, metadata) = (part.file.try_clone().map_err(at)?, part.file.metadata().map_err(at)?);
        let mut packed = Packed::new(file, metadata);
        if let Some(family) = family {
            join(family, part, shard, &mut packed, &mut index)?;
        }
        let is_half = |name: &str| family.is_some_and(|family| family.half(name).is_some());
        let read = part.header.tensors.iter().filter(|tensor| family.is_none() || !is_beside(&tensor.name));
        let read = read.filter(|tensor| !is_half(&tensor.name));
        for (tensor, name) in read.map(|tensor| named(tensor, family, experts)).collect::<Result<Vec<_>>>()?.concat() {
            let tensor = &tensor;
            let parts = family.and_then(|family| family.permuted(&tensor.name, heads));
            let head = parts.map(|heads| head(tensor, heads)).transpose()?;
            packed.add(tensor, head);
            let (dtype, shape, len) = match tensor.kind.dtype() {
                Some(dtype) => {
                    let count: u64 = tensor.shape.iter().map(|size| *size as u64).product();
                    let len = count.checked_mul((dtype.bitsize() / 8) as u64);
                    let len = len.ok_or_else(|| Error::work(format!("tensor {name} is too large")))?;
                    (
                        dtype,
                        family.map_or_else(
                            || tensor.shape.clone(),
                            |family| family.their_shape(&tensor.name, &tensor.shape),
                        ),
                        len,
                    )
                }
                // bytes of rows
                None => (Dtype::U8, vec![tensor.len as usize], tensor.len),
            };
            let entry = Entry { name: name.clone(), dtype, shape, shard, begin: tensor.begin, len };
            index.tensors.insert(name, entry);
        }
        index.shards.push(part.path.clone());
        index.files.push(Held::Packed(Arc::new(packed)));
    }
    Ok(index)
}

/// Adds the tensors that a family of transformers has in one and `part` in two halves.
fn join(family: &Family, part: &Part, shard: usize, packed: &mut Packed, index: &mut Index) -> Result<()> {
    for gate in &part.header.tensors {
        let Some((name, 0)) = family.half(&gate.name) else { continue };
        let halves = family.halves(&name);
        let up = halves.and_then(|[_, up]| part.header.tensors.iter().find(|tensor| tensor.name == up));
        let (Some(up), Some(dtype), &[count, rows, width]) = (up, gate.kind.dtype(), &gate.shape[..]) else {
            return Err(Error::work(format!("tensor {}: there is no other half", gate.name)));
        };
        packed.add(gate, None);
        packed.add(up, None);
        let shape = vec![count, rows.saturating_mul(2), width];
        let bytes = |shape: &[usize]| {
            let count = shape.iter().try_fold(1_u64, |count, size| count.checked_mul(*size as u64));
            let bytes = count.and_then(|count| count.checked_mul((dtype.bitsize() / 8) as u64));
            bytes.ok_or_else(|| Error::work(format!("tensor {name} is too large")))
        };
        let len = bytes(&shape)?;
        let begin = packed.join([gate.begin, up.begin], bytes(&[rows, width])?);
        index.tensors.insert(name.clone(), Entry { name, dtype, shape, shard, begin, len });
    }
    Ok(())
}

/// `tensor` by its name in transformers; where it holds a matrix of each of the `experts`, those.
fn named(tensor: &TensorInfo, family: Option<&'static Family>, experts: u64) -> Result<Vec<(TensorInfo, String)>> {
    let count = usize::try_from(experts).unwrap_or(usize::MAX);
    let TensorInfo { shape, len, begin, .. } = tensor;
    let is_of_experts = family.is_some_and(|family| family.of_experts(&tensor.name, 0).is_some());
    if !is_of_experts {
        let name = family.and_then(|family| family.theirs(&tensor.name)).unwrap_or_else(|| tensor.name.clone());
        return Ok(vec![(tensor.clone(), name)]);
    }
    if shape.len() != 3 || shape[0] != count {
        return Err(Error::work(format!("tensor {}: {shape:?}, expected a matrix of {experts} experts", tensor.name)));
    }
    let names = family.and_then(|family| family.of_experts(&tensor.name, count)).unwrap_or_default();
    let each = len / experts;
    let of = |(begin, name)| (TensorInfo { shape: shape[1..].to_vec(), begin, len: each, ..tensor.clone() }, name);
    Ok((0..experts).map(|expert| begin + expert * each).zip(names).map(of).collect())
}

/// Rows of a head of `tensor`, which has `heads`.
fn head(tensor: &TensorInfo, heads: usize) -> Result<usize> {
    let rows = tensor.shape.first().copied().unwrap_or(0);
    match rows.checked_div(heads) {
        Some(head) if head * heads == rows && head.is_multiple_of(2) && head > 0 => Ok(head),
        _ => Err(Error::work(format!(
            "tensor {} has {rows} rows, expected {heads} heads of an even number",
            tensor.name
        ))),
    }
}
