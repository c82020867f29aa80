//! What rows ask of a model, and the rows that its answers make of them.

use serde_json::{Map, Value, json};

use super::form::{Talk, read_prompt};
use super::{Chat, Learned, Told, no_template};
use crate::Result;
use crate::data::rows::Row;
use crate::data::tokenizer::Special;

/// A row without its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::data) struct Asked {
    row: Map<String, Value>,
    /// The field of the messages that the answer follows; without one the answer is the `completion` of a text.
    messages: Option<&'static str>,
}

impl Asked {
    /// The row with `answer`, in a form that a healing reads.
    pub(in crate::data) fn answered(&self, answer: &str) -> Map<String, Value> {
        let mut row = self.row.clone();
        match self.messages.and_then(|name| row.get_mut(name)).and_then(Value::as_array_mut) {
            Some(messages) => messages.push(json!({"role": "assistant", "content": answer})),
            None => drop(row.insert("completion".to_owned(), json!(answer))),
        }
        row
    }
}

impl Chat {
    /// The text that asks what a row asks, and the row without its answer.
    ///
    /// # Errors
    /// Work: what is wrong with the row.
    pub(super) fn ask(&self, row: &mut Row) -> Result<(String, Told)> {
        let talk = read_prompt(self.form, &mut row.fields).map_err(|fault| row.fault(&fault))?;
        self.asked(talk).map_err(|error| row.fault(&error.to_string()))
    }

    fn asked(&self, talk: Talk) -> Result<(String, Told)> {
        let (text, special, row, messages) = match talk {
            Talk::Texts { prompt, .. } => {
                let row = Map::from_iter([("prompt".to_owned(), json!(prompt))]);
                (prompt, Special::Default, row, None)
            }
            Talk::Messages { messages, tools, more, .. } => {
                let template = self.template.as_ref().ok_or_else(no_template)?;
                let (text, _) = template.render(&messages, tools.as_ref(), &more, true)?;
                let mut row = Map::from_iter([("messages".to_owned(), Value::Array(messages))]);
                row.extend(tools.map(|tools| ("tools".to_owned(), tools)));
                if !more.is_empty() {
                    row.insert("chat_template_kwargs".to_owned(), Value::Object(more));
                }
                (text, Special::None, row, Some("messages"))
            }
        };
        Ok((text, Told { special, learned: Learned::Answer(Asked { row, messages }) }))
    }
}
