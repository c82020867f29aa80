//! YAML as PyYAML reads it, which the harness reads its task files with: version 1.1's words for true and false,
//! octal numbers, merge keys. Every value knows its line.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use serde_json::{Map, Number, Value};

/// Values of a file at most, those of aliases counted wherever they stand: an alias of aliases grows without end.
const VALUES: usize = 100_000;
/// Bytes of all texts, counted likewise.
const BYTES: usize = 32 << 20;
/// Lists and mappings in each other.
const DEEPEST: usize = 64;

/// A value and its line, from 1.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Null, a boolean, a number, a text.
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// `!function module.name`.
    Function(String),
}

/// What a mapping has under a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Whether the key is a text, not a number or the like.
    pub(super) is_text: bool,
    pub(super) line: usize,
    pub(super) value: Node,
}

/// What is wrong, and in which line.
pub(super) type Fault = (usize, String);

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Scalar(Value::Null))
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self) -> Option<&[Node]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            Kind::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value under `key` of a mapping; null counts as nothing.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key == key).map(|entry| &entry.value).filter(|node| !node.is_null())
    }

    /// The same without lines; a function by its name.
    pub(super) fn json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => items.iter().map(Self::json).collect(),
            Kind::Map(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect::<Map<_, _>>(),
            ),
            Kind::Function(name) => Value::String(format!("!function {name}")),
        }
    }

    /// The first function in it, and its line.
    pub(super) fn function(&self) -> Option<(usize, &str)> {
        match &self.kind {
            Kind::Scalar(_) => None,
            Kind::List(items) => items.iter().find_map(Self::function),
            Kind::Map(entries) => entries.iter().find_map(|entry| entry.value.function()),
            Kind::Function(name) => Some((self.line, name)),
        }
    }

    /// Values and bytes of texts in it.
    fn size(&self) -> (usize, usize) {
        let sum = |sizes: &mut dyn Iterator<Item = (usize, usize)>| {
            sizes.fold((1, 0), |(values, bytes), size| (values + size.0, bytes + size.1))
        };
        match &self.kind {
            Kind::Scalar(Value::String(text)) | Kind::Function(text) => (1, text.len()),
            Kind::Scalar(_) => (1, 0),
            Kind::List(items) => sum(&mut items.iter().map(Self::size)),
            Kind::Map(entries) => sum(&mut entries.iter().map(|entry| {
                let (values, bytes) = entry.value.size();
                (values + 1, bytes + entry.key.len())
            })),
        }
    }
}

/// The only document of a text.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let mut reader = Reader::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| scan_fault(&error))?;
        reader.event(event, span.start.line())?;
    }
    reader.root.ok_or_else(|| (1, "is empty".to_owned()))
}

fn scan_fault(error: &ScanError) -> Fault {
    (error.marker().line(), format!("is no YAML: {}", error.info()))
}

/// A list or mapping that has begun.
struct Open {
    line: usize,
    anchor: usize,
    held: Held,
}

enum Held {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, bool, usize)>),
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    anchors: std::collections::BTreeMap<usize, Node>,
    root: Option<Node>,
    values: usize,
    bytes: usize,
}

impl Reader {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), Fault> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar(&text, style, tag.as_deref()).map_err(|fault| (line, fault))?;
                self.add(Node { line, kind }, anchor, style == ScalarStyle::Plain)
            }
            Event::SequenceStart(anchor, tag) => self.begin(line, anchor, Held::List(Vec::new()), tag.as_deref()),
            Event::MappingStart(anchor, tag) => self.begin(line, anchor, Held::Map(Vec::new(), None), tag.as_deref()),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { line, anchor, held }) = self.open.pop() else { return Ok(()) };
                let kind = match held {
                    Held::List(items) => Kind::List(items),
                    Held::Map(entries, _) => Kind::Map(merged(entries)?),
                };
                self.add(Node { line, kind }, anchor, false)
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let node = known.ok_or_else(|| (line, "an alias of nothing".to_owned()))?;
                self.add(node, 0, false)
            }
            Event::DocumentStart(_) if self.root.is_some() => Err((line, "a second document".to_owned())),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, line: usize, anchor: usize, held: Held, tag: Option<&Tag>) -> Result<(), Fault> {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return Err((line, format!("the tag {tag} is not known")));
        }
        if self.open.len() >= DEEPEST {
            return Err((line, format!("lists and mappings lie more than {DEEPEST} deep in each other")));
        }
        self.open.push(Open { line, anchor, held });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize, is_plain: bool) -> Result<(), Fault> {
        let line = node.line;
        // what is in a list or mapping was counted when it came, but for what an alias stands for
        let (values, bytes) = node.size();
        self.values += values;
        self.bytes += bytes;
        if self.values > VALUES * 8 || values > VALUES || self.bytes > BYTES {
            return Err((line, "has more values than a task file may have".to_owned()));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.held) {
            None => self.root = Some(node),
            Some(Held::List(items)) => items.push(node),
            Some(Held::Map(entries, key)) => match key.take() {
                Some((key, is_text, line)) => entries.push(Entry { key, is_text, line, value: node }),
                None => {
                    let Kind::Scalar(value) = node.kind else {
                        return Err((line, "a key is a list or mapping".to_owned()));
                    };
                    // quoted, it is a key like any other
                    *key = Some(match value {
                        Value::String(text) if text == "<<" && !is_plain => (" <<".to_owned(), true, line),
                        Value::String(text) => (text, true, line),
                        other => (other.to_string(), false, line),
                    });
                }
            },
        }
        Ok(())
    }
}

/// The entries with what `<<` names beneath them; of a key that is there twice the last value, at the first place.
fn merged(entries: Vec<Entry>) -> Result<Vec<Entry>, Fault> {
    let mut all: Vec<Entry> = Vec::new();
    let mut set = |entry: Entry, is_kept: bool| match all.iter_mut().find(|known| known.key == entry.key) {
        Some(known) if !is_kept => *known = entry,
        Some(_) => {}
        None => all.push(entry),
    };
    for entry in entries.iter().filter(|entry| entry.key == "<<") {
        let parts = match &entry.value.kind {
            Kind::List(parts) => parts.as_slice(),
            _ => std::slice::from_ref(&entry.value),
        };
        for part in parts {
            let Some(part) = part.entries() else {
                return Err((entry.line, "<< names something that is no mapping".to_owned()));
            };
            part.iter().for_each(|entry| set(entry.clone(), true));
        }
    }
    entries.into_iter().filter(|entry| entry.key != "<<").for_each(|entry| set(entry, false));
    Ok(all)
}

/// Tags of a word that mean what it means without them.
const CORE: [&str; 4] = ["int", "float", "bool", "null"];

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Kind, String> {
    let text_of = || Kind::Scalar(Value::String(text.to_owned()));
    match tag {
        Some(tag) if tag.handle == "!" && tag.suffix == "function" => Ok(Kind::Function(text.to_owned())),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(text_of()),
        Some(tag) if !tag.is_yaml_core_schema() && !tag.suffix.is_empty() => Err(format!("the tag {tag} is not known")),
        Some(tag) if !tag.is_yaml_core_schema() => Ok(text_of()),
        None if style != ScalarStyle::Plain => Ok(text_of()),
        Some(tag) if !CORE.contains(&tag.suffix.as_str()) => Err(format!("the tag {tag} is not known")),
        _ => plain(text).map(Kind::Scalar),
    }
}

/// What a word without quotes means.
fn plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Ok(true.into()),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Ok(false.into()),
        _ => {}
    }
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Err(format!("{text} is no finite number"));
    }
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(text.into());
    }
    let number = integer(digits).map(|value| if is_negative { -value } else { value });
    if let Some(number) = number.and_then(|number| i64::try_from(number).ok()) {
        return Ok(number.into());
    }
    let float = float(digits).map(|value| if is_negative { -value } else { value });
    Ok(float.and_then(Number::from_f64).map_or_else(|| text.into(), Value::Number))
}

fn integer(digits: &str) -> Option<i128> {
    let of = |digits: &str, radix| {
        let bare = digits.replace('_', "");
        i128::from_str_radix(&bare, radix).ok().filter(|_| !bare.starts_with(['+', '-']))
    };
    if let Some(binary) = digits.strip_prefix("0b") {
        return of(binary, 2);
    }
    if let Some(hexadecimal) = digits.strip_prefix("0x") {
        return of(hexadecimal, 16);
    }
    if digits == "0" {
        return Some(0);
    }
    if let Some(octal) = digits.strip_prefix('0') {
        return of(octal, 8);
    }
    if digits.contains(':') {
        // base 60: 1:30 is 90
        let mut parts = digits.split(':');
        let first = of(parts.next()?, 10)?;
        return parts.try_fold(first, |sum, part| {
            let part = of(part, 10).filter(|part| *part < 60)?;
            sum.checked_mul(60)?.checked_add(part)
        });
    }
    of(digits, 10)
}

/// With a point: `1e5` is a text.
fn float(digits: &str) -> Option<f64> {
    let bare = digits.replace('_', "");
    let (whole, _) = bare.split_once('.')?;
    let is_sound = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if !bare.chars().all(is_sound) || !whole.chars().all(|c| c.is_ascii_digit()) || bare == "." {
        return None;
    }
    let exponent = bare.split_once(['e', 'E']).map(|(_, exponent)| exponent);
    if exponent.is_some_and(|exponent| !exponent.starts_with(['+', '-'])) {
        return None;
    }
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Value {
        parse(text).unwrap().json()
    }

    /// Expected values are what `yaml.safe_load` of PyYAML 6 gives.
    #[test]
    fn words_and_numbers_are_pyyamls() {
        let text = "a: [yes, No, on, 'yes', y, ~, '', null]\nb: [010, 0x1F, 1_000, 1:30, -7, +3, 08, 0b11]\n\
                    c: [1.5, 1e5, 1.0e+2, .5, 1., -2.5, 1.2.3, 12e03]\n";
        let expected = json!({
            "a": [true, false, true, "yes", "y", null, "", null],
            "b": [8, 31, 1000, 90, -7, 3, "08", 3],
            "c": [1.5, "1e5", 100.0, 0.5, 1.0, -2.5, "1.2.3", "12e03"],
        });
        assert_eq!(read(text), expected);
    }

    #[test]
    fn texts_of_several_lines() {
        let text = "a: |-\n  one\n    two\nb: >\n  folded\n  here\n\n  and\nc: 'one\n\n  two'\nd: \"x\\n\\\n  y\"\ne: |\n  {{q}}\n";
        let expected = json!({
            "a": "one\n  two", "b": "folded here\nand\n", "c": "one\ntwo", "d": "x\ny", "e": "{{q}}\n",
        });
        assert_eq!(read(text), expected);
    }

    #[test]
    fn aliases_and_merges() {
        let text =
            "base: &b {x: 1, y: 2}\nown:\n  <<: *b\n  y: 3\nboth:\n  <<: [*b, {z: 4, x: 9}]\nagain: *b\nx: 1\nx: 2\n";
        let expected = json!({
            "base": {"x": 1, "y": 2}, "own": {"x": 1, "y": 3}, "both": {"x": 1, "y": 2, "z": 4},
            "again": {"x": 1, "y": 2}, "x": 2,
        });
        assert_eq!(read(text), expected);
    }

    #[test]
    fn every_value_knows_its_line_and_functions_are_told() {
        let node = parse("a: 1\nb:\n  - x\n  - c: !function utils.f\n").unwrap();
        assert_eq!(node.function(), Some((4, "utils.f")));
        assert_eq!(node.get("b").unwrap().list().unwrap()[1].line, 4);
    }

    #[test]
    fn what_is_no_task_file_is_refused() {
        let fault = |text: &str| parse(text).unwrap_err();
        assert_eq!(fault("a: [1, 2\nb: 3\n").0, 2);
        assert!(fault("a: .nan").1.contains("no finite number"));
        assert!(fault("a: !!python/object:os.system x").1.contains("python/object"), "{:?}", fault("a: !x y"));
        assert!(fault("a: 1\n---\nb: 2\n").1.contains("second document"));
        assert!(fault(&format!("a: {}", "[".repeat(70))).1.contains("deep"));
        assert!(fault("").1.contains("empty"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![before; 10].join(", "));
        }
        assert!(fault(&bomb).1.contains("more values"));
    }
}
