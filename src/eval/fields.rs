//! A row of a data set, and what a task takes from it.

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A row's fields, in their order.
pub type Fields = Map<String, Value>;

/// The fault of a field that is not what is expected.
pub(super) fn wrong(field: &str, expected: &str) -> Error {
    Error::work(format!("field {field} is not {expected}"))
}

/// A field, whatever it holds.
pub(super) fn value<'a>(row: &'a Fields, field: &str) -> Result<&'a Value> {
    row.get(field).ok_or_else(|| {
        let fields: Vec<&str> = row.keys().map(String::as_str).collect();
        Error::work(format!("field {field} is missing, there are {}", fields.join(", ")))
    })
}

/// A field with text.
pub(super) fn text<'a>(row: &'a Fields, field: &str) -> Result<&'a str> {
    value(row, field)?.as_str().ok_or_else(|| wrong(field, "a text"))
}

/// A field with a number of a choice, perhaps in quotes.
pub(super) fn number(row: &Fields, field: &str) -> Result<usize> {
    let value = value(row, field)?;
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        Error::work(format!("field {field} is {value}, expected the number of a choice (has this split no labels?)"))
    })
}

/// A list of texts.
pub(super) fn texts(value: Option<&Value>, field: &str) -> Result<Vec<String>> {
    let list = value.and_then(Value::as_array).ok_or_else(|| wrong(field, "a list of texts"))?;
    list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(field, "a list of texts"))).collect()
}
