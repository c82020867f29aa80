//! Lists, objects and names in a config that speak of single layers: sliced, renumbered, or refused when unknown.

use serde_json::{Map, Value, json};

use super::config::ConfigEdit;
use super::json_text::Change;
use super::layer_keys::{BY_LAYER_NUMBER, COUNTS, LAYER_NUMBERS, NOT_PER_LAYER, PER_LAYER, TEXT};
use super::module_names::{Mention, mention};
use super::places::Places;
use super::stack_config::{StackConfig, number};
use crate::{Error, Result};

/// Keys the user vouches for.
#[derive(Clone, Copy)]
pub(super) struct Allowed<'a>(pub(super) &'a [String]);

impl Allowed<'_> {
    fn place(&self, path: &[String]) -> Option<usize> {
        let full = path.join(".");
        self.0.iter().position(|key| *key == full || path.last() == Some(key))
    }

    /// Whether the user vouches for the top-level key `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|allowed| allowed == key)
    }
}

/// Adds the edits that the lists and objects of `config`, at any depth, need.
pub(super) fn edits(
    config: &Map<String, Value>,
    stack: &StackConfig<'_>,
    places: &Places,
    allowed: Allowed<'_>,
    edits: &mut Vec<ConfigEdit>,
) -> Result<()> {
    let layers = stack.layers;
    let mut walk = Walk { stack, layers, places, allowed, edits, seen: vec![false; allowed.0.len()] };
    walk.object(config, &[])?;
    match walk.seen.iter().position(|seen| !seen) {
        None => Ok(()),
        Some(place) => {
            Err(Error::request(format!("--allow-unsliced {}: config.json has no such key", allowed.0[place])))
        }
    }
}

struct Walk<'a> {
    /// Where the number of layers stands; that edit is there already.
    stack: &'a StackConfig<'a>,
    layers: usize,
    places: &'a Places,
    allowed: Allowed<'a>,
    edits: &'a mut Vec<ConfigEdit>,
    /// Which of the user's keys were met.
    seen: Vec<bool>,
}

impl Walk<'_> {
    fn object(&mut self, object: &Map<String, Value>, path: &[String]) -> Result<()> {
        for (key, value) in object {
            let path: Vec<String> = path.iter().chain([key]).cloned().collect();
            if let Some(place) = self.allowed.place(&path) {
                self.seen[place] = true;
                continue;
            }
            if self.places.is_whole() || NOT_PER_LAYER.contains(&key.as_str()) {
                continue;
            }
            if let Mention::Layer(..) | Mention::Pattern = mention(key) {
                return Err(self.refuse(&path, "is keyed by the name of a layer"));
            }
            match value {
                Value::Array(list) => self.list(key, list, path)?,
                // an object with a layer count of its own speaks of another stack, unless it is the language model's
                Value::Object(inner) if count(inner).is_some() && !self.is_this_stack(key, inner) => {}
                Value::Object(inner) => self.inner(key, inner, path)?,
                Value::String(name) if mention(name) != Mention::None => {
                    return Err(self.refuse(&path, "names single layers"));
                }
                Value::Number(number)
                    if self.counts_layers(key, &path) && number.as_u64() == Some(self.layers as u64) =>
                {
                    let after = json!(self.places.len());
                    self.push(path, Change::Set(after.to_string(), self.stack.count), value.clone(), after);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the object under `key` is the language model with the layers that are cut.
    fn is_this_stack(&self, key: &str, inner: &Map<String, Value>) -> bool {
        TEXT.contains(&key) && count(inner).and_then(number) == Some(self.layers)
    }

    /// Whether `key`, the last of `path`, is a name of the number of layers that has no edit yet.
    fn counts_layers(&self, key: &str, path: &[String]) -> bool {
        let is_of_the_stack = match path {
            [_] => true,
            [parent, _] => TEXT.contains(&parent.as_str()),
            _ => false,
        };
        is_of_the_stack && COUNTS.contains(&key) && path != self.stack.path(self.stack.count)
    }

    fn list(&mut self, key: &str, list: &[Value], path: Vec<String>) -> Result<()> {
        if PER_LAYER.contains(&key) {
            if list.is_empty() {
                return Ok(());
            }
            if list.len() < self.layers {
                let fault = format!("`{}` has {} values for {} layers", path.join("."), list.len(), self.layers);
                return Err(Error::work(format!("config.json: {fault}")));
            }
            // what follows the layers belongs to none of them: some lists go on for extra prediction heads
            let places: Vec<usize> = self.places.layers().iter().copied().chain(self.layers..list.len()).collect();
            self.keep(path, list, places);
        } else if LAYER_NUMBERS.contains(&key) {
            let numbers: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
            let numbers = numbers.ok_or_else(|| self.refuse(&path, "is no list of layer numbers"))?;
            let after: Vec<usize> =
                numbers.iter().flat_map(|number| self.places.of(*number as usize)).copied().collect();
            self.replace(path, list, json!(after));
        } else if list.iter().any(|item| item.as_str().is_some_and(|name| mention(name) != Mention::None)) {
            self.names(path, list)?;
        } else if list.len() == self.layers {
            return Err(self.refuse(&path, &format!("is a list of {} values, as many as there are layers", list.len())));
        } else if key.contains("layer") && self.are_layer_numbers(list) {
            return Err(self.refuse(&path, "looks like a list of layer numbers"));
        }
        Ok(())
    }

    /// Whether all of `list` are numbers of layers, ascending.
    fn are_layer_numbers(&self, list: &[Value]) -> bool {
        let numbers: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
        numbers.is_some_and(|numbers| {
            numbers.is_sorted_by(|a, b| a < b) && numbers.last().is_some_and(|last| *last < self.layers as u64)
        })
    }

    fn names(&mut self, path: Vec<String>, list: &[Value]) -> Result<()> {
        let mut after = Vec::with_capacity(list.len());
        for item in list {
            let Some(name) = item.as_str() else {
                after.push(item.clone());
                continue;
            };
            match mention(name) {
                Mention::None => after.push(item.clone()),
                Mention::Pattern => return Err(self.refuse(&path, &format!("picks layers by the pattern `{name}`"))),
                Mention::Layer(layer, at) => {
                    if layer >= self.layers {
                        return Err(self.refuse(&path, &format!("names layer {layer} of {}", self.layers)));
                    }
                    let renamed = |new: &usize| json!(format!("{}{new}{}", &name[..at.start], &name[at.end..]));
                    after.extend(self.places.of(layer).iter().map(renamed));
                }
            }
        }
        self.replace(path, list, Value::Array(after));
        Ok(())
    }

    fn inner(&mut self, key: &str, inner: &Map<String, Value>, path: Vec<String>) -> Result<()> {
        let numbered = !inner.is_empty() && inner.keys().all(|key| key.parse::<usize>().is_ok());
        if !numbered {
            return self.object(inner, &path);
        }
        if BY_LAYER_NUMBER.contains(&key) {
            let names = inner.keys().flat_map(|old| {
                let places = old.parse().map_or(&[][..], |layer| self.places.of(layer));
                places.iter().map(|new| (old.clone(), new.to_string()))
            });
            let names: Vec<(String, String)> = names.collect();
            let after: Map<String, Value> =
                names.iter().map(|(old, new)| (new.clone(), inner.get(old).cloned().unwrap_or(Value::Null))).collect();
            let before = Value::Object(inner.clone());
            self.push(path, Change::Rekey(names), before, Value::Object(after));
        } else if inner.len() == self.layers {
            return Err(
                self.refuse(&path, &format!("has {} numbered entries, as many as there are layers", inner.len()))
            );
        }
        Ok(())
    }

    fn keep(&mut self, path: Vec<String>, list: &[Value], places: Vec<usize>) {
        let after = places.iter().filter_map(|place| list.get(*place).cloned()).collect();
        self.push(path, Change::Keep(places), json!(list), Value::Array(after));
    }

    fn replace(&mut self, path: Vec<String>, list: &[Value], after: Value) {
        self.push(path, Change::Set(after.to_string(), self.stack.count), json!(list), after);
    }

    fn push(&mut self, path: Vec<String>, change: Change, before: Value, after: Value) {
        if before != after {
            self.edits.push(ConfigEdit::new(path, change, before, after));
        }
    }

    fn refuse(&self, path: &[String], what: &str) -> Error {
        let key = path.join(".");
        Error::request(format!(
            "config.json: `{key}` {what}, and what becomes of it in another stack is not known; if it stays right as it is, pass \
             --allow-unsliced {key}"
        ))
    }
}

/// The number of layers that an object says itself.
fn count(object: &Map<String, Value>) -> Option<&Value> {
    COUNTS.iter().find_map(|key| object.get(*key))
}
