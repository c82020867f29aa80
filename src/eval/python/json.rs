//! `json.dumps(…, ensure_ascii=False)` and `repr(float)`: hashes of documents and texts of numbers are made of them.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

pub(in crate::eval) use crate::data::python_float as repr;

/// `json.dumps(value, ensure_ascii=False)`.
pub(in crate::eval) fn to_json(value: &impl Serialize) -> String {
    dump(value, OneLine)
}

/// `json.dumps(value, indent=2, ensure_ascii=False)`.
pub(in crate::eval) fn to_json_pretty(value: &impl Serialize) -> String {
    dump(value, Indented(PrettyFormatter::new()))
}

fn dump(value: &impl Serialize, formatter: impl Formatter) -> String {
    let mut bytes = Vec::new();
    // Writing JSON values to memory has nothing to fail at.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    String::from_utf8(bytes).unwrap_or_default()
}

/// Python's separators on one line: `, ` and `: `.
struct OneLine;

impl Formatter for OneLine {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(repr(value).as_bytes())
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Two spaces a level, with Python's numbers.
struct Indented(PrettyFormatter<'static>);

impl Formatter for Indented {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(repr(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_as_python_writes_them() {
        for (x, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (f64::from(-7.634_841_f32), "-7.634840965270996"),
            (1e-5, "1e-05"),
            (-1.192_092_895_507_812_5e-6, "-1.1920928955078125e-06"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(repr(x), text);
        }
    }

    #[test]
    fn json_as_python_writes_it() {
        let value = json!({"a": [1, 2.5, "é\u{7f}\"\\\n\u{1}"], "b": {}, "c": [], "d": null, "e": 1e-7});
        assert_eq!(
            to_json(&value),
            "{\"a\": [1, 2.5, \"é\u{7f}\\\"\\\\\\n\\u0001\"], \"b\": {}, \"c\": [], \"d\": null, \"e\": 1e-07}"
        );
        let pretty = "{\n  \"a\": [\n    1,\n    2.5,\n    \"é\u{7f}\\\"\\\\\\n\\u0001\"\n  ],\n  \"b\": {},\n  \"c\": [],\n  \"d\": null,\n  \"e\": 1e-07\n}";
        assert_eq!(to_json_pretty(&value), pretty);
    }
}
