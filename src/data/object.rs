//! One row of JSON: an object, of which the wanted fields are kept, and no more than memory allows.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::input::Input;
use super::non_finite;
use super::piece::{End, Piece, Scan};
use super::rows::{ReadOptions, Row, RowPlace, shortened};
use super::value::{Build, MOST};
use crate::files::{NESTED, RECURSION};
use crate::{Error, Result};

/// Bytes of the longest name of a field.
const NAME: u64 = 1 << 20;

/// One object from its text. What Python writes for numbers that are not finite is null where nobody asked for it.
pub(super) fn object(text: &[u8], options: &ReadOptions, place: RowPlace) -> Result<Row> {
    let read = |text: &[u8]| {
        let fields = Fields { options, left: &Cell::new(None), values: &Cell::new(MOST) };
        fields.read(&mut serde_json::Deserializer::from_slice(text))
    };
    let first = read(text);
    // such words are rare: nothing is looked for where there is no fault
    match first.as_ref().err().and_then(|_| non_finite::quoted(text)) {
        Some(quoted) => row(read(&quoted), true, 0, options, place),
        None => row(first, false, 0, options, place),
    }
}

/// One object from the beginning of its text, in `read`, and the rest of it, which ends at `end`, and the byte there,
/// if it was read to its end.
///
/// # Errors
/// Those of the file.
pub(super) fn streamed(
    read: &mut Vec<u8>,
    input: &mut Input,
    end: &mut End,
    options: &ReadOptions,
    place: RowPlace,
) -> Result<(Result<Row>, Option<u8>)> {
    let (last, left, fault, has_words) = (Cell::new(None), Cell::new(Some(NAME)), Cell::new(None), Cell::new(false));
    let skipped = Cell::new(0);
    let piece = Piece {
        read,
        given: 0,
        input,
        end,
        last: &last,
        left: &left,
        skipped: &skipped,
        fault: &fault,
        open: Scan::default(),
        has_words: &has_words,
        ahead: Vec::new(),
    };
    let fields = Fields { options, left: &left, values: &Cell::new(MOST) };
    let found = fields.read(&mut serde_json::Deserializer::from_reader(piece));
    match fault.take() {
        Some(fault) => Err(fault),
        None => Ok((row(found, has_words.get(), skipped.get(), options, place), last.get())),
    }
}

/// The outcome of reading a row, its fault worded for the user. `has_words`: strings stand for numbers that are not
/// finite. `skipped`: bytes that the reader did not see.
fn row(
    read: serde_json::Result<Map<String, Value>>,
    has_words: bool,
    skipped: usize,
    options: &ReadOptions,
    place: RowPlace,
) -> Result<Row> {
    let error = match read {
        Ok(mut fields) => {
            let asked = if has_words { non_finite::settle(&mut fields, options.only.is_some()) } else { None };
            return match asked {
                Some((name, word)) => {
                    Err(Error::work(format!("{place}: field `{name}` is {word}, which is no JSON value; null is one")))
                }
                None => Ok(Row { fields, place }),
            };
        }
        Err(error) => error,
    };
    // serde_json's own place is relative to this object
    let message = error.to_string().replace(RECURSION, NESTED);
    let message = shortened(message.split(" at line ").next().unwrap_or_default(), 200);
    let hint = if error.is_eof() { "; expected one JSON object a line, or one array of objects" } else { "" };
    Err(Error::work(format!("{place} column {}: {message}{hint}", error.column() + skipped)))
}

/// Reads an object, keeping the wanted fields only.
#[derive(Clone, Copy)]
struct Fields<'a> {
    options: &'a ReadOptions,
    /// Bytes that the reader may still give out; `None` where they are not wanted.
    left: &'a Cell<Option<u64>>,
    /// Values that the row may still have.
    values: &'a Cell<usize>,
}

impl Fields<'_> {
    fn read<'de, R: serde_json::de::Read<'de>>(
        self,
        deserializer: &mut serde_json::Deserializer<R>,
    ) -> serde_json::Result<Map<String, Value>> {
        let fields = self.deserialize(&mut *deserializer)?;
        self.left.set(None);
        deserializer.end().map(|()| fields)
    }
}

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
        // as long as a text may be, and what else is wanted; a letter may be written as six
        let mut wanted = 2 * self.options.longest.bytes() as u64;
        loop {
            self.left.set(Some(NAME));
            let Some(name) = access.next_key::<String>()? else { return Ok(fields) };
            if self.options.wants(&name) {
                self.left.set(Some(wanted));
                let build = Build { left: self.values, is_text: self.options.text };
                let value = access.next_value_seed(build)?;
                wanted = self.left.get().unwrap_or(0);
                fields.insert(name, value);
            } else {
                self.left.set(None);
                access.next_value::<IgnoredAny>()?;
            }
        }
    }
}
