//! What the source's files were, for the history of what was made from them.
//!
//! Everything but the weights is hashed whole. Of a weight file, the header is hashed always: names, types, shapes and
//! places of its tensors. Its SHA-256 stands there where the hub cache has it for a name, which costs nothing, or where
//! it was asked for: reading and hashing the layers that a cut drops would take longer than the cut.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, sha256};
use crate::progress::{Progress, Silent};
use crate::{Error, Result};

/// One file of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct SourceFile {
    bytes: u64,
    /// SHA-256 of the whole file.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// SHA-256 of a weight file up to its first tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    header_sha256: Option<String>,
}

/// Every file that the new checkpoint is made from, by its path in the source's directory.
pub(super) fn files(source: &Checkpoint, hash: bool, progress: &dyn Progress) -> Result<BTreeMap<String, SourceFile>> {
    let dir = &source.source.dir;
    let mut files = BTreeMap::new();
    let index = Path::new("model.safetensors.index.json");
    let sharded = (source.index.shards.len() > 1 && source.gguf.is_none()).then(|| index.to_owned());
    // a GGUF file holds the rest
    let beside = match source.gguf {
        Some(_) => Vec::new(),
        None => [source.side_files()?, vec![Path::new("config.json").to_owned()]].concat(),
    };
    for name in beside.into_iter().chain(sharded) {
        let path = dir.join(&name);
        let file = SourceFile { bytes: length(&path)?, sha256: Some(sha256(&path, &Silent)?), header_sha256: None };
        files.insert(name.to_string_lossy().into_owned(), file);
    }
    let hashed = if hash { source.index.shard_hashes(progress)? } else { BTreeMap::new() };
    for (shard, path) in source.index.stored().enumerate() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (known, computed) = (cached_hash(path), hashed.get(&name).cloned());
        if let (Some(known), Some(computed)) = (&known, &computed)
            && known != computed
        {
            return Err(Error::work(format!(
                "{}: the hub calls it {known}, its SHA-256 is {computed}: the cached copy is damaged, delete it and \
                 download it again",
                path.display()
            )));
        }
        let header = header_hash(path, source.gguf.as_ref().map(|gguf| gguf.parts[shard].header.begin))
            .map_err(|error| Error::io(path, &error))?;
        let file = SourceFile { bytes: length(path)?, sha256: computed.or(known), header_sha256: Some(header) };
        files.insert(name, file);
    }
    Ok(files)
}

fn length(path: &Path) -> Result<u64> {
    Ok(path.metadata().map_err(|error| Error::io(path, &error))?.len())
}

/// The hub cache keeps a large file under its SHA-256 and links to it.
fn cached_hash(path: &Path) -> Option<String> {
    let blob = path.canonicalize().ok()?;
    let name = blob.file_name()?.to_str()?;
    let is_hash = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_hash && blob.parent()?.file_name()? == "blobs").then(|| name.to_owned())
}

/// SHA-256 of the length and the text of a safetensors header, or of the `bytes` before the tensors.
fn header_hash(path: &Path, bytes: Option<u64>) -> io::Result<String> {
    let mut file = File::open(path)?;
    if let Some(bytes) = bytes {
        let mut sum = Sha256::new();
        io::copy(&mut file.take(bytes), &mut sum)?;
        return Ok(format!("{:x}", sum.finalize()));
    }
    let mut prefix = [0; 8];
    file.read_exact(&mut prefix)?;
    let mut sum = Sha256::new();
    sum.update(prefix);
    io::copy(&mut file.take(u64::from_le_bytes(prefix)), &mut sum)?;
    Ok(format!("{:x}", sum.finalize()))
}
