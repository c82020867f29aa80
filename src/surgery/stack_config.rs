//! Where a config speaks of the layers: at its top, or in the part of it that is the language model.

use serde_json::{Map, Value};

use super::config::ConfigEdit;
use super::json_text::Change;
use super::layer_keys::{COUNTS, TEXT};
use crate::plan::MOST_LAYERS;
use crate::{Error, Result};

/// An object of a config that says how many layers there are, and so what its other keys count.
#[derive(Clone, Debug)]
pub(super) struct StackConfig<'a> {
    /// The key it stands under; `None` for the config itself.
    pub(super) part: Option<&'a str>,
    /// Its keys.
    pub(super) keys: &'a Map<String, Value>,
    /// The key that holds the number of layers.
    pub(super) count: &'static str,
    /// That number.
    pub(super) layers: usize,
}

impl<'a> StackConfig<'a> {
    /// The objects that speak of the stack to cut; the first is the one that readers believe. Configs of several parts
    /// may repeat the language model's keys at the top.
    ///
    /// # Errors
    /// Work: no number of layers, or none that a model can have.
    pub(super) fn all(config: &'a Map<String, Value>) -> Result<Vec<Self>> {
        let parts = TEXT.iter().filter_map(|key| Some((Some(*key), config.get(*key)?.as_object()?)));
        let mut found: Vec<Self> = Vec::new();
        for (part, keys) in [(None, config)].into_iter().chain(parts) {
            let Some(count) = COUNTS.iter().find(|key| keys.contains_key(**key)) else { continue };
            match (number(&keys[*count]), found.first()) {
                (Some(layers), None) => found.push(Self { part, keys, count, layers }),
                (Some(layers), Some(first)) if first.layers == layers => {
                    found.push(Self { part, keys, count, layers });
                }
                // of another stack than the first says
                (_, Some(_)) => {}
                (None, None) => {
                    return Err(Error::work(format!(
                        "config.json: `{count}` is {}; expected a number of layers, 1 to {MOST_LAYERS}",
                        keys[*count]
                    )));
                }
            }
        }
        if found.is_empty() {
            return Err(Error::work(format!("config.json: no `{}`", COUNTS[0])));
        }
        Ok(found)
    }

    /// The path of `key`.
    pub(super) fn path(&self, key: &str) -> Vec<String> {
        self.part.into_iter().chain([key]).map(str::to_owned).collect()
    }

    /// `key` gets the value `after`; a new key comes after the number of layers.
    pub(super) fn set(&self, key: &str, after: Value) -> ConfigEdit {
        let before = self.keys.get(key).cloned().unwrap_or(Value::Null);
        ConfigEdit::new(self.path(key), Change::Set(after.to_string(), self.count), before, after)
    }

    /// `key`, which is there, goes.
    pub(super) fn remove(&self, key: &str) -> ConfigEdit {
        let before = self.keys.get(key).cloned().unwrap_or(Value::Null);
        ConfigEdit::new(self.path(key), Change::Remove, before, Value::Null)
    }

    /// The default that readers of this `model_type` assume.
    pub(super) fn default(&self, table: &[(&str, u64)]) -> Option<u64> {
        let model_type = self.keys.get("model_type")?.as_str()?;
        table.iter().find(|(name, _)| *name == model_type).map(|(_, value)| *value)
    }
}

/// How many layers `value` says there are.
pub(super) fn number(value: &Value) -> Option<usize> {
    let layers = value.as_u64().and_then(|layers| usize::try_from(layers).ok());
    layers.filter(|layers| (1..=MOST_LAYERS).contains(layers))
}

/// How many layers the language model of `config` has.
///
/// # Errors
/// Work: the config does not say, or no positive whole number that a model can have.
pub fn layer_count(config: &Map<String, Value>) -> Result<usize> {
    Ok(StackConfig::all(config)?[0].layers)
}
