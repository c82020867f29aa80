//! A question with choices.

use serde_json::Value;

use crate::{Error, Result};

/// A question with choices, before any examples are put in front of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What comes before the answer: one text, or one a choice where the choices fill a gap.
    pub contexts: Vec<String>,
    /// The answers, or the one ending that follows every filled gap.
    pub answers: Vec<String>,
    /// Length of each choice in characters, what `acc_norm` divides by.
    pub lengths: Vec<usize>,
    /// The right choice.
    pub gold: usize,
    /// The reference's `str(target)`, part of its hashes.
    pub target: String,
}

impl Question {
    /// One context, several answers; the target is the right one's number.
    pub(super) fn new(context: String, answers: Vec<String>, gold: usize, target: &Value) -> Result<Self> {
        if gold >= answers.len() {
            return Err(Error::work(format!("the right answer is number {gold} of {} choices", answers.len())));
        }
        let target = match target {
            Value::String(text) => text.clone(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            other => other.to_string(),
        };
        let lengths = answers.iter().map(|answer| answer.chars().count()).collect();
        Ok(Self { contexts: vec![context], answers, lengths, gold, target })
    }

    /// Number of choices.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.lengths.len()
    }

    /// Text before choice `index`.
    #[must_use]
    pub fn context(&self, index: usize) -> &str {
        &self.contexts[index.min(self.contexts.len() - 1)]
    }

    /// Text of choice `index`, without the space that joins it to its context.
    #[must_use]
    pub fn answer(&self, index: usize) -> &str {
        &self.answers[index.min(self.answers.len() - 1)]
    }

    /// The question with its right answer, as an example for another one.
    #[must_use]
    pub fn solved(&self) -> String {
        let (context, answer) = (self.context(self.gold), self.answer(self.gold));
        // the reference leaves out delimiters where there is no answer
        if answer.is_empty() { context.to_owned() } else { format!("{context} {answer}\n\n") }
    }
}
