//! What decides the result of a stage: settings, and what it is made from, as far as that can be told without reading
//! it. A stage is done again when that changes.

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::drop::Wanted;
use super::recipe::Recipe;
use super::stage::Stage;
use super::state::{State, key};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::AnalyzeSettings;
use crate::eval::settings::EvalSettings;
use crate::heal::MergeOnto;
use crate::plan::Dropped;
use crate::repair::Repair;
use crate::{Error, Result};

/// The keys of a recipe's stages.
pub(super) struct Keys<'a> {
    recipe: &'a Recipe,
    /// What the dense model is.
    pub(super) model: Value,
    /// Positions the model was made for, which a healing's length goes by.
    positions: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn new(recipe: &'a Recipe, checkpoint: &Checkpoint) -> Result<Self> {
        let positions = ModelSpec::from_config(&checkpoint.config)?.max_positions;
        Ok(Self { recipe, model: model(checkpoint)?, positions })
    }

    /// What `model` without what is `dropped` is, repaired.
    pub(super) fn cut_model(&self, model: &Value, dropped: &Dropped, repair: Option<&Repair>) -> Result<Value> {
        let cut = match dropped.are_layers() {
            true => json!([model, dropped]),
            // what healing finds in the place of a part goes by how it is written
            false => json!([model, dropped, self.recipe.cut.format]),
        };
        Ok(match self.repair(repair)? {
            None => cut,
            Some(repair) => json!([cut, repair]),
        })
    }

    /// What a repair is: its name, what it is fitted on and how.
    fn repair(&self, repair: Option<&Repair>) -> Result<Option<Value>> {
        let (Some(settings), Some(repair)) = (&self.recipe.repair, repair) else { return Ok(None) };
        let deciding = without(settings, &["methods", "memory", "device"])?;
        Ok(Some(json!([repair, deciding, settings.data.as_deref().map(named).transpose()?])))
    }

    /// The analysis of `model` made by `settings`.
    pub(super) fn analysis(&self, model: &Value, settings: &AnalyzeSettings) -> Result<String> {
        let data: Vec<Value> = settings.data.iter().map(|name| named(name)).collect::<Result<_>>()?;
        let deciding = match &settings.data_dir {
            None => without(settings, &["memory", "device"])?,
            Some(dir) => json!([without(settings, &["memory", "device"])?, named(&dir.display().to_string())?]),
        };
        Ok(match (&data[..], &settings.against) {
            ([only], None) => key(&json!([model, deciding, only])),
            ([only], Some(other)) => key(&json!([model, deciding, only, named(other)?])),
            (several, _) => key(&json!([model, deciding, several])),
        })
    }

    /// The scores of the model that `identity` says; absent where nothing is scored.
    pub(super) fn scores(&self, identity: &Value) -> Result<Option<String>> {
        self.recipe.eval.as_ref().map(|settings| Ok(key(&json!([identity, eval(settings)?])))).transpose()
    }

    /// Whether nothing is left to score of the dense model, in `state`.
    pub(super) fn is_scored(&self, state: &State) -> Result<bool> {
        let name = "dense/scores";
        let key = self.scores(&self.model)?;
        Ok(key.is_none_or(|key| state.is_done(&Stage { name, key, needed: Some(name) })))
    }

    /// The speed of the model that `identity` says; absent where none is measured.
    pub(super) fn speed(&self, identity: &Value) -> Result<Option<String>> {
        let settings = self.recipe.bench.as_ref();
        settings.map(|settings| Ok(key(&json!(["speed in turns", identity, without(settings, &[])?])))).transpose()
    }

    /// The cut of `model` that drops what is `dropped`.
    pub(super) fn cut(&self, model: &Value, wanted: &Wanted, dropped: &Dropped) -> Result<String> {
        let settings = &self.recipe.cut;
        let mut deciding = json!([settings.max_shard_size, settings.allow_unsliced, settings.hash]);
        if let (Some(to), Value::Array(deciding)) = (&settings.to, &mut deciding) {
            deciding.push(json!(to));
        }
        let cut = match dropped.are_layers() {
            true => json!([model, dropped, deciding, wanted.strategy]),
            false => json!([model, dropped, deciding, wanted.strategy, settings.format]),
        };
        Ok(key(&match self.repair(wanted.repair)? {
            None => cut,
            Some(repair) => json!([cut, repair]),
        }))
    }

    /// The healing of the cut that `identity` says; absent where nothing is healed.
    pub(super) fn healing(&self, identity: &Value) -> Result<Option<String>> {
        let Some(settings) = &self.recipe.heal else { return Ok(None) };
        let settings = &settings.settled(self.positions).0;
        let adapter = settings.adapter.as_ref().map(|path| path.display().to_string());
        let template = settings.chat_template.as_ref().map(|path| path.display().to_string());
        let others = [&settings.eval_data, &settings.teacher, &adapter, &template];
        let read = settings.data.iter().chain(others.into_iter().flatten());
        let read: Vec<Value> = read.map(|name| named(name)).collect::<Result<_>>()?;
        // what came later counts where it is not left at what was always done
        let mut new = Vec::new();
        if settings.merge_onto != MergeOnto::default() {
            new.push(json!(settings.merge_onto));
        }
        new.extend(settings.reference.as_ref().map(|name| named(name)).transpose()?);
        let of = if new.is_empty() {
            json!([identity, settings.deciding(), read])
        } else {
            json!([identity, settings.deciding(), read, new])
        };
        Ok(Some(key(&of)))
    }
}

fn without(settings: &impl serde::Serialize, free: &[&str]) -> Result<Value> {
    let mut value = serde_json::to_value(settings).map_err(|error| Error::work(error.to_string()))?;
    if let Value::Object(map) = &mut value {
        map.retain(|name, _| !free.contains(&name.as_str()));
    }
    Ok(value)
}

/// Length and time of change of the files of a model, and its config.
fn model(checkpoint: &Checkpoint) -> Result<Value> {
    let shards: Vec<Value> = checkpoint.index.stored().map(|path| file(path)).collect::<Result<_>>()?;
    Ok(json!([checkpoint.source.id, checkpoint.source.revision, checkpoint.fingerprint(), checkpoint.config, shards]))
}

/// A file, a directory of files, or a name that stands for something on the hub.
fn named(name: &str) -> Result<Value> {
    let path = Path::new(name);
    if path.exists() { Ok(json!([name, tree(path)?])) } else { Ok(json!(name)) }
}

/// The settings of an evaluation that decide its figures, and its data.
fn eval(settings: &EvalSettings) -> Result<Value> {
    let value = without(settings, &["out", "force", "dry_run", "memory", "device", "pass_tokens"])?;
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
