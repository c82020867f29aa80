//! What keys of a GGUF file say of single layers.
//!
//! Keys: `LLM_KV_NAMES` of llama.cpp; what a layer's number means to an architecture: its `llama_model_*` classes.

use serde_json::{Value as Json, json};

use super::places::Places;
use crate::checkpoint::gguf::{Gguf, MetaValue, Pair, Value};
use crate::{Error, Result};

/// Arrays under an architecture's name that have no value per layer, whatever their length.
const NOT_OF_LAYERS: &[&str] = &["rope.dimension_sections", "target_layers", "attention.head_count_sections"];

/// Architectures that llama.cpp computes by the number of a layer, without a key: which layer of so many is another.
const PERIODS: &[(&str, usize)] = &[
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("gpt-oss", 2),
    ("cohere2", 4),
    ("smollm3", 4),
    ("exaone4", 4),
    ("llama4", 4),
    ("qwen3next", 4),
];

/// What becomes of a pair.
#[derive(Debug, PartialEq)]
pub(super) enum KeyEdit {
    /// It stays as it is.
    Keep,
    /// It goes: it speaks of files that there are no longer.
    Drop,
    /// This value, and both as a report shows them.
    Set(MetaValue, Json, Json),
}

/// Decides on `pair`.
///
/// # Errors
/// Request: dense layers that would no longer be the first.
pub(super) fn edit(source: &Gguf, pair: &Pair, places: &Places, allow_unsliced: &[String]) -> Result<KeyEdit> {
    if pair.key.starts_with("split.") {
        return Ok(KeyEdit::Drop);
    }
    let own = pair.key.strip_prefix(source.arch.as_str()).and_then(|rest| rest.strip_prefix('.'));
    let (Some(key), Some(value), false) = (own, source.header().get(&pair.key), places.is_whole()) else {
        return Ok(KeyEdit::Keep);
    };
    let layers = source.layers()?;
    match (key, value) {
        ("block_count", _) => {
            let after = places.len();
            Ok(KeyEdit::Set(MetaValue::whole(pair.kind, after as u64), json!(layers), json!(after)))
        }
        ("leading_dense_block_count", value) => {
            let before = value.unsigned().unwrap_or(0) as usize;
            let is_dense: Vec<bool> = places.layers().iter().map(|layer| *layer < before).collect();
            let after = is_dense.iter().filter(|dense| **dense).count();
            if is_dense.iter().take(after).any(|dense| !dense) {
                return Err(Error::request(format!(
                    "{}: the first {before} layers have no experts, and would no longer be the first",
                    pair.key
                )));
            }
            Ok(KeyEdit::Set(MetaValue::whole(pair.kind, after as u64), json!(before), json!(after)))
        }
        (key, Value::List(list)) if list.len() == layers && !NOT_OF_LAYERS.contains(&key) => {
            if allow_unsliced.iter().any(|allowed| *allowed == pair.key || allowed == key) {
                return Ok(KeyEdit::Keep);
            }
            let pieces: Vec<&[u8]> = list.pieces().collect();
            let values: Vec<Json> = list.values().map(shown).collect();
            let kept = places.layers().iter();
            let sliced: Vec<&[u8]> = kept.clone().filter_map(|layer| pieces.get(*layer).copied()).collect();
            let after: Vec<Json> = kept.filter_map(|layer| values.get(*layer).cloned()).collect();
            Ok(KeyEdit::Set(MetaValue::list(list.kind(), sliced.into_iter()), json!(values), json!(after)))
        }
        _ => Ok(KeyEdit::Keep),
    }
}

fn shown(value: Value<'_>) -> Json {
    match value {
        Value::Whole(number) => json!(i64::try_from(number).unwrap_or(i64::MAX)),
        Value::Float(number) => json!(number),
        Value::Bool(truth) => json!(truth),
        Value::Text(_) | Value::List(_) => json!(value.to_string()),
    }
}

/// Whether the layers at their new places mean what they meant: to an architecture that counts, and behind the stack.
///
/// # Errors
/// Request: they do not.
pub(super) fn check(source: &Gguf, kept: &[usize]) -> Result<()> {
    let layers = source.layers()?;
    let get = |key: &str| source.header().get(&format!("{}.{key}", source.arch));
    let number = |key: &str| get(key).and_then(Value::unsigned).and_then(|number| usize::try_from(number).ok());
    let beyond = number("nextn_predict_layers").unwrap_or(0).min(layers);
    let tail = kept.len().checked_sub(beyond).and_then(|at| kept.get(at..)).unwrap_or_default();
    if !tail.iter().copied().eq(layers - beyond..layers) {
        return Err(Error::request(format!(
            "the last {beyond} layers predict tokens beyond the next ({}.nextn_predict_layers); they have to stay last",
            source.arch
        )));
    }
    let known = PERIODS.iter().find(|(arch, _)| *arch == source.arch).map(|(_, period)| *period);
    let keys = ["attention.sliding_window_pattern", "interleave_moe_layer_step", "full_attention_interval"];
    let said = keys.into_iter().filter_map(number);
    for period in known.into_iter().chain(said).filter(|period| *period > 1) {
        let is_other = |layer: usize| layer % period == period - 1;
        let moved = kept.iter().enumerate().find(|(place, layer)| is_other(*place) != is_other(**layer));
        if let Some((place, layer)) = moved {
            return Err(Error::request(format!(
                "{} computes one of {period} layers otherwise, by its number alone: layer {layer} would be another at \
                 place {place}; drop blocks of a multiple of {period} layers, or write --to safetensors where it is read",
                source.arch
            )));
        }
    }
    Ok(())
}
