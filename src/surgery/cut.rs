//! A cut, decided in full before a byte is written, and then written as it was decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::config::{ConfigEdit, config_edits, edit_config};
use super::container::Container;
use super::format::{FORMATS, Format, Missing};
use super::json_text::Change;
use super::names::Stack;
use super::places::Places;
use super::stack_config::{StackConfig, layer_count};
use super::tensors::Tensors;
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint, parse_json};
use crate::files::{self, Bound};
use crate::plan::{Place, Plan, PlannedFor};
use crate::weights::{Blueprint, Expr};
use crate::{Context, Error, Result};

/// A number of the source and of what the cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shrunk {
    /// In the source.
    pub before: u64,
    /// In the new checkpoint.
    pub after: u64,
}

/// What decides on a cut beside its plan.
#[derive(Clone, Copy, Debug)]
pub struct CutOptions<'a> {
    /// Tensors of one weight file take no more than this, unless one alone does.
    pub max_shard_size: ByteSize,
    /// Config keys that stay as they are although they look as if they had one value per layer.
    pub allow_unsliced: &'a [String],
    /// How missing sub-layers are written; needed where the plan leaves some out.
    pub format: Option<&'static Format>,
}

/// What a cut will write.
#[derive(Debug)]
pub struct Cut {
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) plan: Plan,
    pub(super) kept: Vec<usize>,
    pub(super) edits: Vec<ConfigEdit>,
    pub(super) format: Option<&'static Format>,
    pub(super) not_computed: Option<String>,
    pub(super) parameters: Shrunk,
    pub(super) bytes: Shrunk,
    pub(super) repair: Option<Value>,
    pub(super) container: Container,
}

impl Cut {
    /// Decides what `plan` makes of `source`, which is the model `model`. Nothing is written.
    ///
    /// A cut needs names, bytes and the config's keys, so it serves families that this program does not compute as
    /// well, but for sub-layers, whose tensors it must know; where it does, the config must describe the new stack
    /// afterwards as it did before.
    ///
    /// # Errors
    /// Request: a plan for another model, a config key that is not understood, two stacks of layers that feed each
    /// other, sub-layers that are not there or no format for their absence, a tensor that cannot be made. Work: a
    /// broken config, tensors that disagree with it.
    pub fn new(source: &Arc<Checkpoint>, model: &PlannedFor, plan: Plan, options: &CutOptions<'_>) -> Result<Self> {
        plan.check_for(model)?;
        let kept = plan.kept();
        let place = || source.source.dir.display();
        let (spec, not_computed) = family(source).context(place)?;
        let format = missing_format(&plan, spec.as_ref(), not_computed.as_deref(), options.format)?;
        let is_zeros = format.is_some_and(|format| format.is_zeros);
        let stacks = StackConfig::all(&source.config).context(place)?;
        let mut edits = edits(source, &kept, options.allow_unsliced).context(place)?;
        let after = spec.as_ref().map(|spec| new_spec(spec, &plan, is_zeros));
        if let (Some(format), Some(spec), Some(after)) = (format, &spec, &after) {
            let before = kept.iter().map(|layer| spec.without[*layer]).collect();
            let missing = Missing { stack: &stacks[0], spec, before, after: after.without.clone(), layers: &kept };
            let news = format.edits(&missing)?;
            edits.retain(|edit| news.iter().all(|new| new.key != edit.key));
            edits.extend(news);
        }
        let config = edited_config(source, after.as_ref(), kept.len(), &edits).context(place)?;

        let stack = Stack::of(source)?;
        let places = Places::new(&kept, stacks[0].layers);
        let tensors = Tensors::new(source, stack, (&plan, &places), spec.as_ref(), is_zeros)?;
        let (draft, parameters, bytes) = tensors.draft()?;
        let blueprint = Arc::new(draft.finish(config, options.max_shard_size)?);
        let (repair, container) = (None, Container::Safetensors);
        Ok(Self { blueprint, plan, kept, edits, format, not_computed, parameters, bytes, repair, container })
    }

    /// The same with the tensors `changed` made otherwise, by their names in the new checkpoint and of its tensors;
    /// `record` says in the history what repaired it.
    ///
    /// # Errors
    /// Work: a tensor that is not there or is stored in codes, shapes that do not go together.
    pub fn repaired(self, changed: BTreeMap<String, Expr>, record: Value) -> Result<Self> {
        let blueprint = Arc::new(self.blueprint.with(changed)?);
        Ok(Self { blueprint, repair: Some(record), container: Container::Safetensors, ..self })
    }

    /// What repaired it; `None` where nothing did.
    #[must_use]
    pub fn repair(&self) -> Option<&Value> {
        self.repair.as_ref()
    }

    /// The new checkpoint: nothing of it is computed.
    #[must_use]
    pub fn blueprint(&self) -> &Arc<Blueprint> {
        &self.blueprint
    }

    /// Whether it inserts layers and drops none.
    #[must_use]
    pub fn is_growth(&self) -> bool {
        !self.plan.inserted().is_empty() && self.plan.dropped().is_empty()
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The source's layer at each place of the new stack.
    #[must_use]
    pub fn kept(&self) -> &[usize] {
        &self.kept
    }

    /// What changes in `config.json`.
    #[must_use]
    pub fn edits(&self) -> &[ConfigEdit] {
        &self.edits
    }

    /// How it is written that layers lack sub-layers; `None` where the plan leaves none out.
    #[must_use]
    pub fn format(&self) -> Option<&'static str> {
        self.format.map(|format| format.name)
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
    has_one_stack(source)?;
    let spec = ModelSpec::from_config(&source.config);
    match spec.and_then(|spec| spec.check(&source.index).map(|_| spec)) {
        Ok(spec) => Ok((Some(spec), None)),
        Err(error) if error.exit_code() == 2 => Ok((None, Some(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// Refuses an encoder and a decoder.
pub(super) fn has_one_stack(source: &Checkpoint) -> Result<()> {
    match source.config.get("is_encoder_decoder") == Some(&Value::Bool(true)) {
        false => Ok(()),
        true => Err(Error::request(
            "config.json: is_encoder_decoder is true: a plan speaks of one stack of layers, this model has two",
        )),
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

/// How the sub-layers that `plan` leaves out are written; `None` where it leaves none out.
///
/// # Errors
/// Request: no format for them, a family whose sub-layers are not known, sub-layers that are not there.
fn missing_format(
    plan: &Plan,
    spec: Option<&ModelSpec>,
    not_computed: Option<&str>,
    format: Option<&'static Format>,
) -> Result<Option<&'static Format>> {
    let mut less = plan.stack.iter().filter(|place| !place.without.is_empty()).peekable();
    if less.peek().is_none() {
        return Ok(None);
    }
    let Some(spec) = spec else {
        return Err(Error::request(format!(
            "the plan leaves out sub-layers, and which tensors are theirs is known of computed families alone: {}",
            not_computed.unwrap_or("this one is not")
        )));
    };
    for place in less {
        let gone = spec.without.get(place.layer).copied().unwrap_or_default();
        if let Some(sublayer) = place.without.iter().find(|sublayer| gone.contains(*sublayer)) {
            return Err(Error::request(format!(
                "the plan leaves out the {} of layer {}, which has none",
                sublayer.name(),
                place.layer
            )));
        }
        if gone.and(place.without).is_all() {
            return Err(Error::request(format!(
                "the plan leaves nothing of layer {}; drop the layer whole",
                place.layer
            )));
        }
    }
    if format.is_some_and(|format| format.is_zeros) && spec.without.iter().any(|without| !without.is_empty()) {
        return Err(Error::request(
            "--format zeros: layers of this model lack parts already, whose tensors are not there to be zero; write \
             --format per-layer or nas, as the model has it",
        ));
    }
    format.map(Some).ok_or_else(|| {
        let known: Vec<String> =
            FORMATS.iter().map(|format| format!("--format {} ({})", format.name, format.about)).collect();
        Error::request(format!(
            "the plan leaves out sub-layers, and no format is read by all programs; choose {}",
            known.join("; ")
        ))
    })
}

/// What the new stack is.
fn new_spec(before: &ModelSpec, plan: &Plan, is_zeros: bool) -> ModelSpec {
    let lacks = |place: &Place| match is_zeros {
        true => before.without[place.layer],
        false => before.without[place.layer].and(place.without),
    };
    ModelSpec { without: plan.stack.iter().map(lacks).collect(), ..before.stacked(&plan.kept()) }
}

/// The text of the new config, after making sure that it describes the new stack of `layers` layers, `expected`.
fn edited_config(
    source: &Checkpoint,
    expected: Option<&ModelSpec>,
    layers: usize,
    edits: &[ConfigEdit],
) -> Result<String> {
    let path = source.source.dir.join("config.json");
    let text = files::read_text(&path, Bound::CONFIG.bytes)?;
    let text = edit_config(&text, edits)?;
    let config = parse_json(text.as_bytes()).map_err(|error| Error::work(format!("config.json: {error}")))?;
    let is_right = match expected {
        Some(expected) => {
            let found = ModelSpec::from_config(&config)?;
            // the same blocks may go by another name
            ModelSpec { model_type: expected.model_type.clone(), ..found } == *expected
        }
        None => layer_count(&config)? == layers,
    };
    if !is_right {
        return Err(Error::work(
            "config.json: it would describe other layers than those of the new stack; please report this",
        ));
    }
    Ok(text)
}
