//! Memory for what is asked: all of it is kept until it is answered, so that it has to fit beside the model.

use std::cell::Cell;
use std::sync::Arc;

use serde_json::Value;

use super::fields::Fields;
use super::passes::TokenRequest;
use super::prompts::AskedDocument;
use super::request::{Prompt, Request};
use super::settings::EvalSettings;
use crate::checkpoint::ByteSize;
use crate::data::{Longest, ReadOptions};
use crate::{Error, Result};

/// Bytes of a scored token: its id, its place among the passes' rows, and who wants it.
const TOKEN: usize = 100;

/// Bytes of a request or document for what comes out of it and what is written of that.
const OUTCOME: usize = 100;

/// What is allowed, and how much of it is taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    most: u64,
    bytes: u64,
}

impl Taken {
    /// Takes more.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn take(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes <= self.most {
            return Ok(());
        }
        Err(Error::request(format!(
            "the questions and texts take more than the {} there are for them: ask for fewer with --limit, or give \
             more with --memory",
            ByteSize(self.most)
        )))
    }
}

/// The memory that there is for what is asked.
#[derive(Debug)]
pub struct Room(Cell<Taken>);

impl Room {
    /// Of `most` bytes.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self(Cell::new(Taken { most, bytes: 0 }))
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.get().bytes
    }

    /// What is taken so far.
    #[must_use]
    pub fn taken(&self) -> Taken {
        self.0.get()
    }

    /// How rows are read that have to fit.
    pub(super) fn reading(&self, settings: &EvalSettings) -> ReadOptions {
        let (split, longest) = (settings.text_split, Longest::within(self.0.get().most));
        ReadOptions { split, longest, ..ReadOptions::default() }
    }

    /// Takes room for a row that is kept.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn row(&self, fields: &Fields) -> Result<()> {
        self.take(size_of::<Fields>() + object(fields))
    }

    /// Takes room for a text of so many bytes.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn text(&self, bytes: usize) -> Result<()> {
        self.take(heap(bytes))
    }

    /// Takes room for a document.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn document(&self, document: &AskedDocument) -> Result<()> {
        let mut before: Option<&Prompt> = None;
        let mut texts = heap(document.target.len()) + heap(size_of::<Request>() * document.requests.len());
        for request in &document.requests {
            let (context, own) = match request {
                Request::LogLikelihood { context, continuation } => (Some(context), heap(continuation.len())),
                Request::LogLikelihoodRolling { text } => (None, heap(text.len())),
                Request::GenerateUntil { context, .. } => (Some(context), 0),
            };
            // the choices of a question usually have one context
            let is_new = |context: &&Prompt| before.is_none_or(|before| !Arc::ptr_eq(&before.own, &context.own));
            texts += own + context.filter(is_new).map_or(0, |context| heap(context.own.len()));
            before = context;
        }
        self.take(size_of::<AskedDocument>() + OUTCOME + object(&document.row) + texts)
    }

    /// Takes room for the requests of a document. Those that stand side by side may have one input.
    ///
    /// # Errors
    /// Request: there is not as much.
    pub(super) fn requests(&self, requests: &[TokenRequest]) -> Result<()> {
        let mut before = None;
        for request in requests {
            self.take(size(request, before))?;
            before = Some(request);
        }
        Ok(())
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let mut taken = self.0.get();
        let outcome = taken.take(bytes);
        self.0.set(taken);
        outcome
    }
}

/// Bytes of a request that stands behind `before`.
pub(super) fn size(request: &TokenRequest, before: Option<&TokenRequest>) -> usize {
    let is_known = before.is_some_and(|before| Arc::ptr_eq(&before.input, &request.input));
    let tokens = if is_known { 0 } else { heap(size_of::<u32>() * request.input.len()) };
    size_of::<TokenRequest>() + OUTCOME + tokens + TOKEN * request.targets.len()
}

/// Bytes that so many take on the heap: an allocator has so many sizes and no more.
fn heap(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes.next_multiple_of(16) + bytes / 8 }
}

/// Bytes of an object's fields: a table of places, and beside it names and values in their order.
fn object(fields: &Fields) -> usize {
    const FIELD: usize = size_of::<(u64, String, Value)>();
    let places = (fields.len().max(3) + 1).next_power_of_two();
    let table = heap(places * (size_of::<usize>() + 1) + 16) + heap(FIELD * places / 8 * 7);
    table + fields.iter().map(|(name, field)| heap(name.len()) + value(field)).sum::<usize>()
}

/// Bytes of a value beside itself.
fn value(field: &Value) -> usize {
    match field {
        Value::String(text) => heap(text.len()),
        // lists grow by doubling
        Value::Array(list) => {
            heap(size_of::<Value>() * list.len().next_power_of_two().max(4)) + list.iter().map(value).sum::<usize>()
        }
        Value::Object(fields) => object(fields),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::passes::ScoredTargets;
    use super::*;

    #[test]
    fn what_does_not_fit_names_the_flags() {
        let room = Room::new(1200);
        let Value::Object(row) = json!({"text": "x".repeat(200)}) else { panic!() };
        room.row(&row).unwrap();
        assert!((500..900).contains(&room.bytes()), "{}", room.bytes());
        let request = |input: &Arc<[u32]>| TokenRequest {
            input: input.clone(),
            from: 9,
            targets: ScoredTargets::Sequence(vec![1]),
        };
        let (one, other): (Arc<[u32]>, Arc<[u32]>) = (vec![0; 10_000].into(), vec![0; 10_000].into());
        let taken = |requests: &[TokenRequest]| {
            let room = Room::new(u64::MAX);
            room.requests(requests).unwrap();
            room.bytes()
        };
        let (shared, apart) = (taken(&[request(&one), request(&one)]), taken(&[request(&one), request(&other)]));
        assert!(shared < 46_000 && apart > 80_000, "{shared} {apart}");
        let error = room.requests(&[request(&one)]).unwrap_err();
        assert!(error.to_string().contains("--limit") && error.exit_code() == 2, "{error}");
    }
}
