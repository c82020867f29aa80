//! Reading a JSON object key by key, with faults that name the key, what was found and what was expected.

use serde_json::{Map, Value};

use crate::checkpoint::python_number;
use crate::{Error, Result};

/// No dimension of a model is larger; products of two of them and a few bytes still fit a `u64`.
const MAX_SIZE: u64 = 1 << 24;

/// An object of `config.json`. `null` reads as absent, as transformers has it.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Key that holds the object, where it is not the config itself.
    inside: Option<&'a str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, inside: None }
    }

    pub(super) fn inside(key: &'a str, map: &'a Map<String, Value>) -> Self {
        Self { map, inside: Some(key) }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    /// A dimension or count, 1 to 2^24.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        self.whole(key, MAX_SIZE)
    }

    /// A count of tokens, 1 to 2^32 - 1.
    pub(super) fn length(&self, key: &str) -> Result<Option<usize>> {
        self.whole(key, u64::from(u32::MAX))
    }

    fn whole(&self, key: &str, most: u64) -> Result<Option<usize>> {
        self.get(key)
            .map(|value| match value.as_u64() {
                Some(number) if (1..=most).contains(&number) => Ok(number as usize),
                _ => Err(self.fault(key, value, &format!("a whole number from 1 to {most}"))),
            })
            .transpose()
    }

    /// A count that may be zero.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        let whole = |value: &Value| value.as_u64().map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        self.get(key).map(|value| whole(value).ok_or_else(|| self.fault(key, value, "a whole number"))).transpose()
    }

    /// A finite number for which `fits` holds; `expected` says which those are.
    pub(super) fn number(&self, key: &str, expected: &str, fits: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        self.get(key)
            .map(|value| match value.as_f64() {
                Some(number) if number.is_finite() && fits(number) => Ok(number),
                _ => Err(self.fault(key, value, expected)),
            })
            .transpose()
    }

    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.number(key, "a number above 0", |number| number > 0.0)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let fault = |value| self.fault(key, value, "true or false");
        self.get(key).map(|value| value.as_bool().ok_or_else(|| fault(value))).transpose()
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.fault(key, value, "a text"))).transpose()
    }

    pub(super) fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        let fault = |value| self.fault(key, value, "a list");
        self.get(key).map(|value| value.as_array().map(Vec::as_slice).ok_or_else(|| fault(value))).transpose()
    }

    pub(super) fn object(&self, key: &'a str) -> Result<Option<Keys<'a>>> {
        let object = |value: &'a Value| {
            Ok(Keys::inside(key, value.as_object().ok_or_else(|| self.fault(key, value, "an object"))?))
        };
        self.get(key).map(object).transpose()
    }

    /// The value of a key that has to be there.
    pub(super) fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::work(format!("{} is missing", self.name(key))))
    }

    pub(super) fn fault(&self, key: &str, found: &Value, expected: &str) -> Error {
        Error::work(format!("{} is {}, expected {expected}", self.name(key), brief(found)))
    }

    /// The key with the object it is in.
    pub(super) fn name(&self, key: &str) -> String {
        self.inside.map_or_else(|| key.to_owned(), |inside| format!("{inside}.{key}"))
    }
}

/// A value as one would quote it in a sentence.
pub(super) fn brief(value: &Value) -> String {
    let text = python_number(value).map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_key_and_what_was_found() {
        let json = serde_json::json!({"a": -1, "b": "x", "c": null, "d": 3, "e": 1e30, "rope": {"factor": 0}});
        let keys = Keys::new(json.as_object().unwrap());
        assert_eq!(keys.size("d").unwrap(), Some(3));
        assert_eq!(keys.size("c").unwrap(), None);
        assert_eq!(keys.size("a").unwrap_err().to_string(), "a is -1, expected a whole number from 1 to 16777216");
        assert!(keys.size("b").is_err() && keys.size("e").is_err() && keys.flag("d").is_err());
        assert_eq!(keys.needed("z", keys.size("z").unwrap()).unwrap_err().to_string(), "z is missing");
        let rope = keys.object("rope").unwrap().unwrap();
        assert_eq!(rope.positive("factor").unwrap_err().to_string(), "rope.factor is 0, expected a number above 0");
    }
}
