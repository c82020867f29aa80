//! What the first rows of conversations come to, before any work is done.

use serde::{Deserialize, Serialize};

use super::{Form, LossOn};
use crate::data::chunk;
use crate::data::marked::learned;
use crate::data::pack::{Carry, Packer, Shape};
use crate::data::separate::Ends;
use crate::data::source::TextSource;
use crate::data::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What conversations come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// What the rows hold.
    pub form: Form,
    /// The file of the chat template; absent where none is needed.
    pub template: Option<String>,
    /// What is learned.
    pub loss_on: LossOn,
    /// Rows looked at.
    pub rows: u64,
    /// Whether these are all.
    pub whole: bool,
    /// Sequences that they make.
    pub sequences: u64,
    /// Tokens in these.
    pub tokens: u64,
    /// Tokens that are learned.
    pub answer_tokens: u64,
    /// Rows passed over because no token of an answer is left in them.
    pub unanswered: u64,
    /// Rows cut off at the sequence length.
    pub truncated: u64,
}

/// Rows and bytes of text that are looked at.
const ROWS: u64 = 4000;
const BYTES: u64 = 16 << 20;

impl Survey {
    /// Of the first rows of `source`; `None` for plain text.
    ///
    /// # Errors
    /// Those of the source; Work where no row has a token of an answer.
    pub fn of(source: &TextSource, tokenizer: &Tokenizer, shape: &Shape) -> Result<Option<Self>> {
        let Some(chat) = source.chat() else { return Ok(None) };
        let ends = Ends::new(shape, tokenizer, true)?;
        let (mut packer, mut documents) = (Packer::new(*shape, 0, Carry::default()), source.documents());
        let mut whole = false;
        while packer.tally.documents < ROWS && documents.bytes_read() < BYTES && !whole {
            let rows = chunk::read(&mut documents, (ROWS - packer.tally.documents) as usize, shape.skips_empty())?;
            whole = rows.is_empty();
            packer.tally.documents += rows.len() as u64;
            chunk::encode(tokenizer, ends, &rows, shape.skips_empty())?.into_iter().for_each(|row| packer.take(row));
        }
        whole = whole || documents.next().is_none();
        let answer_tokens = packer.ready().drain(..).flatten().map(|run| learned(&run) as u64).sum();
        let tally = packer.tally;
        if tally.documents > 0 && tally.unanswered == tally.documents {
            return Err(unanswered(source, shape.seq_len));
        }
        Ok(Some(Self {
            form: chat.form,
            template: chat.template.as_ref().map(|template| template.name().to_owned()),
            loss_on: chat.loss_on,
            rows: tally.documents,
            whole,
            sequences: tally.sequences,
            tokens: tally.tokens,
            answer_tokens,
            unanswered: tally.unanswered,
            truncated: tally.truncated,
        }))
    }
}

/// The error for rows without a token to learn.
pub(in crate::data) fn unanswered(source: &TextSource, seq_len: usize) -> Error {
    let name = source.name();
    Error::work(format!(
        "{name}: no row has a token of an answer within {seq_len} tokens; give a longer seq_len, or other rows"
    ))
}
