//! `NaN`, `Infinity` and `-Infinity`, which are no JSON and which Python writes all the same.

use serde_json::{Map, Value};

const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Begins the strings that stand for these words; no text begins with it.
const MARK: char = '\0';

/// What stands for `word` until [`settle`] meets it: a string.
fn marked(word: &str) -> Vec<u8> {
    format!("\"\\u0000{word}\"").into_bytes()
}

/// Of bytes outside of a string: the string that [`settle`] knows, if they are one of the words.
pub(super) fn quoted_word(bytes: &[u8]) -> Option<Vec<u8>> {
    WORDS.iter().find(|word| word.as_bytes() == bytes).map(|word| marked(word))
}

/// Whether one of the words begins with `byte`.
pub(super) fn may_begin(byte: u8) -> bool {
    matches!(byte, b'N' | b'I' | b'-')
}

/// Whether `bytes` begin one of the words, and are not all of it.
pub(super) fn is_beginning(bytes: &[u8]) -> bool {
    WORDS.iter().any(|word| word.len() > bytes.len() && word.as_bytes().starts_with(bytes))
}

/// `text` with the words, where they stand for values, made strings that [`settle`] knows; `None` if there are none.
pub(super) fn quoted(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut in_string, mut escaped, mut copied, mut at) = (Vec::new(), false, false, 0, 0);
    while at < text.len() {
        let word = WORDS.iter().find(|word| !in_string && text[at..].starts_with(word.as_bytes()));
        if let Some(word) = word {
            out.extend_from_slice(&text[copied..at]);
            out.extend_from_slice(&marked(word));
            at += word.len();
            copied = at;
            continue;
        }
        match text[at] {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return None;
    }
    out.extend_from_slice(&text[copied..]);
    Some(out)
}

/// Makes the words in `fields` null; where the fields were asked for by name, gives the first that has one, and the
/// word.
pub(super) fn settle(fields: &mut Map<String, Value>, are_asked_for: bool) -> Option<(String, String)> {
    for (name, value) in fields {
        if let Some(word) = nulled(value).filter(|_| are_asked_for) {
            return Some((name.clone(), word));
        }
    }
    None
}

/// Makes the words in `value` null, and gives one of them.
fn nulled(value: &mut Value) -> Option<String> {
    match value {
        Value::String(text) => {
            let word = text.strip_prefix(MARK).filter(|word| WORDS.contains(word))?.to_owned();
            *value = Value::Null;
            Some(word)
        }
        Value::Array(list) => list.iter_mut().filter_map(nulled).fold(None, |first, word| first.or(Some(word))),
        Value::Object(map) => map.values_mut().filter_map(nulled).fold(None, |first, word| first.or(Some(word))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_become_null_where_they_are_values() {
        let text = r#"{"a":NaN,"b":[-Infinity, {"c":Infinity}],"d":"NaN \" NaN","e\\":NaN}"#;
        let mut read: Map<String, Value> = serde_json::from_slice(&quoted(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(settle(&mut read, false), None);
        let expected = json!({"a": null, "b": [null, {"c": null}], "d": "NaN \" NaN", "e\\": null});
        assert_eq!(Value::Object(read.clone()), expected);
        assert_eq!(settle(&mut read, true), None);
        let mut asked: Map<String, Value> =
            serde_json::from_slice(&quoted(br#"{"x":[1,-Infinity]}"#).unwrap()).unwrap();
        assert_eq!(settle(&mut asked, true), Some(("x".to_owned(), "-Infinity".to_owned())));
        assert_eq!(quoted(br#"{"a":"NaN"}"#), None);
        assert!((0..=255).all(|byte| may_begin(byte) == is_beginning(&[byte])));
        assert!(serde_json::from_slice::<Value>(&quoted(b"{NaN:1}x").unwrap()).is_err());
    }
}
