//! What a finished healing says of itself, and what a later run reads from it: whether the work is done already.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::heal::HealResult;
use super::taught::Taught;
use crate::checkpoint::{Checkpoint, content_hash, differences, read_json};
use crate::data::TextSource;
use crate::data::chat::Chat;
use crate::eval::questions::TaskQuestions;
use crate::heal::{HealSettings, Train};
use crate::progress::Progress;
use crate::weights::lora::ADAPTER_FILES;
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

/// What a healing reads.
pub(super) struct Inputs<'a> {
    pub(super) model: &'a Checkpoint,
    /// Files of the texts, and their bytes.
    pub(super) data: (Vec<PathBuf>, u64),
    pub(super) chat: Option<&'a Chat>,
    pub(super) eval_data: Option<&'a TextSource>,
    pub(super) tasks: Option<&'a TaskQuestions>,
    pub(super) teacher: Option<&'a Taught>,
    pub(super) adapter: Option<&'a Path>,
    pub(super) reference: Option<&'a Checkpoint>,
}

/// The keys that say what was read by its content. Records of older versions lack them.
const CONTENTS: [&str; 6] = [MODEL, "data_sha256", "eval_data_sha256", "teacher_sha256", "adapter_sha256", REFERENCE];
const MODEL: &str = "model_sha256";
const REFERENCE: &str = "reference_sha256";

impl Record {
    /// Of a healing by `settings`.
    ///
    /// # Errors
    /// Work: a file that cannot be read. Interrupted.
    pub(super) fn new(settings: &HealSettings, inputs: &Inputs<'_>, progress: &dyn Progress) -> Result<Self> {
        let mut deciding = settings.deciding();
        deciding.insert("model_is".to_owned(), json!(sample_hash(inputs.model)?));
        if let Some(teacher) = inputs.teacher.and_then(Taught::model) {
            deciding.insert("teacher_is".to_owned(), json!(sample_hash(teacher)?));
        }
        deciding.insert("data_bytes".to_owned(), json!(inputs.data.1));
        if let Some(template) = inputs.chat.and_then(|chat| chat.template.as_ref()) {
            deciding.insert("chat_template_sha256".to_owned(), json!(template.sha256()));
        }
        if let Some(tasks) = inputs.tasks {
            deciding.insert("eval_tasks_sha256".to_owned(), json!(tasks.digest()));
        }
        deciding.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        let adapter: Option<Vec<PathBuf>> = inputs.adapter.map(|dir| ADAPTER_FILES.map(|file| dir.join(file)).into());
        for (key, files) in CONTENTS.iter().zip([
            Some(inputs.model.content_files()),
            Some(inputs.data.0.clone()),
            inputs.eval_data.map(|source| source.files().to_vec()),
            inputs.teacher.map(Taught::files),
            adapter,
        ]) {
            if let Some(files) = files {
                deciding.insert((*key).to_owned(), json!(content_hash(&files, progress)?));
            }
        }
        let mut all = deciding.clone();
        all.extend(settings.written());
        if let Some(reference) = inputs.reference.filter(|_| settings.reference.is_some()) {
            all.insert(REFERENCE.to_owned(), json!(content_hash(&reference.content_files(), progress)?));
        }
        let parts = [
            ("adapter", settings.train == Train::Lora),
            ("merged", !settings.adapter_only),
            ("base-4bit", settings.save_4bit),
        ];
        Ok(Self { deciding, all, parts: parts.into_iter().filter(|part| part.1).map(|part| part.0).collect() })
    }

    /// What the model is, by content.
    pub(super) fn model(&self) -> &str {
        self.deciding.get(MODEL).and_then(Value::as_str).unwrap_or_default()
    }

    /// Name and text of the file that records `result`.
    ///
    /// # Errors
    /// None that can be met.
    pub(super) fn file(&self, checkpoint: &Checkpoint, result: &HealResult) -> Result<(&'static str, Vec<u8>)> {
        let record = json!({
            "prune": env!("CARGO_PKG_VERSION"),
            "model": checkpoint.source.id,
            "revision": checkpoint.source.revision,
            "settings": self.all,
            "result": result,
        });
        Ok((FILE, pretty(&record)?))
    }

    /// Whether a finished healing says in `out` how it was made.
    pub(super) fn stands_at(out: &Path) -> bool {
        out.join(FILE).exists()
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
        let list = differences(&settings, &known_to(&settings, &self.all)?);
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

/// Without what a record of an older version cannot know: contents, and settings that came later, where they are left
/// at what that version did.
fn known_to(before: &Map<String, Value>, now: &Map<String, Value>) -> Result<Map<String, Value>> {
    let defaults = serde_json::to_value(HealSettings::default()).map_err(|error| Error::work(error.to_string()))?;
    let is_old = !before.contains_key(MODEL);
    let mut known = now.clone();
    known.retain(|key, value| {
        let is_new = is_old && !before.contains_key(key);
        !is_new || !(CONTENTS.contains(&key.as_str()) || defaults.get(key) == Some(value))
    });
    Ok(known)
}

/// SHA-256 of the config and the first bytes of every tensor: tells apart models that differ anywhere but in a few
/// numbers, without reading them whole.
///
/// # Errors
/// Work: a file that cannot be read.
pub(super) fn sample_hash(checkpoint: &Checkpoint) -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_record_does_not_know_what_came_later() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let now = map(json!({"lr": 0.1, "merge_onto": "full", MODEL: "a", "data_sha256": "b", "data_bytes": 7}));
        let differing = |before: Value| {
            let before = map(before);
            differences(&before, &known_to(&before, &now).unwrap())
        };
        assert_eq!(differing(json!({"lr": 0.1, "data_bytes": 7})), [""; 0]);
        assert_eq!(differing(json!({"lr": 0.1, "data_bytes": 8})), ["data_bytes was 8, is 7"]);
        let since = json!({"lr": 0.1, "merge_onto": "full", MODEL: "a", "data_sha256": "c", "data_bytes": 7});
        assert_eq!(differing(since), ["data_sha256 was \"c\", is \"b\""]);
        let without = json!({"lr": 0.1, "merge_onto": "full", MODEL: "a", "data_bytes": 7});
        assert_eq!(differing(without), ["data_sha256 was absent, is \"b\""]);
    }
}
