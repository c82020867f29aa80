//! A model directory: config, shards, side files. Bytes and names; only what computes decodes a tensor.

mod index;

pub use index::{Entry, Index};

use std::path::PathBuf;

use serde_json::{Map, Value};

/// Where a checkpoint came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Directory or hub id (`org/name`, `org/name@revision`) as the user gave it.
    pub id: String,
    /// The directory its files are in: the user's, or a snapshot of the hub cache.
    pub dir: PathBuf,
    /// Commit of the hub repository.
    pub revision: Option<String>,
}

/// An opened checkpoint: nothing decoded, no tensor read.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where it came from.
    pub source: Source,
    /// `config.json`, every key, in the file's order.
    pub config: Map<String, Value>,
    /// Every tensor by name.
    pub index: Index,
}
