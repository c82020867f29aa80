//! The model's chat template around questions, as lm-evaluation-harness 0.4.13 applies it.

use std::cell::Cell;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::python::{rstrip, strip};
use super::settings::EvalSettings;
use super::shots::Message;
use crate::data::Tokenizer;
use crate::data::chat::Template;
use crate::{Context, Error, Result};

/// What transformers puts behind a message that is to be continued, to find its end again.
const END: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A chat template and how it is applied.
#[derive(Debug)]
pub struct AppliedTemplate {
    template: Template,
    is_multiturn: bool,
    /// Whether it had no place for what the system says.
    pub(super) is_systemless: Cell<bool>,
}

impl AppliedTemplate {
    /// That of the checkpoint in `directory`, where `settings` ask for one.
    ///
    /// # Errors
    /// Request: there is none, or none of that name. Work: one that is not Jinja.
    pub fn open(settings: &EvalSettings, directory: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some(name) = settings.chat_template() else { return Ok(None) };
        let template = Template::named(directory, name, tokenizer).context(|| "--apply-chat-template")?;
        let template = template.ok_or_else(|| {
            Error::request(format!(
                "--apply-chat-template: {} has no chat template, neither chat_template.jinja nor chat_template in \
                 tokenizer_config.json",
                directory.display()
            ))
        })?;
        Ok(Some(Self { template, is_multiturn: settings.is_multiturn(), is_systemless: Cell::new(false) }))
    }

    /// The template's text.
    pub(super) fn source(&self) -> &str {
        self.template.source()
    }

    /// The text of a conversation: up to where the assistant speaks, or, where the last message is the assistant's, up
    /// to that one's end. A template that refuses what the system says gets the others alone.
    ///
    /// # Errors
    /// Work: what the template says is wrong, its file named.
    pub(super) fn text(&self, messages: &[Message]) -> Result<String> {
        let mut messages = if self.is_multiturn { turns(messages) } else { one_turn(messages) };
        self.render(&messages)
            .or_else(|fault| {
                let before = messages.len();
                messages.retain(|message| message["role"] != "system");
                if messages.len() == before {
                    return Err(fault);
                }
                self.is_systemless.set(true);
                self.render(&messages)
            })
            .context(|| self.template.name().to_owned())
    }

    fn render(&self, messages: &[Value]) -> Result<String> {
        let render = |messages: &[Value], prompts: bool| {
            self.template.render(messages, None, &Map::new(), prompts).map(|(text, _)| text)
        };
        let Some(last) = messages.last().filter(|last| last["role"] == "assistant") else {
            return render(messages, true);
        };
        let content = last["content"].as_str().unwrap_or_default();
        let mut messages = messages.to_vec();
        if let Some(last) = messages.last_mut() {
            last["content"] = json!(format!("{content}{END}"));
        }
        let mut text = render(&messages, false)?;
        let end = text.rfind(strip(END)).filter(|_| text.contains(strip(content)));
        let end = end.ok_or_else(|| Error::work("the chat template leaves out what the answer begins with"))?;
        let is_whole = text[end..].starts_with(END);
        text.truncate(end);
        if !is_whole {
            text.truncate(rstrip(&text).len());
        }
        Ok(text)
    }
}

fn turn(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Each message by itself.
fn turns(messages: &[Message]) -> Vec<Value> {
    messages.iter().map(|message| turn(message.role, &message.content)).collect()
}

/// What the system says; all else in one message of the user's, but for what the answer begins with.
fn one_turn(messages: &[Message]) -> Vec<Value> {
    let (mut turns, mut rest) = (Vec::new(), messages);
    if let [system, others @ ..] = rest
        && system.role == "system"
    {
        turns.push(turn(system.role, &system.content));
        rest = others;
    }
    let (mut asked, mut answer) = (rest, None);
    if let [others @ .., last] = rest
        && last.role == "assistant"
    {
        (asked, answer) = (others, Some(turn(last.role, &last.content)));
    }
    let mut text: String = asked.iter().map(Message::text).collect();
    // nothing divides the question from what is not there
    text.truncate(text.len() - asked.last().map_or(0, |last| last.delimiter.len()));
    turns.push(turn("user", &text));
    turns.extend(answer);
    turns
}
