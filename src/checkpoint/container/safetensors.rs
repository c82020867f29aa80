//! safetensors: one file, or shards and the list that says which holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Container;
use super::header::read_entries;
use crate::checkpoint::index::Index;
use crate::checkpoint::overlay::Held;
use crate::files::{self, Bound};
use crate::{Error, Result};

/// The one file of a small checkpoint.
pub(in crate::checkpoint) const SINGLE: &str = "model.safetensors";
/// Which shard holds which tensor.
pub(in crate::checkpoint) const INDEX: &str = "model.safetensors.index.json";

/// `model.safetensors`, or `model.safetensors.index.json` and its shards.
pub(in crate::checkpoint) struct Safetensors;

impl Container for Safetensors {
    fn entrance(&self, has: &dyn Fn(&str) -> bool) -> Option<&'static str> {
        [SINGLE, INDEX].into_iter().find(|name| has(name))
    }

    fn is_list(&self, entrance: &str) -> bool {
        entrance == INDEX
    }

    fn files(&self, dir: &Path, entrance: &str) -> Result<Vec<String>> {
        if !self.is_list(entrance) {
            return Ok(vec![entrance.to_owned()]);
        }
        let names: BTreeSet<String> = weight_map(&dir.join(entrance))?.into_values().collect();
        Ok(names.into_iter().collect())
    }

    fn open(&self, dir: &Path, entrance: &str) -> Result<Index> {
        if self.is_list(entrance) { open_sharded(dir) } else { open_files(vec![dir.join(entrance)]) }
    }
}

impl Safetensors {
    /// The tensors of one file, whatever its name.
    ///
    /// # Errors
    /// Request: no such file. Work: a truncated or inconsistent file.
    pub(in crate::checkpoint) fn open_file(path: &Path) -> Result<Index> {
        open_files(vec![path.to_owned()])
    }
}

/// `model.safetensors.index.json`; its `metadata` is informative and often wrong.
#[derive(Deserialize)]
struct IndexFile {
    weight_map: BTreeMap<String, String>,
}

/// A missing file is a wrong request here; a name in two files is a broken checkpoint.
fn open_files(paths: Vec<PathBuf>) -> Result<Index> {
    let mut index =
        Index { shards: Vec::new(), tensors: BTreeMap::new(), disputes: BTreeMap::new(), files: Vec::new() };
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

/// The shards that the list in `dir` names, and where they disagree with it.
fn open_sharded(dir: &Path) -> Result<Index> {
    let path = dir.join(INDEX);
    let fault = |reason: String| Error::work(format!("{}: {reason}", path.display()));
    let weight_map = weight_map(&path)?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    if let Some(name) = names.iter().find(|name| fs::metadata(dir.join(name)).is_err()) {
        return Err(fault(format!("shard {name} is missing; download the checkpoint again")));
    }
    let names: Vec<&String> = names.into_iter().collect();
    let mut index = open_files(names.iter().map(|name| dir.join(name)).collect())?;
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
