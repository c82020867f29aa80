//! The header of a safetensors file, checked against the file's real length before anything else is read.
//!
//! Layout: eight bytes little-endian header length, JSON header, tensor bytes without holes.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::index::Entry;
use super::positioned::read_exact_at;
use crate::{Error, Result};

/// Longest header the format allows.
pub(super) const MAX_HEADER: u64 = 100_000_000;

/// Bytes of the header's length, in front of the header.
pub(super) const PREFIX: u64 = 8;

/// Reads and checks the header of `file`, which is called `path`; the entries carry `shard`. In the order of the file.
///
/// # Errors
/// Work: an unreadable, truncated or inconsistent file, with the tensor at fault.
pub(super) fn read_entries(file: &File, path: &Path, shard: usize) -> Result<Vec<Entry>> {
    let fault = |reason: String| Error::work(format!("{}: {reason}", path.display()));
    let file_len = file.metadata().map_err(|error| Error::io(path, &error))?.len();
    let mut prefix = [0; PREFIX as usize];
    if file_len < PREFIX {
        return Err(fault(format!("not a safetensors file: {file_len} bytes are too few for a header")));
    }
    read_exact_at(file, &mut prefix, 0).map_err(|error| Error::io(path, &error))?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER {
        return Err(fault(format!("the header claims {header_len} bytes, more than the {MAX_HEADER} allowed")));
    }
    if PREFIX + header_len > file_len {
        return Err(fault(format!("the header claims {header_len} bytes, the whole file has {file_len}")));
    }
    let mut json = vec![0; header_len as usize];
    read_exact_at(file, &mut json, PREFIX).map_err(|error| Error::io(path, &error))?;
    parse(&json, PREFIX + header_len, file_len, shard).map_err(fault)
}

/// Header text to entries. `begin` is where tensor bytes begin in a file of `file_len` bytes. The error is the reason.
fn parse(json: &[u8], begin: u64, file_len: u64, shard: usize) -> Result<Vec<Entry>, String> {
    if json.first() != Some(&b'{') {
        return Err("not a safetensors file: the header is no JSON object".into());
    }
    let Header(mut tensors) = serde_json::from_slice(json).map_err(|error| format!("broken header: {error}"))?;
    tensors.sort_by(|(a, x), (b, y)| x.data_offsets.cmp(&y.data_offsets).then(a.cmp(b)));
    let mut entries = Vec::with_capacity(tensors.len());
    let mut expected = 0;
    for (name, TensorInfo { dtype, shape, data_offsets: (from, to) }) in tensors {
        let claimed = to.checked_sub(from).ok_or_else(|| format!("tensor {name} ends at {to} before it begins"))?;
        if from < expected {
            return Err(format!("tensor {name} begins at byte {from}, inside the one before it ({expected})"));
        }
        if from > expected {
            return Err(format!("bytes {expected} to {from}, before tensor {name}, belong to no tensor"));
        }
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &size| bits.checked_mul(size));
        if bits != claimed.checked_mul(8) {
            return Err(format!("tensor {name} has {claimed} bytes, which disagrees with {dtype} {shape:?}"));
        }
        expected = to;
        let (from, len) = (begin + from as u64, claimed as u64);
        entries.push(Entry { name, dtype, shape, shard, begin: from, len });
    }
    let end = begin.checked_add(expected as u64).ok_or("the last tensor ends beyond any file")?;
    if end > file_len {
        return Err(format!("truncated: the header describes {end} bytes, the file has {file_len}"));
    }
    if end < file_len {
        return Err(format!("{} bytes after the last tensor belong to no tensor", file_len - end));
    }
    Ok(entries)
}

/// Tensors in the order of the JSON text; `__metadata__` is checked to be text to text, or null, and dropped.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<Option<BTreeMap<String, String>>>()?;
                        continue;
                    }
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name} stands there twice")));
                    }
                    let info = map.next_value().map_err(|error| A::Error::custom(format!("tensor {name}: {error}")))?;
                    tensors.insert(name, info);
                }
                Ok(Header(tensors.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
