//! Changes to the text of a JSON file. What is not named keeps its bytes: key order, indentation, and the way numbers
//! are written (`1e-05` stays `1e-05`, which parsing and printing would not give back).

use std::ops::Range;

/// What happens to the value at a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// Becomes this JSON text; a key that is not there is added after the key named second.
    Set(String, &'static str),
    /// A list keeps the elements at these places, in their own spelling.
    Keep(Vec<usize>),
    /// An object keeps these keys (first), under new names (second).
    Rekey(Vec<(String, String)>),
    /// The key goes.
    Remove,
}

/// Applies `change` to the value at `path` in `text`, which is valid JSON. The error is the reason.
pub(super) fn apply(text: &str, path: &[String], change: &Change) -> Result<String, String> {
    let (key, parents) = path.split_last().ok_or("no path")?;
    let mut object = skip_space(text, 0);
    for parent in parents {
        object = find(text, object, parent)?.ok_or_else(|| format!("no key `{parent}`"))?.value.start;
    }
    let member = find(text, object, key)?;
    if let (Change::Set(value, after), None) = (change, &member) {
        let anchor = find(text, object, after)?.ok_or_else(|| format!("no key `{after}`"))?;
        let line = indentation(text, anchor.key.start);
        let gap = if line.is_empty() { " " } else { line };
        let added = format!(",{gap}{}: {value}", serde_json::Value::from(key.as_str()));
        return Ok(splice(text, anchor.value.end..anchor.value.end, &added));
    }
    let member = member.ok_or_else(|| format!("no key `{key}`"))?;
    match change {
        Change::Set(value, _) => Ok(splice(text, member.value, value)),
        Change::Keep(places) => {
            let elements = elements(text, member.value.start)?;
            let kept = places.iter().map(|place| elements.get(*place).cloned()).collect::<Option<Vec<_>>>();
            let kept = kept.ok_or_else(|| format!("`{key}` has {} elements", elements.len()))?;
            let kept = kept.into_iter().map(|range| text[range].to_owned()).collect();
            Ok(splice(text, member.value.clone(), &rebuild(text, &member.value, &elements, kept)))
        }
        Change::Rekey(names) => {
            let members = members(text, member.value.start)?;
            let kept = names.iter().filter_map(|(old, new)| {
                let member = members.iter().find(|member| member.name == *old)?;
                let new = serde_json::Value::from(new.as_str());
                Some(format!("{new}{}", &text[member.key.end..member.value.end]))
            });
            let spans: Vec<_> = members.iter().map(|member| member.key.start..member.value.end).collect();
            Ok(splice(text, member.value.clone(), &rebuild(text, &member.value, &spans, kept.collect())))
        }
        Change::Remove => {
            let all = members(text, object)?;
            let place = all.iter().position(|other| other.key == member.key).ok_or("lost key")?;
            // with the comma and the white space that lead to the next key, or from the one before
            let gone = match (all.get(place + 1), place.checked_sub(1).and_then(|before| all.get(before))) {
                (Some(next), _) => member.key.start..next.key.start,
                (None, Some(before)) => before.value.end..member.value.end,
                (None, None) => member.key.start..member.value.end,
            };
            Ok(splice(text, gone, ""))
        }
    }
}

/// A list or object written with `parts` for elements and the white space of the original around and between them.
fn rebuild(text: &str, whole: &Range<usize>, spans: &[Range<usize>], parts: Vec<String>) -> String {
    let (open, close) = (&text[whole.start..=whole.start], &text[whole.end - 1..whole.end]);
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return format!("{open}{close}") };
    if parts.is_empty() {
        return format!("{open}{close}");
    }
    let lead = &text[whole.start + 1..first.start];
    let separator = spans.get(1).map_or(",", |second| &text[first.end..second.start]);
    let tail = &text[last.end..whole.end - 1];
    format!("{open}{lead}{}{tail}{close}", parts.join(separator))
}

/// One key of an object and its value, as ranges of the text.
struct Member {
    name: String,
    key: Range<usize>,
    value: Range<usize>,
}

fn find(text: &str, object: usize, name: &str) -> Result<Option<Member>, String> {
    let mut found = members(text, object)?.into_iter().filter(|member| member.name == name);
    let member = found.next();
    if found.next().is_some() {
        return Err(format!("`{name}` stands there twice"));
    }
    Ok(member)
}

fn members(text: &str, object: usize) -> Result<Vec<Member>, String> {
    let mut members = Vec::new();
    let mut at = enter(text, object, b'{')?;
    while byte(text, at)? != b'}' {
        let key = at..value_end(text, at)?;
        let name = serde_json::from_str(&text[key.clone()]).map_err(|error| error.to_string())?;
        // the colon
        let start = skip_space(text, skip_space(text, key.end) + 1);
        let value = start..value_end(text, start)?;
        at = next(text, value.end)?;
        members.push(Member { name, key, value });
    }
    Ok(members)
}

fn elements(text: &str, list: usize) -> Result<Vec<Range<usize>>, String> {
    let mut elements = Vec::new();
    let mut at = enter(text, list, b'[')?;
    while byte(text, at)? != b']' {
        let element = at..value_end(text, at)?;
        at = next(text, element.end)?;
        elements.push(element);
    }
    Ok(elements)
}

/// Past the opening bracket.
fn enter(text: &str, at: usize, open: u8) -> Result<usize, String> {
    if byte(text, at)? != open {
        return Err(format!("expected `{}` at byte {at}", open as char));
    }
    Ok(skip_space(text, at + 1))
}

/// From the end of one element to the start of the next, or to the closing bracket.
fn next(text: &str, end: usize) -> Result<usize, String> {
    let at = skip_space(text, end);
    Ok(if byte(text, at)? == b',' { skip_space(text, at + 1) } else { at })
}

/// One past the value that starts at `start`.
fn value_end(text: &str, start: usize) -> Result<usize, String> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = start;
    loop {
        match byte(text, at)? {
            b'"' => {
                at += 1;
                while byte(text, at)? != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'-' => {
                let scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                at += bytes[at..].iter().take_while(|byte| scalar(byte)).count();
            }
            // white space, commas and colons inside brackets
            _ if depth > 0 => at += 1,
            other => return Err(format!("`{}` at byte {at} begins no value", other as char)),
        }
        if depth == 0 {
            return Ok(at);
        }
    }
}

fn byte(text: &str, at: usize) -> Result<u8, String> {
    text.as_bytes().get(at).copied().ok_or_else(|| "the text ends early".to_owned())
}

fn skip_space(text: &str, at: usize) -> usize {
    at + text.as_bytes().iter().skip(at).take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// White space in front of `at`, from the line break on; empty when the line holds something else.
fn indentation(text: &str, at: usize) -> &str {
    let space = text[..at].trim_end_matches([' ', '\t']);
    if space.ends_with('\n') { &text[space.len() - 1..at] } else { "" }
}

fn splice(text: &str, range: Range<usize>, new: &str) -> String {
    format!("{}{new}{}", &text[..range.start], &text[range.end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const TEXT: &str = r#"{
  "eps": 1e-05,
  "layers": 3,
  "kinds": [
    "a\"]",
    "b",
    "c"
  ],
  "theta": [1e4, 10000.0,1.0E+6],
  "nested": {"x": [1, 2, 3], "0": {"a": 1}, "2": null},
  "last": true
}
"#;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn the_rest_keeps_its_bytes() {
        let set = |key: &str, value: &str| apply(TEXT, &path(key), &Change::Set(value.into(), "layers")).unwrap();
        assert_eq!(set("layers", "2"), TEXT.replace("\"layers\": 3", "\"layers\": 2"));
        assert_eq!(set("new", "[1]"), TEXT.replace("\"layers\": 3", "\"layers\": 3,\n  \"new\": [1]"));
        let keep = |key: &str, places: &[usize]| apply(TEXT, &path(key), &Change::Keep(places.to_vec())).unwrap();
        assert_eq!(keep("kinds", &[0, 2]), TEXT.replace("    \"b\",\n", ""));
        assert_eq!(keep("theta", &[0, 2]), TEXT.replace(" 10000.0,", " "));
        assert_eq!(keep("nested.x", &[1]), TEXT.replace("[1, 2, 3]", "[2]"));
        assert_eq!(keep("kinds", &[0, 1, 2]), TEXT);
        let remove = |key: &str| apply(TEXT, &path(key), &Change::Remove).unwrap();
        assert_eq!(remove("eps"), TEXT.replace("\"eps\": 1e-05,\n  ", ""));
        assert_eq!(remove("last"), TEXT.replace(",\n  \"last\": true", ""));
        assert_eq!(apply("{\"a\": 1}", &path("a"), &Change::Remove).unwrap(), "{}");
        let rekey = Change::Rekey(vec![("0".into(), "0".into()), ("2".into(), "1".into())]);
        let text = apply(TEXT, &path("nested"), &rekey).unwrap();
        assert_eq!(
            text,
            TEXT.replace("{\"x\": [1, 2, 3], \"0\": {\"a\": 1}, \"2\": null}", "{\"0\": {\"a\": 1}, \"1\": null}")
        );
        let compact = apply("{\"layers\":3}", &path("new"), &Change::Set("4".into(), "layers")).unwrap();
        assert_eq!(compact, "{\"layers\":3, \"new\": 4}");
    }

    #[test]
    fn what_cannot_be_found_is_said() {
        for (key, word) in [("none", "no key `none`"), ("nested.none", "no key `none`"), ("eps.x", "expected `{`")] {
            let error = apply(TEXT, &path(key), &Change::Remove).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(apply(TEXT, &path("kinds"), &Change::Keep(vec![3])).unwrap_err().contains("3 elements"));
        assert!(apply("{\"a\": 1, \"a\": 2}", &path("a"), &Change::Remove).unwrap_err().contains("twice"));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), "\\PC{0,6}".prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("\\PC{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn as_if_parsed(map in proptest::collection::btree_map("\\PC{1,4}", value(), 1..6), at in 0usize..6, pretty: bool) {
            let mut expected: serde_json::Map<String, Value> = map.into_iter().collect();
            let value = Value::Object(expected.clone());
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let keys: Vec<String> = expected.keys().cloned().collect();
            let key = &keys[at % keys.len()];
            let set = apply(&text, std::slice::from_ref(key), &Change::Set("[7]".into(), "")).unwrap();
            let parsed: Value = serde_json::from_str(&set).unwrap();
            expected.insert(key.clone(), json!([7]));
            prop_assert_eq!(&parsed, &Value::Object(expected.clone()));
            let removed = apply(&text, std::slice::from_ref(key), &Change::Remove).unwrap();
            expected.shift_remove(key);
            prop_assert_eq!(serde_json::from_str::<Value>(&removed).unwrap(), Value::Object(expected));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\ 0-9a-z]{0,40}", pick in 0usize..3) {
            let change = [Change::Remove, Change::Keep(vec![0]), Change::Set("1".into(), "a")][pick].clone();
            _ = apply(&text, &path("a"), &change);
            _ = apply(&text, &path("a.b"), &change);
        }
    }
}
