//! What the cache holds.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::Hub;
use super::fetch::missing_file;
use super::gguf_files::Chosen;
use crate::{Error, Result};

/// A repository in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cached {
    /// `org/name`.
    pub id: String,
    /// Whether it is a model; otherwise a data set.
    pub is_model: bool,
    /// Bytes of its contents, unfinished downloads included.
    pub bytes: u64,
    /// A file without which the model cannot be opened and which is not there; of the snapshot that lacks the least.
    pub missing: Option<String>,
}

impl Hub {
    /// The models and data sets in the cache, by name. An absent cache is an empty one.
    ///
    /// # Errors
    /// Work: the cache cannot be read.
    pub fn inventory(&self) -> Result<Vec<Cached>> {
        let root = self.cache();
        if !root.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(root).map_err(|error| Error::io(root, &error))? {
            let entry = entry.map_err(|error| Error::io(root, &error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kinds = [("models--", true), ("datasets--", false)];
            let kind = kinds.iter().find_map(|(front, is_model)| Some((name.strip_prefix(front)?, *is_model)));
            let Some((name, is_model)) = kind.filter(|_| entry.path().is_dir()) else { continue };
            let path = entry.path();
            found.push(Cached {
                id: name.replace("--", "/"),
                is_model,
                bytes: bytes_in(&path.join("blobs")),
                missing: is_model.then(|| missing_of(&path.join("snapshots"))).flatten(),
            });
        }
        found.sort_by(|a, b| (!a.is_model, &a.id).cmp(&(!b.is_model, &b.id)));
        Ok(found)
    }
}

/// Bytes of the files in a folder.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

/// What is missing in every snapshot of a model.
fn missing_of(snapshots: &Path) -> Option<String> {
    let mut missing = Some("a snapshot".to_owned());
    for snapshot in fs::read_dir(snapshots).into_iter().flatten().flatten() {
        missing = missing_file(&snapshot.path(), &Chosen::Only);
        if missing.is_none() {
            break;
        }
    }
    missing
}
