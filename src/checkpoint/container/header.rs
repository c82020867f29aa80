//! The header of a safetensors file, checked against the file's real length before anything else is read.
//!
//! Layout: eight bytes little-endian header length, JSON header, tensor bytes without holes.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::path::Path;

use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::checkpoint::index::Entry;
use crate::checkpoint::positioned::read_exact_at;
use crate::{Error, Result};

/// Longest header. The format allows three times as much; this is a quarter of a million tensors.
pub(in crate::checkpoint) const MAX_HEADER: u64 = 32 << 20;

/// Tensors of one file, bytes of their names and sizes of their shapes, at most: each takes more memory than its text.
const MOST: usize = 1 << 18;
const LONGEST_NAME: usize = 1 << 10;
const DIMENSIONS: usize = 32;

/// Bytes of the header's length, in front of the header.
pub(in crate::checkpoint) const PREFIX: u64 = 8;

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
        return Err(fault(format!(
            "the header claims {header_len} bytes, more than the {MAX_HEADER} that any model has"
        )));
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
    for (name, Info { dtype, shape: Shape(shape), data_offsets: (from, to) }) in tensors {
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

/// What a header says of a tensor.
#[derive(serde::Deserialize)]
struct Info {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = list.next_element()? {
                    if sizes.len() == DIMENSIONS {
                        return Err(A::Error::custom(format!("more than {DIMENSIONS} dimensions")));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

/// Text to text, or null, looked at and dropped.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_unit<E>(self) -> Result<Metadata, E> {
                Ok(Metadata)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                while map.next_entry::<IgnoredAny, String>()?.is_some() {}
                Ok(Metadata)
            }
        }
        deserializer.deserialize_any(Texts)
    }
}

/// Tensors; `__metadata__` is checked and dropped.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<Metadata>()?;
                        continue;
                    }
                    if name.len() > LONGEST_NAME {
                        let begin: String = name.chars().take(60).collect();
                        return Err(A::Error::custom(format!(
                            "the name of tensor {begin}... has {} bytes",
                            name.len()
                        )));
                    }
                    if tensors.len() == MOST {
                        return Err(A::Error::custom(format!("more than {MOST} tensors, more than any model has")));
                    }
                    let info = map.next_value().map_err(|error| A::Error::custom(format!("tensor {name}: {error}")))?;
                    tensors.push((name, info));
                }
                let mut known = HashSet::with_capacity(tensors.len());
                if let Some((twice, _)) = tensors.iter().find(|(name, _)| !known.insert(name.as_str())) {
                    return Err(A::Error::custom(format!("tensor {twice} stands there twice")));
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}
