//! JSON as Python writes it: `Infinity`, `-Infinity` and `NaN` where a number stands. JSON has no such numbers; here
//! they become `{"__float__": "Infinity"}`, which is how transformers 5 spells them.

use std::sync::LazyLock;

use regex::Regex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The numbers that JSON has not.
const CONSTANTS: [&str; 3] = ["Infinity", "-Infinity", "NaN"];

/// The key that transformers marks them with.
const MARK: &str = "__float__";

/// Reads JSON with or without Python's numbers.
///
/// # Errors
/// As `serde_json`.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    match serde_json::from_slice(text) {
        Err(error) if error.is_syntax() => match with_marks(text) {
            Some(text) => serde_json::from_slice(&text),
            None => Err(error),
        },
        done => done,
    }
}

/// JSON text with Python's numbers as Python writes them, indented.
///
/// # Errors
/// As `serde_json`.
pub fn to_python_json(value: &impl Serialize) -> serde_json::Result<String> {
    // inside a text a quote has a backslash in front, so that no text looks like this
    static MARKED: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"\{\s*"__float__": "(-?Infinity|NaN)"\s*\}"#).ok());
    let text = serde_json::to_string_pretty(value)?;
    Ok(match MARKED.as_ref() {
        Some(marked) => marked.replace_all(&text, "$1").into_owned(),
        None => text,
    })
}

/// The number that `value` is, where it is one that JSON has not.
#[must_use]
pub(crate) fn python_number(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(MARK)?.as_str().filter(|text| CONSTANTS.contains(text))
}

/// The text with objects for the numbers that JSON has not; nothing when there are none.
fn with_marks(text: &[u8]) -> Option<Vec<u8>> {
    let (mut marked, mut copied, mut at) = (Vec::new(), 0, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            byte if is_scalar(byte) => {
                let len = text[at..].iter().take_while(|byte| is_scalar(**byte)).count();
                if let Some(name) = CONSTANTS.iter().find(|name| name.as_bytes() == &text[at..at + len]) {
                    marked.extend_from_slice(&text[copied..at]);
                    marked.extend_from_slice(format!("{{\"{MARK}\":\"{name}\"}}").as_bytes());
                    copied = at + len;
                }
                at += len;
            }
            _ => at += 1,
        }
    }
    (copied > 0).then(|| [&marked[..], &text[copied..]].concat())
}

fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn numbers_of_python_are_read_and_written() {
        let text = r#"{"a": [1, Infinity, -Infinity,NaN], "b": "NaN, \"Infinity", "Infinity": NaN}"#;
        let read: Value = parse_json(text.as_bytes()).unwrap();
        let number = |name: &str| json!({"__float__": name});
        assert_eq!(read["a"], json!([1, number("Infinity"), number("-Infinity"), number("NaN")]));
        assert_eq!((&read["b"], &read["Infinity"]), (&json!("NaN, \"Infinity"), &number("NaN")));
        assert_eq!((python_number(&read["Infinity"]), python_number(&read["a"][0])), (Some("NaN"), None));
        let squeezed = |text: &str| text.replace([' ', '\n'], "");
        assert_eq!(squeezed(&to_python_json(&read).unwrap()), squeezed(text));
    }

    #[test]
    fn nothing_else_is_let_through() {
        for text in [
            "{\"a\": Infinit}",
            "{\"a\": nan}",
            "{\"a\": --Infinity}",
            "{\"a\": Infinity1}",
            "{\"a\": \"Infinity",
            "\"",
        ] {
            assert!(parse_json::<Map<String, Value>>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
