//! JSON: one object a line, or one array of objects.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::input::{Input, LONGEST};
use super::non_finite;
use super::rows::{Place, ReadOptions, Row, RowIter};
use crate::{Error, Result};

/// Opens JSON lines or an array, told apart by the first character that is no space.
pub(super) fn open(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>) -> Result<RowIter> {
    let mut input = Input::open(path, bytes)?;
    let array = input.fill()?.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let (options, buffer) = (options.clone(), Vec::new());
    if array {
        Ok(Box::new(Items { input, options, buffer, number: 0, closed: false }))
    } else {
        Ok(Box::new(Lines { input, options, buffer, number: 0 }))
    }
}

/// One object a line; blank lines are passed over.
struct Lines {
    input: Input,
    options: ReadOptions,
    buffer: Vec<u8>,
    number: u64,
}

impl Iterator for Lines {
    type Item = Result<Result<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.input.line(&mut self.buffer) {
                Ok(true) => self.number += 1,
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
            let line = self.buffer.trim_ascii();
            if !line.is_empty() {
                let place = Place { path: Arc::clone(&self.input.path), unit: "line", number: self.number };
                return Some(Ok(object(line, &self.options, place)));
            }
        }
    }
}

/// The objects of one array, cut out one at a time, so that the array never stands in memory whole.
struct Items {
    input: Input,
    options: ReadOptions,
    buffer: Vec<u8>,
    number: u64,
    closed: bool,
}

impl Iterator for Items {
    type Item = Result<Result<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.closed {
            return None;
        }
        match self.cut() {
            Ok(false) => None,
            Ok(true) => Some(Ok(object(self.buffer.trim_ascii(), &self.options, self.place()))),
            Err(error) => Some(Err(error)),
        }
    }
}

impl Items {
    fn place(&self) -> Place {
        Place { path: Arc::clone(&self.input.path), unit: "item", number: self.number }
    }

    /// Puts the text of the next item into the buffer; false after the last. Each call starts behind the `[` or `,`
    /// before the item and stops behind the `,` or `]` after it.
    fn cut(&mut self) -> Result<bool> {
        self.buffer.clear();
        if self.number == 0 {
            self.pass_bracket()?;
        }
        self.number += 1;
        let mut scan = Scan::default();
        loop {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return Err(Error::work(format!("{}: the array is not closed, the file is incomplete", self.place())));
            }
            let end = bytes.iter().position(|byte| scan.ends(*byte));
            let taken = end.unwrap_or(bytes.len());
            self.buffer.extend_from_slice(&bytes[..taken]);
            let last = end.map(|end| bytes[end]);
            self.input.consume(taken + usize::from(end.is_some()));
            if self.buffer.len() as u64 > LONGEST {
                return Err(self.input.too_long("an item of the array"));
            }
            match last {
                Some(b']') => return self.close(),
                Some(_) => return Ok(true),
                None => {}
            }
        }
    }

    /// Takes what stands before the first item.
    fn pass_bracket(&mut self) -> Result<()> {
        let bytes = self.input.fill()?;
        let bracket = bytes.iter().position(|byte| *byte == b'[').unwrap_or(0);
        self.input.consume(bracket + 1);
        Ok(())
    }

    /// After the `]`: nothing may follow. The item before it is there unless the array is empty.
    fn close(&mut self) -> Result<bool> {
        self.closed = true;
        loop {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return Ok(self.number > 1 || !self.buffer.trim_ascii().is_empty());
            }
            if !bytes.trim_ascii().is_empty() {
                return Err(Error::work(format!("{}: text after the end of the array", self.input.path.display())));
            }
            let blank = bytes.len();
            self.input.consume(blank);
        }
    }
}

/// Follows the brackets and strings of one item.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Whether `byte` stands behind the item: a `,` or `]` outside of it.
    fn ends(&mut self, byte: u8) -> bool {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b',' | b']' if self.depth == 0 => return true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        false
    }
}

/// One object from its text. What Python writes for numbers that are not finite is null where nobody asked for it.
fn object(text: &[u8], options: &ReadOptions, place: Place) -> Result<Row> {
    let read = |text: &[u8]| {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let fields = Fields(options).deserialize(&mut deserializer)?;
        deserializer.end().map(|()| fields)
    };
    let mut fields = read(text);
    if let (Err(_), Some(text)) = (&fields, non_finite::quoted(text)) {
        fields = read(&text);
        if let Some((name, word)) = fields.as_mut().ok().and_then(|f| non_finite::settle(f, options.only.is_some())) {
            return Err(Error::work(format!("{place}: field `{name}` is {word}, which is no JSON value; null is one")));
        }
    }
    match fields {
        Ok(fields) => Ok(Row { fields, place }),
        Err(error) => {
            // serde_json's own place is relative to this object
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or_default();
            let hint = if error.is_eof() { "; expected one JSON object a line, or one array of objects" } else { "" };
            Err(Error::work(format!("{place} column {}: {message}{hint}", error.column())))
        }
    }
}

/// Reads an object, keeping the wanted fields only.
struct Fields<'a>(&'a ReadOptions);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if self.0.wants(&name) {
                fields.insert(name, access.next_value()?);
            } else {
                access.next_value::<IgnoredAny>()?;
            }
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::{rows, rows_with};
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<(u64, String)>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.json");
        std::fs::write(&path, text).unwrap();
        let shown = |row: Row| (row.place.number, Value::Object(row.fields).to_string());
        rows(&path)?.map(|row| row.map(shown)).collect()
    }

    fn error(text: impl AsRef<[u8]>) -> String {
        let message = read(text).unwrap_err().to_string();
        message.rsplit_once("data.json").unwrap().1.to_owned()
    }

    #[test]
    fn lines_with_blank_lines_crlf_and_a_byte_order_mark() {
        let text = "\u{feff}{\"a\":1}\r\n\r\n  {\"a\":2}\n\n{\"a\":3}";
        let expected = [(1, "{\"a\":1}"), (3, "{\"a\":2}"), (5, "{\"a\":3}")];
        assert_eq!(read(text).unwrap(), expected.map(|(n, s)| (n, s.to_owned())));
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn escapes_are_read_as_python_reads_them() {
        let rows = read(r#"{"a":"http:\/\/x \u00e9 \ud83d\ude00 \n"}"#).unwrap();
        assert_eq!(rows[0].1, "{\"a\":\"http://x é 😀 \\n\"}");
        assert!(error(r#"{"a":"\ud83d"}"#).starts_with(" line 1 column "), "a lone surrogate is no text");
    }

    #[test]
    fn numbers_that_are_not_finite_are_null_unless_asked_for() {
        let text = r#"{"text":"NaN","score":NaN,"more":[-Infinity,{"x":Infinity}]}"#;
        let expected = r#"{"text":"NaN","score":null,"more":[null,{"x":null}]}"#;
        assert_eq!(read(text).unwrap(), [(1, expected.to_owned())]);
        assert_eq!(read(format!("[{text},{text}]")).unwrap()[1], (2, expected.to_owned()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.jsonl");
        std::fs::write(&path, text).unwrap();
        let only = |name: &str| {
            let options = ReadOptions { only: Some([name.to_owned()].into()), ..ReadOptions::default() };
            rows_with(&path, &options).unwrap().next().unwrap()
        };
        assert_eq!(only("text").unwrap().text("text").unwrap(), "NaN");
        let message = only("score").unwrap_err().to_string();
        assert!(message.ends_with("line 1: field `score` is NaN, which is no JSON value; null is one"), "{message}");
        assert!(error(r#"{"a":NaN "b":1}"#).starts_with(" line 1 column "));
    }

    #[test]
    fn an_array_is_read_item_by_item() {
        let text = "\n [ {\"a\": \"],[\\\"{\"}, {\"b\": [1, {\"c\": []}]}\n,{}]\n";
        let expected = [(1, "{\"a\":\"],[\\\"{\"}"), (2, "{\"b\":[1,{\"c\":[]}]}"), (3, "{}")];
        assert_eq!(read(text).unwrap(), expected.map(|(n, s)| (n, s.to_owned())));
        assert_eq!(read("[]").unwrap(), []);
        assert_eq!(read(" [ \n ] ").unwrap(), []);
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        assert_eq!(error("{\"a\":1}\n{\"a\" 2}"), " line 2 column 6: expected `:`");
        assert!(error("{\n\"a\": 1\n}").contains("expected one JSON object a line"));
        assert_eq!(error("{\"a\":1} x"), " line 1 column 9: trailing characters");
        assert!(error("3").contains("expected a JSON object"), "{}", error("3"));
        assert_eq!(
            error("[{\"a\":1},").replace("data.json", ""),
            " item 2: the array is not closed, the file is incomplete"
        );
        assert!(error("[{},]").starts_with(" item 2 column "));
        assert!(error("[{}] {}").contains("after the end"));
        assert!(error("[{}{}]").contains("item 1 column 3: trailing"));
        assert!(error(b"{\"a\":\"\xff\"}").contains("line 1 column"));
        assert!(error("{\"a\":".to_owned() + &"[".repeat(1000)).contains("recursion limit"));
    }

    #[test]
    fn only_the_wanted_fields_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.jsonl");
        std::fs::write(&path, "{\"u\":[1,{}],\"text\":\"x\",\"v\":null}\n{\"u\":1}").unwrap();
        let options = ReadOptions { only: Some(["text".to_owned()].into()), ..ReadOptions::default() };
        let read: Result<Vec<Row>> = rows_with(&path, &options).unwrap().collect();
        let read: Vec<String> = read.unwrap().into_iter().map(|row| Value::Object(row.fields).to_string()).collect();
        assert_eq!(read, ["{\"text\":\"x\"}", "{}"]);
    }
}
