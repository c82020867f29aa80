//! What a model is to go on with: beginnings of texts, or what conversations ask.

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::chat::{Asked, Learned};
use super::chunk;
use super::source::{BadRow, Document, TextSource};
use super::spoken::Spoken;
use super::tokenizer::{Special, Tokenizer};
use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// Which of a source's rows are taken, and how much of them.
#[derive(Clone, Copy, Debug)]
pub struct PromptOptions {
    /// Rows at most.
    pub limit: Option<usize>,
    /// Of a text its first tokens; all of them by default.
    pub tokens: Option<usize>,
    /// A prompt has fewer tokens than this: there must be room for one more.
    pub positions: usize,
}

/// What stands before an answer.
#[derive(Clone, Debug)]
enum Before {
    /// A text.
    Text(String),
    /// A row without its answer.
    Row(Asked),
}

/// One prompt.
#[derive(Clone, Debug)]
pub struct RowPrompt {
    /// Its tokens.
    pub ids: Vec<u32>,
    before: Before,
}

impl RowPrompt {
    /// Nothing but the token that begins a text.
    #[must_use]
    pub fn beginning(id: u32) -> Self {
        Self { ids: vec![id], before: Before::Text(String::new()) }
    }

    /// The row that the tokens `said` make of it: a `text`, `messages`, or a `prompt` and its `completion`.
    ///
    /// # Errors
    /// The tokenizer's.
    pub fn row(&self, tokenizer: &Tokenizer, said: &[u32]) -> Result<Map<String, Value>> {
        match &self.before {
            Before::Row(asked) => Ok(asked.answered(&tokenizer.decode(said, true)?)),
            Before::Text(before) => {
                let mut text = before.clone();
                let mut spoken = Spoken::after(tokenizer, &self.ids);
                for id in said {
                    text += &spoken.push(*id)?;
                }
                text += &spoken.finish()?;
                Ok(Map::from_iter([("text".to_owned(), text.into())]))
            }
        }
    }

    /// Whether its answer ends where the model says so, as one of a conversation has to.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        matches!(self.before, Before::Row(_))
    }

    /// Bytes that it takes, about.
    fn bytes(&self) -> u64 {
        let text = match &self.before {
            Before::Text(text) => text.len(),
            // as many letters again, and what holds them
            Before::Row(_) => 8 * self.ids.len() + 512,
        };
        (4 * self.ids.len() + text + 96) as u64
    }
}

/// The prompts of a source.
#[derive(Debug, Default)]
pub struct RowPrompts {
    /// In the order of the rows.
    pub all: Vec<RowPrompt>,
    /// Rows without text.
    pub empty: u64,
    /// Rows too long for the model, passed over because [`BadRow::Skip`] says so.
    pub too_long: u64,
    /// Bytes that they take, about.
    pub bytes: u64,
}

impl RowPrompts {
    /// Reads those of `source` into memory, where they may take `room` bytes.
    ///
    /// # Errors
    /// Request: more than that. Work: a row that cannot be read or is too long, named, unless [`BadRow::Skip`] says to
    /// pass over it; no prompt at all. Interrupted.
    pub fn read(
        source: &TextSource,
        tokenizer: &Tokenizer,
        options: &PromptOptions,
        room: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (mut found, mut documents, mut shown) = (Self::default(), source.documents(), 0);
        let most = options.limit.unwrap_or(usize::MAX);
        progress.begin(&format!("reading {}", source.name()), source.bytes(), Unit::Bytes);
        while found.all.len() < most {
            let chunk = chunk::read(&mut documents, most - found.all.len(), source.chat().is_none())?;
            if chunk.is_empty() {
                break;
            }
            let prompts: Vec<_> = chunk.par_iter().map(|document| of_document(document, tokenizer, options)).collect();
            for (prompt, document) in prompts.into_iter().zip(&chunk) {
                match prompt? {
                    Some(prompt) if prompt.ids.len() < options.positions => {
                        found.bytes += prompt.bytes();
                        found.all.push(prompt);
                    }
                    Some(_) if source.on_bad_row == BadRow::Skip => found.too_long += 1,
                    Some(prompt) => {
                        return Err(Error::work(format!(
                            "{}: a prompt of {} tokens, the model was made for {} with what it says; --on-bad-row \
                             skip passes over such rows",
                            document.place,
                            prompt.ids.len(),
                            options.positions
                        )));
                    }
                    None => found.empty += 1,
                }
            }
            if found.bytes > room {
                return Err(Error::request(format!(
                    "{}: its prompts take more than {} MiB of memory; --limit takes fewer of them",
                    source.name(),
                    room >> 20
                )));
            }
            progress.advance(documents.bytes_read() - shown);
            shown = documents.bytes_read();
        }
        progress.end();
        documents.passed_over().notes().iter().for_each(|note| progress.warn(note));
        match found.all.is_empty() {
            true => Err(Error::work(format!(
                "{}: no prompt: {} rows are empty, {} too long",
                source.name(),
                found.empty,
                found.too_long
            ))),
            false => Ok(found),
        }
    }
}

/// The prompt that a row is; `None` for one without text.
fn of_document(document: &Document, tokenizer: &Tokenizer, options: &PromptOptions) -> Result<Option<RowPrompt>> {
    interrupt::check()?;
    let encode = |special| tokenizer.encode(&document.text, special).context(|| &document.place);
    if let Some(told) = &document.told {
        let Learned::Answer(asked) = &told.learned else { return Ok(None) };
        let ids = encode(told.special)?;
        return Ok((!ids.is_empty()).then(|| RowPrompt { ids, before: Before::Row(asked.clone()) }));
    }
    if !chunk::has_text(document) {
        return Ok(None);
    }
    let mut ids = encode(Special::Default)?;
    let mut text = document.text.clone();
    if let Some(tokens) = options.tokens.filter(|tokens| *tokens < ids.len()) {
        ids.truncate(tokens);
        text = tokenizer.decode(&ids, true)?;
    }
    Ok((!ids.is_empty()).then_some(RowPrompt { ids, before: Before::Text(text) }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::chat::{Chat, Form, LossOn};
    use super::super::source::SourceOptions;
    use super::super::tokenizer::tests::bytes;
    use super::*;
    use crate::progress::Silent;

    fn read(rows: &str, form: Option<Form>, options: PromptOptions, on_bad_row: BadRow) -> Result<RowPrompts> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.jsonl");
        std::fs::write(&path, rows).unwrap();
        let mut source = TextSource::open(&path, &SourceOptions { on_bad_row, ..SourceOptions::default() }).unwrap();
        if let Some(form) = form {
            assert_eq!(source.prompt_form().unwrap(), form);
            let chat = Chat { form, template: None, loss_on: LossOn::Answers, eos: None, asks: true };
            source = source.talking(Arc::new(chat));
        }
        RowPrompts::read(&source, &bytes(), &options, 1 << 20, &Silent)
    }

    const ALL: PromptOptions = PromptOptions { limit: None, tokens: None, positions: 100 };

    /// What a prompt becomes when `said` is said.
    fn row(prompt: &RowPrompt, said: &str) -> Value {
        let tokenizer = bytes();
        Value::Object(prompt.row(&tokenizer, &tokenizer.encode(said, Special::None).unwrap()).unwrap())
    }

    #[test]
    fn texts_go_on() {
        let rows = "{\"text\":\"ab\"}\n{\"text\":\" \"}\n{\"text\":\"cdef\"}\n";
        let found = read(rows, None, ALL, BadRow::Error).unwrap();
        assert_eq!((found.all.len(), found.empty), (2, 1));
        assert_eq!(row(&found.all[1], "é!"), serde_json::json!({"text": "cdefé!"}));
        // one BOS and two letters
        let cut = read(rows, None, PromptOptions { tokens: Some(3), limit: Some(2), ..ALL }, BadRow::Error).unwrap();
        assert_eq!(row(&cut.all[1], "x"), serde_json::json!({"text": "cdx"}));
        assert_eq!(row(&RowPrompt::beginning(0), "x"), serde_json::json!({"text": "x"}));
    }

    #[test]
    fn prompts_get_completions() {
        let rows = "{\"prompt\":\"ab\"}\n{\"prompt\":\"c\",\"completion\":\"old\"}\n";
        let found = read(rows, Some(Form::PromptCompletion), ALL, BadRow::Error).unwrap();
        assert_eq!(row(&found.all[1], "new"), serde_json::json!({"prompt": "c", "completion": "new"}));
        assert!(found.all[0].is_asked());
    }

    #[test]
    fn what_does_not_fit_is_told_or_counted() {
        let rows = "{\"text\":\"ab\"}\n{\"text\":\"abcdefgh\"}\n";
        let short = PromptOptions { positions: 5, ..ALL };
        let error = read(rows, None, short, BadRow::Error).unwrap_err().to_string();
        assert!(error.contains("p.jsonl line 2: a prompt of 9 tokens") && error.contains("made for 5"), "{error}");
        let found = read(rows, None, short, BadRow::Skip).unwrap();
        assert_eq!((found.all.len(), found.too_long), (1, 1));
        let error = read("{\"text\":\"\"}\n", None, ALL, BadRow::Error).unwrap_err().to_string();
        assert!(error.contains("no prompt: 1 rows are empty"), "{error}");
    }
}
