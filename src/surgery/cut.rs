//! A cut, decided in full before a byte is written, and then written as it was decided.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::config::{ConfigEdit, config_edits, edit_config};
use super::json_text::Change;
use super::names::Stack;
use super::stack_config::{StackConfig, layer_count};
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, Entry, parse_json};
use crate::files::{self, Bound};
use crate::plan::{Plan, PlannedFor};
use crate::weights::{Blueprint, Draft};
use crate::{Context, Error, Result};

/// A number of the source and of what the cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shrunk {
    /// In the source.
    pub before: u64,
    /// In the new checkpoint.
    pub after: u64,
}

/// What a cut will write.
#[derive(Debug)]
pub struct Cut {
    blueprint: Blueprint,
    plan: Plan,
    kept: Vec<usize>,
    edits: Vec<ConfigEdit>,
    not_computed: Option<String>,
    parameters: Shrunk,
    bytes: Shrunk,
}

impl Cut {
    /// Decides what `plan` makes of `source`, which is the model `model`. Nothing is written. `allow_unsliced` are
    /// config keys that stay as they are although they look as if they had one value per layer.
    ///
    /// A cut needs names, bytes and the config's keys, so it serves families that this program does not compute as
    /// well; where it does, the config must describe the kept layers afterwards as it did before.
    ///
    /// # Errors
    /// Request: a plan for another model, a config key that is not understood, two stacks of layers that feed each
    /// other. Work: a broken config, tensors that disagree with it.
    pub fn new(
        source: &Arc<Checkpoint>,
        model: &PlannedFor,
        plan: Plan,
        max_shard_size: ByteSize,
        allow_unsliced: &[String],
    ) -> Result<Self> {
        plan.check_for(model)?;
        let kept = plan.kept();
        let place = || source.source.dir.display();
        let (spec, not_computed) = family(source).context(place)?;
        let edits = edits(source, &kept, allow_unsliced).context(place)?;
        let config = edited_config(source, spec.as_ref(), &kept, &edits).context(place)?;

        let mut entries: Vec<&Entry> = source.index.tensors.values().collect();
        // in the order of the files, so that they are read from front to back
        entries.sort_by_key(|entry| (entry.shard, entry.begin));
        let stacks = StackConfig::all(&source.config).context(place)?;
        let extra = stacks[0].keys.get("num_nextn_predict_layers").and_then(Value::as_u64).unwrap_or(0);
        let names = source.index.tensors.keys().map(String::as_str);
        let stack = Stack::find(names, stacks[0].layers, usize::try_from(extra).unwrap_or(0)).context(place)?;
        let mut draft = Draft::new(source);
        let mut parameters = Shrunk { before: 0, after: 0 };
        let mut bytes = parameters;
        for entry in entries {
            let elements: u64 = entry.shape.iter().map(|size| *size as u64).product();
            parameters.before += elements;
            bytes.before += entry.len;
            let Some(name) = stack.rename(&entry.name, &kept) else { continue };
            parameters.after += elements;
            bytes.after += entry.len;
            draft.copy(&name, &entry.name)?;
        }
        let blueprint = draft.finish(config, max_shard_size)?;
        Ok(Self { blueprint, plan, kept, edits, not_computed, parameters, bytes })
    }

    /// The new checkpoint: nothing of it is computed.
    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Layers of the source that stay, ascending.
    #[must_use]
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// What changes in `config.json`.
    #[must_use]
    pub fn edits(&self) -> &[ConfigEdit] {
        &self.edits
    }

    /// Why this program does not compute the model, so that its layers go by names and bytes alone; `None` where it
    /// does.
    #[must_use]
    pub fn not_computed(&self) -> Option<&str> {
        self.not_computed.as_deref()
    }

    /// Numbers stored, tied ones once.
    #[must_use]
    pub fn parameters(&self) -> Shrunk {
        self.parameters
    }

    /// Bytes of tensors.
    #[must_use]
    pub fn bytes(&self) -> Shrunk {
        self.bytes
    }
}

/// What the model is, or why it is not computed: another family, weights in codes that are not read.
///
/// # Errors
/// Request: an encoder and a decoder. Work: a key that is missing or makes no sense, tensors that disagree with the
/// config.
fn family(source: &Checkpoint) -> Result<(Option<ModelSpec>, Option<String>)> {
    if source.config.get("is_encoder_decoder") == Some(&Value::Bool(true)) {
        return Err(Error::request(
            "config.json: is_encoder_decoder is true: a plan speaks of one stack of layers, this model has two",
        ));
    }
    let spec = ModelSpec::from_config(&source.config);
    match spec.and_then(|spec| spec.check(&source.index).map(|_| spec)) {
        Ok(spec) => Ok((Some(spec), None)),
        Err(error) if error.exit_code() == 2 => Ok((None, Some(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// What changes in the config. A word of quantisation that was left over on plain weights goes: readers that heed it
/// would refuse what was written, or quantise it.
fn edits(source: &Checkpoint, kept: &[usize], allow_unsliced: &[String]) -> Result<Vec<ConfigEdit>> {
    let mut edits = config_edits(&source.config, kept, allow_unsliced)?;
    if let Some((key, value)) = &source.leftover {
        edits.push(ConfigEdit::new(vec![(*key).to_owned()], Change::Remove, value.clone(), Value::Null));
    }
    Ok(edits)
}

/// The text of the new config, after making sure that it describes the kept layers as the old one did.
fn edited_config(
    source: &Checkpoint,
    before: Option<&ModelSpec>,
    kept: &[usize],
    edits: &[ConfigEdit],
) -> Result<String> {
    let path = source.source.dir.join("config.json");
    let text = files::read_text(&path, Bound::CONFIG.bytes)?;
    let text = edit_config(&text, edits)?;
    let config = parse_json(text.as_bytes()).map_err(|error| Error::work(format!("config.json: {error}")))?;
    let is_right = match before {
        Some(before) => {
            let expected = ModelSpec {
                layers: kept.len(),
                windows: kept.iter().map(|layer| before.windows[*layer]).collect(),
                rotated: kept.iter().map(|layer| before.rotated[*layer]).collect(),
                ..before.clone()
            };
            ModelSpec::from_config(&config)? == expected
        }
        None => layer_count(&config)? == kept.len(),
    };
    if !is_right {
        return Err(Error::work(
            "config.json: after the cut it would describe other layers than those that were kept; please report this",
        ));
    }
    Ok(text)
}
