//! What a stage was made from, as far as it can be told without reading it: a stage whose inputs look as before is not
//! done again.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use crate::checkpoint::Checkpoint;
use crate::eval::settings::EvalSettings;
use crate::{Error, Result};

/// Length and time of change of the files of a model, and its config.
pub(super) fn model(checkpoint: &Checkpoint) -> Result<Value> {
    let shards: Vec<Value> = checkpoint.index.shards.iter().map(|path| file(path)).collect::<Result<_>>()?;
    Ok(json!([checkpoint.source.id, checkpoint.source.revision, checkpoint.fingerprint(), checkpoint.config, shards]))
}

/// A file, a directory of files, or a name that stands for something on the hub.
pub(super) fn named(name: &str) -> Result<Value> {
    let path = Path::new(name);
    if path.exists() { Ok(json!([name, tree(path)?])) } else { Ok(json!(name)) }
}

/// The settings of an evaluation that decide its figures, and its data.
pub(super) fn eval(settings: &EvalSettings) -> Result<Value> {
    let mut value = serde_json::to_value(settings).map_err(|error| Error::work(error.to_string()))?;
    if let Value::Object(map) = &mut value {
        for free in ["out", "force", "dry_run", "memory", "device", "pass_tokens"] {
            map.remove(free);
        }
    }
    let data = settings.data_dir.iter().map(|dir| named(&dir.display().to_string()));
    let texts = settings.tasks.iter().filter_map(|task| task.strip_prefix("text:")).map(named);
    let data: Vec<Value> = data.chain(texts).collect::<Result<_>>()?;
    Ok(json!([value, data]))
}

fn file(path: &Path) -> Result<Value> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, &error))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let name = path.file_name().map(|name| name.to_string_lossy());
    Ok(json!([name, metadata.len(), changed.map(|time| time.as_nanos().to_string())]))
}

fn tree(path: &Path) -> Result<Value> {
    if !path.is_dir() {
        return file(path);
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| Error::io(path, &error))? {
        entries.push(entry.map_err(|error| Error::io(path, &error))?.path());
    }
    entries.sort();
    let name = path.file_name().map(|name| name.to_string_lossy());
    Ok(json!([name, entries.iter().map(|entry| tree(entry)).collect::<Result<Vec<_>>>()?]))
}
