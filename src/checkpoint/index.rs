//! Tensor name to shard, offset, dtype and shape.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::Dtype;

/// Where one tensor's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Full name, as in the file.
    pub name: String,
    /// Element type on disk.
    pub dtype: Dtype,
    /// Shape, outermost first.
    pub shape: Vec<usize>,
    /// Index into [`Index::shards`].
    pub shard: usize,
    /// First byte, counted from the start of the shard's file.
    pub begin: u64,
    /// Length in bytes.
    pub len: u64,
}

/// All tensors of a checkpoint.
#[derive(Debug)]
pub struct Index {
    /// The safetensors files, absolute paths, in the order of their names.
    pub shards: Vec<PathBuf>,
    /// Every tensor by name.
    pub tensors: BTreeMap<String, Entry>,
}
