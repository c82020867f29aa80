//! Documents read and tokenised by the handful, so that tokenising runs on all threads.

use super::chat::{Learned, Told};
use super::documents::Documents;
use super::marked::given;
use super::separate::Ends;
use super::source::Document;
use super::tokenizer::{Special, Tokenizer};
use crate::{Context, Result, interrupt};

/// Documents of a chunk that are tokenised, at most.
const DOCUMENTS: usize = 256;

/// All documents of a chunk at most, with those that are passed over because they are empty.
const ALL: usize = 4096;

/// Bytes of text of a chunk, about.
const BYTES: usize = 4 << 20;

/// The next documents, `most` at most, and empty ones beside them if `skips_empty`; none at the end of the source.
///
/// # Errors
/// Those of the source, and [`crate::Error::Interrupted`].
pub(super) fn read(documents: &mut Documents, most: usize, skips_empty: bool) -> Result<Vec<Document>> {
    interrupt::check()?;
    let (mut chunk, mut wanted, mut bytes) = (Vec::new(), most.min(DOCUMENTS), 0);
    while wanted > 0 && chunk.len() < ALL && bytes < BYTES {
        let Some(document) = documents.next().transpose()? else { break };
        wanted -= usize::from(!skips_empty || has_text(&document));
        bytes += document.text.len();
        chunk.push(document);
    }
    Ok(chunk)
}

/// The token ids of each document, with the special tokens that the tokenizer adds by itself, and `ends`; no tokens for
/// an empty one if `skips_empty`.
///
/// # Errors
/// The tokenizer's, naming the document.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    ends: Ends,
    chunk: &[Document],
    skips_empty: bool,
) -> Result<Vec<Vec<u32>>> {
    use rayon::prelude::*;
    let encode = |document: &Document| -> Result<Vec<u32>> {
        if skips_empty && !has_text(document) {
            return Ok(Vec::new());
        }
        interrupt::check()?;
        let tokens = match &document.told {
            None => tokenizer.encode(&document.text, Special::Default),
            Some(told) => encode_told(tokenizer, &document.text, told),
        };
        let mut tokens = tokens.context(|| &document.place)?;
        ends.put(&mut tokens);
        Ok(tokens)
    };
    let encoded: Vec<Result<Vec<u32>>> = chunk.par_iter().map(encode).collect();
    encoded.into_iter().collect()
}

/// The tokens of a conversation, those that are not learned marked as given.
fn encode_told(tokenizer: &Tokenizer, text: &str, told: &Told) -> Result<Vec<u32>> {
    let mut tokens = match &told.learned {
        Learned::Parts(parts) => {
            let (mut tokens, learned) = tokenizer.encode_parts(text, parts)?;
            tokens
                .iter_mut()
                .zip(learned)
                .filter(|(_, learned)| !learned)
                .for_each(|(token, _)| *token = given(*token));
            return Ok(tokens);
        }
        Learned::All | Learned::After(_) | Learned::Answer(_) => tokenizer.encode(text, told.special)?,
    };
    if let Learned::After(prompt) = &told.learned {
        let before = tokenizer.encode(prompt, told.special)?;
        let same = tokens.iter().zip(&before).take_while(|(token, before)| token == before).count();
        tokens[..same].iter_mut().for_each(|token| *token = given(*token));
    }
    Ok(tokens)
}

/// Whether there is any text in a document.
pub(super) fn has_text(document: &Document) -> bool {
    !document.text.trim().is_empty()
}
