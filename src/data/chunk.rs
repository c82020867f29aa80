//! Documents read and tokenised by the handful, so that tokenising runs on all threads.

use super::documents::Documents;
use super::separate::Ends;
use super::source::Document;
use super::tokenizer::{Special, Tokenizer};
use crate::{Context, Result, interrupt};

/// Documents of a chunk, at most.
const DOCUMENTS: usize = 256;

/// Bytes of text of a chunk, about.
const BYTES: usize = 4 << 20;

/// The next documents, `most` at most; none at the end of the source.
///
/// # Errors
/// Those of the source, and [`crate::Error::Interrupted`].
pub(super) fn read(documents: &mut Documents, most: usize) -> Result<Vec<Document>> {
    interrupt::check()?;
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < most.min(DOCUMENTS) && bytes < BYTES {
        let Some(document) = documents.next().transpose()? else { break };
        bytes += document.text.len();
        chunk.push(document);
    }
    Ok(chunk)
}

/// The token ids of each document, with the special tokens that the tokenizer adds by itself, and `ends`.
///
/// # Errors
/// The tokenizer's, naming the document.
pub(super) fn encode(tokenizer: &Tokenizer, ends: Ends, chunk: &[Document]) -> Result<Vec<Vec<u32>>> {
    use rayon::prelude::*;
    let encode = |document: &Document| -> Result<Vec<u32>> {
        interrupt::check()?;
        let mut tokens = tokenizer.encode(&document.text, Special::Default).context(|| &document.place)?;
        ends.put(&mut tokens);
        Ok(tokens)
    };
    let encoded: Vec<Result<Vec<u32>>> = chunk.par_iter().map(encode).collect();
    encoded.into_iter().collect()
}

/// Whether there is any text in a document.
pub(super) fn has_text(document: &Document) -> bool {
    !document.text.trim().is_empty()
}
