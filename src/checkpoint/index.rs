//! Tensor name to shard, offset, dtype and shape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::container::{self, Safetensors};
use super::overlay::Held;
use crate::{Error, Result};

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

/// All tensors of a checkpoint, or of any other safetensors file: names, places, and the reading of bytes and values.
#[derive(Debug)]
pub struct Index {
    /// The safetensors files, absolute paths, in the order of their names.
    pub shards: Vec<PathBuf>,
    /// Every tensor by name.
    pub tensors: BTreeMap<String, Entry>,
    /// What the index file says of a tensor, by its name, and its shards do not bear out: a tensor that is listed and
    /// not there, that is there and not listed, or that is in another shard. Nothing is lost where no model needs it.
    pub disputes: BTreeMap<String, String>,
    /// What holds the bytes of each shard.
    pub(super) files: Vec<Held>,
}

impl Index {
    /// The weights in `dir`, in whatever container they are. Headers are checked against the files' real lengths, lists
    /// of shards against the shards; no tensor is read.
    ///
    /// # Errors
    /// Request: no weights there that are read. Work: a missing, truncated or inconsistent file, a list that points out
    /// of the directory. Where it disagrees with its shards, [`Index::disputes`] says so.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        container::open(dir)
    }

    /// Any one safetensors file: an adapter, a state to resume from.
    ///
    /// # Errors
    /// Request: no such file. Work: a truncated or inconsistent file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Safetensors::open_file(path)
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// Work: no such tensor; names the files and the nearest name there is.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| {
            let place = match self.shards.as_slice() {
                [file] => file.display().to_string(),
                shards => shards.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).display().to_string(),
            };
            let nearest = self.tensors.keys().map(|other| (strsim::damerau_levenshtein(name, other), other)).min();
            let hint = match nearest {
                // a typing error or another prefix, not just any tensor
                Some((distance, other)) if distance <= name.len() / 3 => format!("; the nearest name is {other}"),
                _ => String::new(),
            };
            Error::work(format!("{place}: there is no tensor {name}{hint}"))
        })
    }
}
