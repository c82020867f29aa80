//! Conversations as text, and which parts of that text are answers.
//!
//! [`Template`] renders messages as transformers does; `form` reads them from the rows of a file; [`Chat`] makes of a
//! row the text that is trained on, and says what of it is to be learned. Masks are TRL's: of messages, what
//! `{% generation %}` of the template gives; of a prompt and its completion, the tokens behind those that the prompt
//! alone has. Where a template has no such block, an answer is what the text of the messages up to it has more than the
//! text of those before it.

mod asked;
mod environment;
mod form;
mod jinja;
mod python;
mod stack;
mod survey;
mod template;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(super) use self::asked::Asked;
pub use self::form::Form;
use self::form::{Talk, read};
pub(crate) use self::jinja::PromptTemplate;
pub(crate) use self::python::{float as python_float, literal_of as python_quoted};
pub use self::survey::Survey;
pub(super) use self::survey::unanswered;
pub use self::template::Template;
use super::parts::LONGEST_SPANNED;
use super::rows::Row;
use super::tokenizer::Special;
use crate::{Error, Result};

/// Which tokens of a conversation the loss counts (`--loss-on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossOn {
    /// Those of the answers.
    #[default]
    Answers,
    /// All.
    All,
}

/// How the rows of a source become conversations and these become text.
#[derive(Debug)]
pub struct Chat {
    /// What the rows hold, no plain text.
    pub form: Form,
    /// The model's template; texts of prompts and completions need none.
    pub template: Option<Template>,
    /// What is learned.
    pub loss_on: LossOn,
    /// What ends a completion that is a text.
    pub eos: Option<String>,
    /// Whether rows are what a model is asked, so that their answers do not count.
    pub asks: bool,
}

/// How a document that was a conversation is tokenized, and what of it is learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) special: Special,
    pub(super) learned: Learned,
}

/// What is learned of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    All,
    /// These bytes.
    Parts(Vec<Range<usize>>),
    /// The tokens that follow those of this text.
    After(String),
    /// What a model has yet to say.
    Answer(Asked),
}

impl Chat {
    /// The text of a row.
    ///
    /// # Errors
    /// Work: what is wrong with the row.
    pub(super) fn tell(&self, row: &mut Row) -> Result<(String, Told)> {
        if self.asks {
            return self.ask(row);
        }
        let talk = read(self.form, &mut row.fields).map_err(|fault| row.fault(&fault))?;
        let told = self.told(talk).map_err(|error| row.fault(&error.to_string()))?;
        let spanned = !matches!(told.1.learned, Learned::All);
        if spanned && told.0.len() > LONGEST_SPANNED {
            let (length, most) = (told.0.len() >> 10, LONGEST_SPANNED >> 10);
            return Err(row.fault(&format!("a conversation of {length} KiB, expected at most {most}")));
        }
        Ok(told)
    }

    fn told(&self, talk: Talk) -> Result<(String, Told)> {
        let (messages, answer, tools, more) = match talk {
            Talk::Texts { prompt, completion } => return Ok(self.texts(prompt, &completion)),
            Talk::Messages { messages, answer, tools, more } => (messages, answer, tools, more),
        };
        let template = self.template.as_ref().ok_or_else(no_template)?;
        let render = |messages: &[Value], prompts: bool| template.render(messages, tools.as_ref(), &more, prompts);
        let (text, parts) = render(&messages, false)?;
        let learned = match (self.loss_on, answer) {
            (LossOn::All, _) => Learned::All,
            (LossOn::Answers, Some(answer)) => Learned::After(render(&messages[..answer], true)?.0),
            (LossOn::Answers, None) if template.says_answers() => Learned::Parts(parts),
            (LossOn::Answers, None) => Learned::Parts(answers(&messages, &text, &|messages, prompts| {
                render(messages, prompts).map(|(text, _)| text)
            })?),
        };
        Ok((text, Told { special: Special::None, learned }))
    }

    /// A prompt and its completion as one text, which ends as the model's texts do.
    fn texts(&self, prompt: String, completion: &str) -> (String, Told) {
        let mut text = format!("{prompt}{completion}");
        if let Some(eos) = self.eos.as_ref().filter(|eos| !completion.ends_with(eos.as_str())) {
            text.push_str(eos);
        }
        let learned = if self.loss_on == LossOn::All { Learned::All } else { Learned::After(prompt) };
        (text, Told { special: Special::Default, learned })
    }

    /// Refuses rows that need a template where there is none.
    ///
    /// # Errors
    /// Request: as said.
    pub fn check(&self) -> Result<()> {
        if self.template.is_none() && self.form != Form::PromptCompletion { Err(no_template()) } else { Ok(()) }
    }
}

fn no_template() -> Error {
    Error::request("the model has no chat template: name a file with one by --chat-template")
}

/// Where the assistant's answers stand in `text`, by what each adds to the text of what comes before it.
///
/// # Errors
/// Work: a template that writes a conversation's beginning otherwise than the beginning of the whole.
fn answers(
    messages: &[Value],
    text: &str,
    render: &dyn Fn(&[Value], bool) -> Result<String>,
) -> Result<Vec<Range<usize>>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let is_answer = |message: &Value| message.get("role").and_then(Value::as_str) == Some("assistant");
    for (at, _) in messages.iter().enumerate().filter(|(_, message)| is_answer(message)) {
        let place = at + 1;
        if at == 0 {
            return Err(Error::work(
                "the first message is an answer: where it begins is said by no template without a `generation` block",
            ));
        }
        let (before, after) = (render(&messages[..at], true)?, render(&messages[..=at], false)?);
        if !after.starts_with(&before) || !text.starts_with(&after) {
            return Err(Error::work(format!(
                "the chat template writes message {place} otherwise once others follow, or its beginning otherwise \
                 than what it asks with, so that its tokens cannot be told; give a template with `generation` blocks \
                 by --chat-template, or --loss-on all"
            )));
        }
        parts.push(before.len()..after.len());
    }
    Ok(parts)
}

/// What the first rows of a file say about its form: a text where any of them has the field of the text. Rows that
/// only `asks` may lack their answers.
pub(super) fn recognized<'a>(
    rows: impl Iterator<Item = &'a Map<String, Value>>,
    text_fields: &[String],
    asks: bool,
) -> Form {
    let mut form = None;
    for fields in rows {
        if fields.keys().any(|name| text_fields.contains(name)) {
            return Form::Text;
        }
        form = form.or_else(|| if asks { Form::of_prompt(fields) } else { Form::of(fields) });
    }
    form.unwrap_or(Form::Text)
}
