//! JSON a person can read: indented, with lists of numbers and of small objects on one line.

use std::fmt::Write as _;

use serde_json::Value;

/// `value` as text with a newline at its end. Numbers are the shortest that read back to the same bits.
pub(super) fn to_text(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text.push('\n');
    text
}

fn write_value(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Array(items) if !items.iter().all(is_short) => {
            let items = items.iter().map(|item| (String::new(), item));
            write_items(text, ['[', ']'], items, depth);
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                write_value(text, item, depth);
            }
            text.push(']');
        }
        Value::Object(members) if is_short(value) => {
            for (name, item) in members {
                let _ = write!(text, "{{{}: {item}}}", Value::from(name.as_str()));
            }
        }
        Value::Object(members) if !members.is_empty() => {
            let members = members.iter().map(|(name, item)| (format!("{}: ", Value::from(name.as_str())), item));
            write_items(text, ['{', '}'], members, depth);
        }
        scalar => {
            let _ = write!(text, "{scalar}");
        }
    }
}

/// A scalar, or an object that holds one scalar: `{"layer": 3}`.
fn is_short(value: &Value) -> bool {
    let is_scalar = |value: &Value| !value.is_object() && !value.is_array();
    match value {
        Value::Object(members) => members.len() == 1 && members.values().all(is_scalar),
        other => is_scalar(other),
    }
}

fn write_items<'a>(
    text: &mut String,
    [open, close]: [char; 2],
    items: impl Iterator<Item = (String, &'a Value)>,
    depth: usize,
) {
    text.push(open);
    for (index, (name, item)) in items.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        text.push_str(&name);
        write_value(text, item, depth + 1);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn short_things_stay_on_a_line() {
        let value = json!({"a\"": [[1, 2.5], [3]], "b": {}, "c": [], "d": [{"e": null}, {"e": 1}], "f": "x"});
        let text = to_text(&value);
        let expected = [
            "{",
            "  \"a\\\"\": [",
            "    [1, 2.5],",
            "    [3]",
            "  ],",
            "  \"b\": {},",
            "  \"c\": [],",
            "  \"d\": [{\"e\": null}, {\"e\": 1}],",
            "  \"f\": \"x\"",
            "}",
            "",
        ];
        let expected = expected.join("\n");
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
