//! Plain text: a file is one document, or is cut at its lines or blank lines.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::{Map, Value};

use super::input::{CUT, Input, Taken};
use super::longest::Longest;
use super::piece::{End, drain};
use super::rows::{ReadOptions, Row, RowIter, RowPlace, TextSplit};
use crate::{Error, Result};

/// Opens a text file; its documents stand in the field asked for, `text` by default. CR LF is read as LF.
pub(super) fn open(path: &Path, options: &ReadOptions, bytes: Arc<AtomicU64>) -> Result<RowIter> {
    let input = Input::open(path, bytes)?;
    let field = options.only.as_ref().and_then(|only| only.first().cloned()).unwrap_or_else(|| "text".to_owned());
    let (split, longest) = (options.split, options.longest);
    let mut pieces = Pieces { input, split, longest, line: Vec::new(), number: 0, ended: false };
    Ok(Box::new(std::iter::from_fn(move || {
        let piece = pieces.next_piece().transpose()?;
        Some(piece.map(|(number, bytes)| {
            let mut fields = Map::new();
            fields.insert(field.clone(), Value::from(utf8(bytes?, &pieces.input.path, number)?));
            Ok(Row { fields, place: RowPlace { path: Arc::clone(&pieces.input.path), unit: "line", number } })
        }))
    })))
}

/// The documents of one file as bytes.
struct Pieces {
    input: Input,
    split: TextSplit,
    longest: Longest,
    line: Vec<u8>,
    number: u64,
    ended: bool,
}

impl Pieces {
    /// The next document, or what is wrong with it, with the line it starts on.
    fn next_piece(&mut self) -> Result<Option<(u64, Result<Vec<u8>>)>> {
        if self.ended {
            return Ok(None);
        }
        match self.split {
            TextSplit::Document => {
                self.ended = true;
                let bytes = self.input.rest(self.longest.bytes())?.ok_or_else(|| {
                    let (path, most) = (self.input.path.display(), self.longest);
                    Error::request(format!("{path}: the text is longer than {most}; {CUT}"))
                })?;
                Ok((!bytes.is_empty()).then_some((1, Ok(bytes))))
            }
            TextSplit::Lines => Ok(match self.next_line()? {
                Taken::Nothing => None,
                Taken::Beginning => Some((self.number, Err(self.too_long(self.number, "the line")))),
                Taken::Whole => Some((self.number, Ok(without_feed(&self.line).to_vec()))),
            }),
            TextSplit::Paragraphs => self.paragraph(),
        }
    }

    /// Puts the next line into the buffer; of one that is too long the beginning, and passes over the rest.
    fn next_line(&mut self) -> Result<Taken> {
        let taken = self.input.line(&mut self.line, self.longest.bytes())?;
        self.number += u64::from(taken != Taken::Nothing);
        if taken == Taken::Beginning {
            drain(&mut self.input, &mut End::Line)?;
        }
        Ok(taken)
    }

    /// The error for a document that is too long to be one.
    fn too_long(&self, line: u64, what: &str) -> Error {
        let (path, most) = (self.input.path.display(), self.longest);
        Error::work(format!("{path} line {line}: {what} is longer than {most}, as much as one document has"))
    }

    fn paragraph(&mut self) -> Result<Option<(u64, Result<Vec<u8>>)>> {
        let (mut text, mut start, mut is_too_long) = (Vec::new(), 0, false);
        loop {
            let taken = self.next_line()?;
            if taken == Taken::Nothing {
                break;
            }
            let blank = taken == Taken::Whole && self.line.trim_ascii().is_empty();
            match (blank, start == 0) {
                (true, true) => continue,
                (true, false) => break,
                (false, true) => start = self.number,
                (false, false) => {}
            }
            is_too_long |= taken == Taken::Beginning || text.len() + self.line.len() > self.longest.bytes();
            if is_too_long {
                text = Vec::new();
            } else {
                text.extend_from_slice(&self.line);
            }
        }
        if is_too_long {
            return Ok(Some((start, Err(self.too_long(start, "the paragraph")))));
        }
        text.truncate(without_feed(&text).len());
        Ok((!text.is_empty()).then_some((start, Ok(text))))
    }
}

/// A line without what ends it.
fn without_feed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Text that starts on line `first`, CR LF turned into LF.
fn utf8(bytes: Vec<u8>, path: &Path, first: u64) -> Result<String> {
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = first + valid.iter().filter(|byte| **byte == b'\n').count() as u64;
        Error::work(format!("{} line {line}: not UTF-8: {}", path.display(), error.utf8_error()))
    })?;
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text })
}

#[cfg(test)]
mod tests {
    use super::super::rows::rows_with;
    use super::*;

    fn read(text: impl AsRef<[u8]>, split: TextSplit) -> Result<Vec<(u64, String)>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.txt");
        std::fs::write(&path, text).unwrap();
        let options = ReadOptions { split, ..ReadOptions::default() };
        rows_with(&path, &options)?
            .map(|row| row.map(|row| (row.place.number, row.text("text").unwrap().to_owned())))
            .collect()
    }

    #[test]
    fn three_ways_to_cut() {
        let text = "\r\na\r\nb\n\n \nc\n";
        let owned = |pieces: &[(u64, &str)]| pieces.iter().map(|(n, s)| (*n, (*s).to_owned())).collect::<Vec<_>>();
        assert_eq!(read(text, TextSplit::Document).unwrap(), owned(&[(1, "\na\nb\n\n \nc\n")]));
        assert_eq!(
            read(text, TextSplit::Lines).unwrap(),
            owned(&[(1, ""), (2, "a"), (3, "b"), (4, ""), (5, " "), (6, "c")])
        );
        assert_eq!(read(text, TextSplit::Paragraphs).unwrap(), owned(&[(2, "a\nb"), (6, "c")]));
        for split in [TextSplit::Document, TextSplit::Lines, TextSplit::Paragraphs] {
            assert_eq!(read("", split).unwrap(), []);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_one_row_that_is_wrong() {
        let longest = Longest::within(0);
        let text = format!("a\n{}\nb\n\nc\n", "x".repeat(longest.bytes() + 1));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.txt");
        std::fs::write(&path, text).unwrap();
        for (split, expected) in [
            (TextSplit::Lines, ["a", "x.txt line 2: the line is longer", "b", "", "c"].as_slice()),
            (TextSplit::Paragraphs, &["x.txt line 1: the paragraph is longer", "c"]),
        ] {
            let mut rows = rows_with(&path, &ReadOptions { split, longest, ..ReadOptions::default() }).unwrap();
            let read: Vec<String> = std::iter::from_fn(|| rows.next_or_fault())
                .map(|row| match row.unwrap() {
                    Ok(row) => row.text("text").unwrap().to_owned(),
                    Err(fault) => fault.to_string(),
                })
                .collect();
            assert_eq!(read.len(), expected.len());
            assert!(read.iter().zip(expected).all(|(read, expected)| read.contains(expected)), "{read:?}");
        }
        assert!(
            read("x".repeat(Longest::default().bytes() + 1), TextSplit::Document)
                .unwrap_err()
                .to_string()
                .contains("--text-split")
        );
    }

    #[test]
    fn bytes_that_are_no_text_name_their_line() {
        for split in [TextSplit::Document, TextSplit::Lines, TextSplit::Paragraphs] {
            let message = read(b"a\nb\n\xff\n", split).unwrap_err().to_string();
            assert!(message.contains("x.txt line 3: not UTF-8"), "{message}");
        }
    }
}
