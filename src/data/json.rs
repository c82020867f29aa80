//! JSON: one object a line, or one array of objects.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::input::{Input, Taken};
use super::object::{object, streamed};
use super::piece::{End, Scan, drain};
use super::rows::{ReadOptions, Row, RowIter, RowPlace};
use crate::{Error, Result};

/// Opens JSON lines or an array, told apart by the first character that is no space.
pub(super) fn open(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>) -> Result<RowIter> {
    let mut input = Input::open(path, bytes)?;
    let mut blank_lines = 0;
    let is_array = loop {
        let bytes = input.fill()?;
        let start = bytes.trim_ascii_start();
        if bytes.is_empty() || !start.is_empty() {
            break start.first() == Some(&b'[');
        }
        let blank = bytes.len();
        blank_lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        input.consume(blank);
    };
    let (options, buffer) = (options.clone(), Vec::new());
    if is_array {
        Ok(Box::new(Items { input, options, buffer, number: 0, closed: false, left: None }))
    } else {
        Ok(Box::new(Lines { input, options, buffer, number: blank_lines, left: false }))
    }
}

/// Bytes of a line or item that are held in memory; what is longer is read as a stream.
const BLOCK: usize = 1 << 20;

/// One object a line; blank lines are passed over.
struct Lines {
    input: Input,
    options: ReadOptions,
    buffer: Vec<u8>,
    number: u64,
    /// The line before was left in the middle.
    left: bool,
}

impl Iterator for Lines {
    type Item = Result<Result<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().transpose()
    }
}

impl Lines {
    fn row(&mut self) -> Result<Option<Result<Row>>> {
        if std::mem::take(&mut self.left) {
            drain(&mut self.input, &mut End::Line)?;
        }
        loop {
            let mut taken = self.input.line(&mut self.buffer, BLOCK)?;
            if taken == Taken::Nothing {
                return Ok(None);
            }
            self.number += 1;
            while taken == Taken::Beginning && self.buffer.trim_ascii().is_empty() {
                taken = self.input.line(&mut self.buffer, BLOCK)?;
            }
            let place = RowPlace { path: Arc::clone(&self.input.path), unit: "line", number: self.number };
            if taken == Taken::Beginning {
                let (row, last) = streamed(&mut self.buffer, &mut self.input, &mut End::Line, &self.options, place)?;
                self.left = last.is_none();
                return Ok(Some(row));
            }
            let line = self.buffer.trim_ascii();
            if !line.is_empty() {
                return Ok(Some(object(line, &self.options, place)));
            }
        }
    }
}

/// The objects of one array, one at a time, so that the array never stands in memory whole.
struct Items {
    input: Input,
    options: ReadOptions,
    buffer: Vec<u8>,
    number: u64,
    closed: bool,
    /// The end of the item before, which was left in the middle.
    left: Option<End>,
}

impl Iterator for Items {
    type Item = Result<Result<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().transpose()
    }
}

impl Items {
    /// The next item. Each call starts behind the `[` or `,` before the item and stops behind the `,` or `]` after it.
    fn row(&mut self) -> Result<Option<Result<Row>>> {
        if let Some(mut end) = self.left.take() {
            let last = drain(&mut self.input, &mut end)?;
            self.after(last)?;
        }
        if self.closed {
            return Ok(None);
        }
        if self.number == 0 {
            self.pass_bracket()?;
        }
        self.number += 1;
        let mut end = End::Item(Scan::default());
        let Some(last) = self.begin(&mut end)? else {
            let place = self.place();
            let (row, last) = streamed(&mut self.buffer, &mut self.input, &mut end, &self.options, place)?;
            match last {
                Some(last) => self.after(last)?,
                None => self.left = Some(end),
            }
            return Ok(Some(row));
        };
        self.after(last)?;
        let item = self.buffer.trim_ascii();
        if self.closed && self.number == 1 && item.is_empty() {
            return Ok(None);
        }
        Ok(Some(object(item, &self.options, self.place())))
    }

    fn place(&self) -> RowPlace {
        RowPlace { path: Arc::clone(&self.input.path), unit: "item", number: self.number }
    }

    /// Puts the text of the next item, without blanks in front, into the buffer; the byte behind it, 0 for the end of
    /// the file, or `None` where it goes on.
    fn begin(&mut self, end: &mut End) -> Result<Option<u8>> {
        self.buffer.clear();
        while self.buffer.len() < BLOCK {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return Ok(Some(0));
            }
            let blank = bytes.len() - bytes.trim_ascii_start().len();
            if self.buffer.is_empty() && blank > 0 {
                self.input.consume(blank);
                continue;
            }
            let found = end.find(bytes);
            let taken = found.unwrap_or(bytes.len());
            let last = found.map(|at| bytes[at]);
            self.buffer.extend_from_slice(&bytes[..taken]);
            self.input.consume(taken + usize::from(last.is_some()));
            if last.is_some() {
                return Ok(last);
            }
        }
        Ok(None)
    }

    /// Takes what stands before the first item.
    fn pass_bracket(&mut self) -> Result<()> {
        let bytes = self.input.fill()?;
        let bracket = bytes.iter().position(|byte| *byte == b'[').unwrap_or(0);
        self.input.consume(bracket + 1);
        Ok(())
    }

    /// What the byte behind an item means.
    fn after(&mut self, last: u8) -> Result<()> {
        match last {
            0 => Err(Error::work(format!("{}: the array is not closed, the file is incomplete", self.place()))),
            b']' => self.close(),
            _ => Ok(()),
        }
    }

    /// After the `]`: nothing may follow.
    fn close(&mut self) -> Result<()> {
        self.closed = true;
        loop {
            let bytes = self.input.fill()?;
            if bytes.is_empty() {
                return Ok(());
            }
            if !bytes.trim_ascii().is_empty() {
                return Err(Error::work(format!("{}: text after the end of the array", self.input.path.display())));
            }
            let blank = bytes.len();
            self.input.consume(blank);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

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
        assert_eq!(read("\n".repeat(1_000_000) + "{}").unwrap(), [(1_000_001, "{}".to_owned())]);
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
        assert!(error("{\"a\":".to_owned() + &"[".repeat(1000)).contains("too deep in one another"));
    }

    /// One line of some megabytes, read as a stream.
    fn long(options: &ReadOptions, parts: &[&str]) -> Vec<Result<Row>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.jsonl");
        std::fs::write(&path, parts.concat()).unwrap();
        rows_with(&path, options).unwrap().collect()
    }

    #[test]
    fn a_long_line_or_item_reads_as_a_short_one() {
        let options = ReadOptions { only: Some(["text".to_owned()].into()), text: true, ..ReadOptions::default() };
        let (pad, deep) =
            ("[0,\"],NaN\",{}],-1,-Infinity,NaN,".repeat(BLOCK / 16), "[".repeat(9000) + &"]".repeat(9000));
        let text = "x\\n\\u00e9é\\\"] ".repeat(BLOCK / 8);
        let first = format!("{{\"pad\":[{pad}0],\"deep\":{deep},\"text\":\"{text}\",\"more\":[{pad}0]}}");
        let expected = text.replace("\\n", "\n").replace("\\u00e9", "é").replace("\\\"", "\"");
        for (begin, between, end) in [("", "\n\r\n", "\n"), (" [", " , ", " ] ")] {
            let read = long(&options, &[begin, &first, between, "{\"text\":\"y\"}", end]);
            let texts: Vec<String> =
                read.into_iter().map(|row| row.unwrap().text("text").unwrap().to_owned()).collect();
            assert_eq!(texts.len(), 2);
            assert!(texts[0] == expected && texts[1] == "y");
        }
        let pad = " ".repeat(2 * BLOCK);
        for parts in [[&pad, "{\"text\":\"y\"}", &pad, "\n", &pad], [&pad, "[", &pad, "{\"text\":\"y\"}", "]"]] {
            let read = long(&options, &parts);
            assert_eq!((read.len(), read[0].as_ref().unwrap().text("text").unwrap()), (1, "y"));
        }
        assert!(long(&options, &["[", &pad, "]"]).is_empty());
        let row = format!("{{\"pad\":\"{pad}\",\"text\":[-Infinity]}}");
        let message = long(&options, &[&row]).remove(0).unwrap_err().to_string();
        assert!(
            message.ends_with("line 1: field `text` is -Infinity, which is no JSON value; null is one"),
            "{message}"
        );
    }

    #[test]
    fn what_is_too_long_is_refused_where_it_is_met() {
        let options = ReadOptions { only: Some(["text".to_owned()].into()), text: true, ..ReadOptions::default() };
        let fault = |parts: &[&str]| {
            let mut read = long(&options, parts);
            assert_eq!(read.len(), 1);
            let message = read.remove(0).unwrap_err().to_string();
            let message = message.rsplit_once("data.jsonl ").unwrap().1;
            let (front, rest) = message.split_once(" column ").unwrap();
            format!("{front} column X: {}", rest.split_once(": ").unwrap().1)
        };
        let many = "0,".repeat(BLOCK);
        let list = long(&options, &["{\"text\":[", &many, "0]}"]).remove(0).unwrap();
        assert_eq!(list.fields["text"], serde_json::json!([0, 0, 0, 0, 0, 0, 0, 0]));
        let name = "n".repeat(2 * BLOCK);
        assert_eq!(fault(&["{\"", &name, "\":0}"]), "line 1 column X: a name or a field that is wanted is too long");
        let text = "t".repeat((32 << 20) + 1);
        assert_eq!(
            fault(&["{\"text\":\"", &text, "\"}"]),
            "line 1 column X: a name or a field that is wanted is too long"
        );
        assert!(fault(&["{\"u\":", &"[".repeat(2 * BLOCK)]).contains("too deep in one another"));
        assert!(error(format!("{{\"a\":[{many}0]}}")).contains("more than 100000 values"));
        assert!(error(format!("[{{\"a\":[{many}")).contains("item 1"));
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
