//! Tensor name to shard, offset, dtype and shape.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::Deserialize;

use super::header::read_entries;
use super::overlay::Held;
use crate::files::{self, Bound};
use crate::{Error, Result};

/// The one file of a small checkpoint.
pub(super) const SINGLE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";

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

/// `model.safetensors.index.json`; its `metadata` is informative and often wrong.
#[derive(Deserialize)]
struct IndexFile {
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// The weights in `dir`: `model.safetensors`, or the shards of `model.safetensors.index.json`. Headers are checked
    /// against the files' real lengths, the index against the shards; no tensor is read.
    ///
    /// # Errors
    /// Request: no safetensors weights there. Work: a missing, truncated or inconsistent file, an index that points out
    /// of the directory. Where it disagrees with its shards, [`Index::disputes`] says so.
    pub fn open_dir(dir: &Path) -> Result<Self> {
        // a link into nowhere is found here and named by the error of opening it
        let found = |name: &str| dir.join(name).symlink_metadata().is_ok();
        if found(SINGLE) {
            Self::open_files(vec![dir.join(SINGLE)])
        } else if found(INDEX) {
            Self::open_sharded(dir)
        } else {
            let names = fs::read_dir(dir).into_iter().flatten().flatten();
            let names: Vec<String> = names.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
            Err(no_weights(&dir.display().to_string(), &names))
        }
    }

    /// Any one safetensors file: an adapter, a state to resume from.
    ///
    /// # Errors
    /// Request: no such file. Work: a truncated or inconsistent file.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::open_files(vec![path.to_owned()])
    }

    /// A missing file is a wrong request here; a name in two files is a broken checkpoint.
    fn open_files(paths: Vec<PathBuf>) -> Result<Self> {
        let mut index =
            Self { shards: Vec::new(), tensors: BTreeMap::new(), disputes: BTreeMap::new(), files: Vec::new() };
        for (shard, path) in paths.into_iter().enumerate() {
            let path = std::path::absolute(&path).map_err(|error| Error::io(&path, &error))?;
            let (file, metadata) = files::open(&path)?;
            for entry in read_entries(&file, &path, shard)? {
                if let Some(other) = index.tensors.get(&entry.name) {
                    let (other, name) = (index.shards[other.shard].display(), &entry.name);
                    return Err(Error::work(format!("{}: tensor {name} is also in {other}", path.display())));
                }
                index.tensors.insert(entry.name.clone(), entry);
            }
            index.shards.push(path);
            index.files.push(Held::File(file, metadata));
        }
        Ok(index)
    }

    fn open_sharded(dir: &Path) -> Result<Self> {
        let path = dir.join(INDEX);
        let fault = |reason: String| Error::work(format!("{}: {reason}", path.display()));
        let weight_map = weight_map(&path)?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        if let Some(name) = names.iter().find(|name| fs::metadata(dir.join(name)).is_err()) {
            return Err(fault(format!("shard {name} is missing; download the checkpoint again")));
        }
        let names: Vec<&String> = names.into_iter().collect();
        let mut index = Self::open_files(names.iter().map(|name| dir.join(name)).collect())?;
        for (name, shard) in &weight_map {
            let dispute = match index.tensors.get(name) {
                None => format!("tensor {name} is missing from {shard}"),
                Some(entry) if names[entry.shard] != shard => {
                    format!("tensor {name} is in {}, not in {shard}", names[entry.shard])
                }
                Some(_) => continue,
            };
            index.disputes.insert(name.clone(), dispute);
        }
        for entry in index.tensors.values().filter(|entry| !weight_map.contains_key(&entry.name)) {
            let dispute = format!("tensor {} of {} is not listed", entry.name, names[entry.shard]);
            index.disputes.insert(entry.name.clone(), dispute);
        }
        for dispute in index.disputes.values_mut() {
            *dispute = format!("{}: {dispute}", path.display());
        }
        Ok(index)
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

/// Tensor to shard as the index at `path` has it; every shard is the plain name of a safetensors file.
fn weight_map(path: &Path) -> Result<BTreeMap<String, String>> {
    let fault = |reason: String| Err(Error::work(format!("{}: {reason}", path.display())));
    let IndexFile { weight_map } = files::json(path, Bound::INDEX)?;
    for name in weight_map.values() {
        // a file in this directory, and nothing else
        if Path::new(name).file_name() != Some(name.as_ref()) || name.contains('\\') {
            return fault(format!("shard {name:?} is not a file name; shards lie beside their index"));
        }
        if !name.ends_with(".safetensors") {
            return fault(format!("shard {name:?} is not a .safetensors file"));
        }
    }
    Ok(weight_map)
}

/// The shards that the index at `path` names.
pub(super) fn shard_names(path: &Path) -> Result<BTreeSet<String>> {
    Ok(weight_map(path)?.into_values().collect())
}

/// What to say of a `place` whose files, `names`, are no safetensors weights.
pub(super) fn no_weights(place: &str, names: &[String]) -> Error {
    let reason = if names.iter().any(|name| name.starts_with("pytorch_model") && name.contains(".bin")) {
        "holds pytorch_model.bin, which can run code when opened; convert it to safetensors first: in transformers, \
         AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW)"
    } else if names.iter().any(|name| name.ends_with(".gguf")) {
        "holds a GGUF file; prune works on the safetensors checkpoint it was made from"
    } else {
        "holds neither model.safetensors nor model.safetensors.index.json"
    };
    Error::request(format!("{place}: {reason}"))
}
