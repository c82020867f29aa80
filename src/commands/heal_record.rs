//! What a finished healing says of itself, and what a later run reads from it: whether the work is done already.

use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::heal::HealResult;
use crate::checkpoint::{Checkpoint, read_json};
use crate::heal::{HealSettings, Train, differences};
use crate::{Context, Error, Result};

/// The file in an output that says how it was made.
const FILE: &str = "heal.json";

/// How a healing is made: settings, and what its files are.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// What decides the course of training.
    pub(super) deciding: Map<String, Value>,
    /// That, and what decides which files come of it.
    all: Map<String, Value>,
    /// The directories that come of it.
    parts: Vec<&'static str>,
}

impl Record {
    /// Of the healing of `checkpoint` by `settings` on a text of `data_bytes`.
    ///
    /// # Errors
    /// Work: weights that cannot be read.
    pub(super) fn new(
        settings: &HealSettings,
        checkpoint: &Checkpoint,
        teacher: Option<&Checkpoint>,
        data_bytes: u64,
    ) -> Result<Self> {
        let mut deciding = settings.deciding();
        deciding.insert("model_is".to_owned(), json!(sample_hash(checkpoint)?));
        if let Some(teacher) = teacher {
            deciding.insert("teacher_is".to_owned(), json!(sample_hash(teacher)?));
        }
        deciding.insert("data_bytes".to_owned(), json!(data_bytes));
        deciding.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        let mut all = deciding.clone();
        all.extend(settings.written());
        let parts = [
            ("adapter", settings.train == Train::Lora),
            ("merged", !settings.adapter_only),
            ("base-4bit", settings.save_4bit),
        ];
        Ok(Self { deciding, all, parts: parts.into_iter().filter(|part| part.1).map(|part| part.0).collect() })
    }

    /// Name and text of the file that records `result`.
    ///
    /// # Errors
    /// None that can be met.
    pub(super) fn file(&self, checkpoint: &Checkpoint, result: HealResult) -> Result<(&'static str, Vec<u8>)> {
        let record = json!({
            "prune": env!("CARGO_PKG_VERSION"),
            "model": checkpoint.source.id,
            "revision": checkpoint.source.revision,
            "settings": self.all,
            "result": result,
        });
        Ok((FILE, pretty(&record)?))
    }

    /// The result that stands at `out`, if it is what this healing would give.
    ///
    /// # Errors
    /// Request: something else stands there; says how it differs. Work: a record that cannot be read.
    pub(super) fn result_at(&self, out: &Path) -> Result<HealResult> {
        let (path, place) = (out.join(FILE), out.display());
        if !path.exists() {
            return Err(Error::request(format!("{place} exists; --force replaces it")));
        }
        let record: Value = read_json(&path)?;
        let settings = record.get("settings").and_then(Value::as_object).cloned().unwrap_or_default();
        let list = differences(&settings, &self.all);
        if !list.is_empty() {
            let list = list.join("; ");
            return Err(Error::request(format!("{place} was healed with other settings: {list}; --force replaces it")));
        }
        if let Some(part) = self.parts.iter().find(|part| !out.join(part).is_dir()) {
            return Err(Error::request(format!("{place} was healed, but its {part} is gone; --force heals again")));
        }
        let result = record.get("result").cloned().unwrap_or_default();
        serde_json::from_value(result).map_err(|error| Error::work(error.to_string())).context(|| path.display())
    }
}

/// SHA-256 of the config and the first bytes of every tensor: tells apart models that differ anywhere but in a few
/// numbers, without reading them whole.
fn sample_hash(checkpoint: &Checkpoint) -> Result<String> {
    const SAMPLE: u64 = 4096;
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&checkpoint.config).map_err(|error| Error::work(error.to_string()))?);
    for (name, entry) in &checkpoint.tensors {
        hash.update(name);
        hash.update(format!("{:?} {:?}", entry.dtype, entry.shape));
        let mut bytes = vec![0; entry.len.min(SAMPLE) as usize];
        checkpoint.read_range(entry, 0, &mut bytes)?;
        hash.update(&bytes);
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// A JSON text, indented by two.
///
/// # Errors
/// None that can be met.
pub(super) fn pretty(value: &Value) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::work(error.to_string()))?;
    Ok((text + "\n").into_bytes())
}
