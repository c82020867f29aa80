//! What the columns of a split hold, as `datasets` finds it: one type a column. A number among numbers with a point has
//! one itself, a field that a row has not is null, a word of a CSV file is a number where all of its column are.

use std::path::PathBuf;

use serde_json::{Map, Number, Value};

use crate::data::{ReadOptions, is_of_format, rows_with};
use crate::eval::fields::Fields;
use crate::{Result, interrupt};

/// The columns of a split's files.
#[derive(Debug, Default)]
pub(in crate::eval) struct Columns(Shape);

/// What is at one place of all rows.
#[derive(Debug, Default)]
struct Shape {
    /// A number with a point.
    has_point: bool,
    /// Fields, in the order in which they were first seen.
    fields: Vec<(String, Shape)>,
    /// What lists hold.
    items: Option<Box<Shape>>,
    /// What all words may be read as.
    words: Option<Words>,
}

#[derive(Clone, Copy, Debug)]
struct Words {
    whole: bool,
    number: bool,
    truth: bool,
    missing: bool,
}

/// What pandas takes for nothing.
#[rustfmt::skip]
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
];

impl Columns {
    /// Of `files`; of those in other formats, which know their types, nothing is learned.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(in crate::eval) fn of(files: &[PathBuf], how: &ReadOptions) -> Result<Self> {
        let mut columns = Self::default();
        for file in files {
            let (csv, json) = (is_of_format(file, "csv"), is_of_format(file, "json") || is_of_format(file, "jsonl"));
            if !csv && !json {
                continue;
            }
            for (place, row) in rows_with(file, how)?.enumerate() {
                if place % 4096 == 0 {
                    interrupt::check()?;
                }
                columns.0.see_fields(&row?.fields, csv);
            }
        }
        Ok(columns)
    }

    /// The row as its split has it.
    pub(in crate::eval) fn typed(&self, row: &mut Fields) {
        if !self.0.fields.is_empty() {
            *row = self.0.filled(std::mem::take(row));
        }
    }
}

impl Shape {
    fn see_fields(&mut self, fields: &Map<String, Value>, csv: bool) {
        for (place, (name, value)) in fields.iter().enumerate() {
            // rows mostly have the same fields in the same order
            let is_here = self.fields.get(place).is_some_and(|(known, _)| known == name);
            let found = if is_here { Some(place) } else { self.fields.iter().position(|(known, _)| known == name) };
            let place = found.unwrap_or_else(|| {
                self.fields.push((name.clone(), Self::default()));
                self.fields.len() - 1
            });
            let shape = &mut self.fields[place].1;
            match value {
                Value::String(text) if csv => shape.see_word(text),
                _ => shape.see(value),
            }
        }
    }

    fn see(&mut self, value: &Value) {
        match value {
            Value::Number(number) => self.has_point |= number.is_f64(),
            Value::Object(fields) => self.see_fields(fields, false),
            Value::Array(items) => {
                let shape = self.items.get_or_insert_default();
                items.iter().for_each(|item| shape.see(item));
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    fn see_word(&mut self, text: &str) {
        let new = Words { whole: true, number: true, truth: true, missing: false };
        let words = self.words.get_or_insert(new);
        if MISSING.contains(&text) {
            words.missing = true;
            return;
        }
        words.whole &= text.parse::<i64>().is_ok();
        words.number &= text.parse::<f64>().is_ok();
        words.truth &= truth(text).is_some();
    }

    fn filled(&self, mut fields: Map<String, Value>) -> Map<String, Value> {
        let value = |(name, shape): &(String, Self)| {
            let value = fields.remove(name).unwrap_or_default();
            (name.clone(), shape.typed(value))
        };
        self.fields.iter().map(value).collect()
    }

    fn typed(&self, value: Value) -> Value {
        match (value, self.words) {
            (Value::String(text), Some(words)) => words.read(text),
            (Value::Number(number), _) if self.has_point => number.as_f64().map_or(Value::Null, with_point),
            (Value::Object(fields), _) => Value::Object(self.filled(fields)),
            (Value::Array(items), _) => match &self.items {
                Some(shape) => items.into_iter().map(|item| shape.typed(item)).collect(),
                None => Value::Array(items),
            },
            (other, _) => other,
        }
    }
}

impl Words {
    fn read(self, text: String) -> Value {
        match self {
            _ if MISSING.contains(&&*text) => Value::Null,
            Self { whole: true, missing: false, .. } => text.parse::<i64>().map_or(Value::Null, Value::from),
            Self { number: true, .. } => text.parse().map_or(Value::Null, with_point),
            Self { truth: true, .. } => truth(&text).map_or(Value::Null, Value::from),
            _ => Value::String(text),
        }
    }
}

fn with_point(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "True" | "TRUE" | "true" => Some(true),
        "False" | "FALSE" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(rows: &[Value], csv: bool) -> Value {
        let mut columns = Columns::default();
        rows.iter().for_each(|row| columns.0.see_fields(row.as_object().unwrap(), csv));
        rows.iter()
            .map(|row| {
                let mut row = row.as_object().unwrap().clone();
                columns.typed(&mut row);
                Value::Object(row)
            })
            .collect()
    }

    #[test]
    fn words_of_a_csv_file_are_what_pandas_finds() {
        let rows = [("1", "1.5", "true", "x", "7"), ("-2", "2", "False", "3", ""), ("30", "1e3", "TRUE", "NA", "8")];
        let rows = rows.map(|(a, b, c, d, e)| json!({"a": a, "b": b, "c": c, "d": d, "e": e}));
        let expected = json!([
            {"a": 1, "b": 1.5, "c": true, "d": "x", "e": 7.0},
            {"a": -2, "b": 2.0, "c": false, "d": "3", "e": null},
            {"a": 30, "b": 1000.0, "c": true, "d": null, "e": 8.0},
        ]);
        assert_eq!(typed(&rows, true), expected);
    }

    #[test]
    fn values_of_json_have_one_type_a_column() {
        let rows = [json!({"a": 1, "l": [1, 2]}), json!({"b": "1", "a": 2.5, "l": [0.5], "o": {"x": 1}})];
        let expected = json!([
            {"a": 1.0, "l": [1.0, 2.0], "b": null, "o": null},
            {"a": 2.5, "l": [0.5], "b": "1", "o": {"x": 1}},
        ]);
        assert_eq!(typed(&rows, false), expected);
    }
}
