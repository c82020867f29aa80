//! JSON values of an untrusted row: no more of them than a row has, and little of lists where strings are wanted.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Values that one row has at most: numbers, strings, lists, objects and all that is in them. Each takes up to some
/// hundred bytes of memory, and may take two of the file.
pub(super) const MOST: usize = 100_000;

/// Items that are kept of a list where a string is wanted: enough to say what kind of row it is.
const SAMPLE: usize = 8;

/// Builds a value.
#[derive(Clone, Copy)]
pub(super) struct Build<'a> {
    /// Values that the row may still have.
    pub(super) left: &'a Cell<usize>,
    /// Whether a string is wanted: of a list its first items are kept.
    pub(super) is_text: bool,
}

impl Build<'_> {
    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        let left = left.ok_or_else(|| E::custom(format!("more than {MOST} values, more than a row of text has")))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Build<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Build<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let most = if self.is_text { SAMPLE } else { usize::MAX };
        while list.len() < most {
            let Some(value) = access.next_element_seed(self)? else { return Ok(Value::Array(list)) };
            list.push(value);
        }
        while access.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            map.insert(name, access.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}
