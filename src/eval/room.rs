//! Memory for what is asked: all of it is kept until it is answered, so that it has to fit beside the model.

use std::cell::Cell;

use serde_json::Value;

use super::prompts::{Body, Document};
use super::source::Fields;
use crate::checkpoint::ByteSize;
use crate::{Error, Result};

/// Bytes of a scored token: its id, its place among the passes' rows, and who wants it.
const TOKEN: usize = 100;

/// Bytes of a value, a name or a document beside its text.
const EACH: usize = 120;

/// What is allowed, and how much of it is taken.
#[derive(Debug)]
pub struct Room {
    most: u64,
    taken: Cell<u64>,
}

impl Room {
    /// Of `most` bytes.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self { most, taken: Cell::new(0) }
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Takes room for a row that is kept.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn row(&self, fields: &Fields) -> Result<()> {
        self.take(object(fields))
    }

    /// Takes room for a document.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn document(&self, document: &Document) -> Result<()> {
        let text = |texts: &[String]| texts.iter().map(|text| EACH / 2 + text.len()).sum::<usize>();
        let body = match &document.body {
            Body::Question { question, .. } => text(&question.contexts) + text(&question.answers),
            Body::Text(body) => body.text.len(),
        };
        self.take(EACH + object(&document.row) + body)
    }

    /// Takes room for a request of `input` tokens, `scored` of which are scored.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn request(&self, input: usize, scored: usize) -> Result<()> {
        self.take(EACH + 4 * input + TOKEN * scored)
    }

    fn take(&self, bytes: usize) -> Result<()> {
        self.taken.set(self.taken.get() + bytes as u64);
        if self.taken.get() <= self.most {
            return Ok(());
        }
        Err(Error::request(format!(
            "the questions and texts take more than the {} there are for them: ask for fewer with --limit, or give more \
             with --memory",
            ByteSize(self.most)
        )))
    }
}

fn object(fields: &Fields) -> usize {
    fields.iter().map(|(name, field)| EACH + name.len() + value(field)).sum::<usize>() + EACH
}

fn value(field: &Value) -> usize {
    match field {
        Value::String(text) => EACH + text.len(),
        Value::Array(list) => EACH + list.iter().map(value).sum::<usize>(),
        Value::Object(fields) => EACH + object(fields),
        _ => EACH,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_does_not_fit_names_the_flags() {
        let room = Room::new(1000);
        let Value::Object(row) = json!({"text": "x".repeat(200)}) else { panic!() };
        room.row(&row).unwrap();
        assert!((500..700).contains(&room.taken()), "{}", room.taken());
        let error = room.request(10, 10).unwrap_err();
        assert!(error.to_string().contains("--limit") && error.exit_code() == 2, "{error}");
    }
}
