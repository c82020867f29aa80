//! Values as Python writes them: what a template prints, and `json.dumps`.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// `repr(x)` of a Python float: the shortest digits, an exponent below 1e-4 and from 1e16 on.
#[must_use]
pub(crate) fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

/// Bytes that a value is written in, and lists and maps in each other: a template can make a list of a million times
/// the same text, and lists of lists without end.
const LONGEST: usize = 16 << 20;
const DEEPEST: usize = 200;

/// Whether one may go on.
fn allowed(depth: usize, out: &str) -> Result<(), Error> {
    let fault = match (depth > DEEPEST, out.len() > LONGEST) {
        (true, _) => "a value lies too deep in others to be written",
        (_, true) => "a value is too long to be written",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidOperation, fault))
}

/// `str(value)`; nothing of what is not defined.
pub(super) fn text(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None if value.is_undefined() => Ok(String::new()),
        None => {
            let mut out = String::new();
            representation(value, 0, &mut out).map(|()| out)
        }
    }
}

/// `repr(value)`.
fn representation(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    allowed(depth, out)?;
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Map if value.as_object().is_some() => {
            let mut before = "{";
            for key in value.try_iter()? {
                out.push_str(before);
                representation(&key, depth + 1, out)?;
                out.push_str(": ");
                representation(&value.get_item(&key)?, depth + 1, out)?;
                before = ", ";
            }
            out.push_str(if before == "{" { "{}" } else { "}" });
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let mut before = "[";
            for item in value.try_iter()? {
                out.push_str(before);
                representation(&item, depth + 1, out)?;
                before = ", ";
            }
            out.push_str(if before == "[" { "[]" } else { "]" });
        }
        _ => _ = write!(out, "{value}"),
    }
    Ok(())
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(own) if !value.is_integer() => float(own),
        _ => value.to_string(),
    }
}

/// A Python string literal: in single quotes, unless those are in it and double ones are not.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter < ' ' || letter == '\u{7f}' => _ = write!(out, "\\x{:02x}", letter as u32),
            letter => out.push(letter),
        }
    }
    out.push(quote);
}

/// `repr(text)` of a Python string.
#[must_use]
pub(crate) fn literal_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quoted(text, &mut out);
    out
}

/// How `json.dumps` is asked to write.
struct Style {
    indent: Option<String>,
    between: String,
    colon: String,
    ascii: bool,
    sorted: bool,
}

/// The filter `tojson` of transformers: `json.dumps` with `ensure_ascii=False`, no HTML escapes, and its arguments.
pub(super) fn tojson(value: &Value, options: &Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let indent = indent
        .map(|indent| match indent.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => usize::try_from(indent).map(|width| " ".repeat(width.min(64))),
        })
        .transpose()?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let [between, colon] = match separators.as_deref() {
        Some([between, colon]) => [between.clone(), colon.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings")),
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_owned),
    };
    let flag = |name| options.get::<Option<bool>>(name).map(|flag| flag.unwrap_or(false));
    let style = Style { indent, between, colon, ascii: flag("ensure_ascii")?, sorted: flag("sort_keys")? };
    options.assert_all_used()?;
    let mut out = String::new();
    dump(value, &style, 0, &mut out).map(|()| out)
}

fn dump(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    allowed(depth, out)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => string(value.as_str().unwrap_or_default(), style.ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?;
            list(items, ["[", "]"], style, depth, out, |item, out| dump(&item, style, depth + 1, out))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sorted {
                keys.sort();
            }
            list(keys.into_iter(), ["{", "}"], style, depth, out, |key, out| {
                string(&text(&key)?, style.ascii, out);
                out.push_str(&style.colon);
                dump(&value.get_item(&key)?, style, depth + 1, out)
            })?;
        }
        kind => return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is no JSON value"))),
    }
    Ok(())
}

fn list(
    items: impl Iterator<Item = Value>,
    [open, close]: [&str; 2],
    style: &Style,
    depth: usize,
    out: &mut String,
    mut write: impl FnMut(Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    out.push_str(open);
    let mut is_empty = true;
    for item in items {
        if !is_empty {
            out.push_str(&style.between);
        }
        is_empty = false;
        line(depth + 1, out);
        write(item, out)?;
    }
    if !is_empty {
        line(depth, out);
    }
    out.push_str(close);
    Ok(())
}

fn string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            letter if letter < ' ' || (ascii && !letter.is_ascii()) => {
                letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| _ = write!(out, "\\u{unit:04x}"));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}
