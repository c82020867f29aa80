//! What stands in front of a question: what the system says, the task's description, solved examples. As plain text, or
//! as the messages of a conversation, in the rules of lm-evaluation-harness 0.4.13 (`fewshot_context`,
//! `build_qa_turn`).

use std::sync::Arc;

use super::chat::AppliedTemplate;
use super::python::is_space;
use super::request::Prompt;
use super::tasks::About;
use crate::Result;

/// A document with its right answer, to stand in front of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What is asked.
    pub question: String,
    /// What is right, without what divides it from the question; empty where the question ends in it.
    pub answer: String,
    /// What the answer begins with, where that is not the task's own.
    pub prefix: Option<String>,
}

impl Example {
    /// Of a question and its right answer.
    #[must_use]
    pub fn new(question: impl Into<String>, answer: impl Into<String>) -> Self {
        Self { question: question.into(), answer: answer.into(), prefix: None }
    }

    /// UTF-8 bytes of both.
    pub(super) fn bytes(&self) -> usize {
        self.question.len() + self.answer.len() + self.prefix.as_ref().map_or(0, String::len)
    }

    /// Its messages.
    pub(super) fn messages(&self, about: &About) -> Vec<Message> {
        let own = [about.target_delimiter, about.shots_delimiter];
        let prefix = self.prefix.as_deref().unwrap_or(about.gen_prefix);
        self.begun(prefix, about.example_delimiters.unwrap_or(own))
    }

    /// Its messages, with what stands behind the question and behind the answer.
    fn begun(&self, prefix: &str, [behind_question, behind_answer]: [&'static str; 2]) -> Vec<Message> {
        let is_answered = !self.answer.is_empty();
        let divides = if prefix.is_empty() { is_answered } else { is_dense(&self.question, prefix) };
        let delimiter = if divides { behind_question } else { "" };
        let mut messages = vec![Message::new("user", &*self.question, delimiter)];
        if is_answered {
            let answer = joined(prefix, &self.answer, " ");
            messages.push(Message::new("assistant", answer, behind_answer));
        } else if !prefix.is_empty() {
            messages.push(Message::new("assistant", prefix, ""));
        }
        messages
    }
}

/// A message of a conversation, and what follows it where there is plain text instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) role: &'static str,
    pub(super) content: String,
    pub(super) delimiter: &'static str,
}

impl Message {
    fn new(role: &'static str, content: impl Into<String>, delimiter: &'static str) -> Self {
        Self { role, content: content.into(), delimiter }
    }

    /// As plain text.
    pub(super) fn text(&self) -> String {
        format!("{}{}", self.content, self.delimiter)
    }
}

/// The message in front of all others: what the system says and the task's description, if there are any.
pub(super) fn system(instruction: &str, description: &str, about: &About) -> Option<Message> {
    let text = joined(instruction, description, about.shots_delimiter);
    (!text.is_empty()).then(|| Message::new("system", text, ""))
}

/// Neither ends or begins with white space where the two meet.
fn is_dense(first: &str, second: &str) -> bool {
    let (Some(last), Some(next)) = (first.chars().next_back(), second.chars().next()) else { return false };
    !is_space(last) && !is_space(next)
}

/// Both texts, with `delimiter` between them unless there is white space.
fn joined(first: &str, second: &str, delimiter: &str) -> String {
    format!("{first}{}{second}", if is_dense(first, second) { delimiter } else { "" })
}

/// What stands in front of one document's questions.
#[derive(Debug)]
pub struct Shots<'a> {
    about: &'a About,
    prefix: String,
    front: Front<'a>,
}

#[derive(Debug)]
enum Front<'a> {
    /// A text, which documents may share.
    Text(Arc<str>),
    /// Messages, for a template.
    Messages(&'a AppliedTemplate, Vec<Message>),
}

impl<'a> Shots<'a> {
    /// A text in front of the questions of a task.
    #[must_use]
    pub fn text(about: &'a About, text: impl Into<Arc<str>>) -> Self {
        Self { about, prefix: about.gen_prefix.to_owned(), front: Front::Text(text.into()) }
    }

    /// The same, the answer beginning with `prefix`.
    pub(super) fn begun(self, prefix: String) -> Self {
        Self { prefix, ..self }
    }

    /// Messages in front of them.
    pub(super) fn messages(about: &'a About, chat: &'a AppliedTemplate, messages: Vec<Message>) -> Self {
        Self { about, prefix: about.gen_prefix.to_owned(), front: Front::Messages(chat, messages) }
    }

    /// What the model reads of `question`: all up to where its answer begins.
    ///
    /// # Errors
    /// Work: a chat template that refuses it.
    pub fn before(&self, question: &str) -> Result<Prompt> {
        self.put(question, self.about.target_delimiter)
    }

    /// The same of a choice that is a whole question: what divides it from its ending stands in that.
    pub(super) fn before_whole(&self, choice: &str) -> Result<Prompt> {
        self.put(choice, "")
    }

    fn put(&self, question: &str, delimiter: &'static str) -> Result<Prompt> {
        let unsolved = Example::new(question, "").begun(&self.prefix, [delimiter, ""]);
        match &self.front {
            Front::Text(text) => {
                let own: String = unsolved.iter().map(Message::text).collect();
                Ok(Prompt { shots: text.clone(), own: own.into() })
            }
            Front::Messages(chat, messages) => {
                let own = chat.text(&[messages.as_slice(), &unsolved].concat())?;
                Ok(Prompt { shots: Arc::from(""), own: own.into() })
            }
        }
    }

    /// What divides the question from each of its choices: nothing in a conversation, whose template does that, unless
    /// the answer was begun.
    #[must_use]
    pub fn delimiter(&self) -> &'static str {
        let prefix = self.about.gen_prefix;
        let is_begun = prefix.chars().next_back().is_some_and(|last| !is_space(last));
        match self.front {
            Front::Messages(..) if !is_begun => "",
            _ => self.about.target_delimiter,
        }
    }
}

#[cfg(test)]
mod tests;
