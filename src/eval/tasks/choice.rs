//! Tasks of questions with choices, of which the likeliest is taken.

use serde_json::{Value, json};

use super::{About, Task};
use crate::eval::fields::{Fields, texts, value};
use crate::eval::metrics::Takes;
use crate::eval::outcome::{Measure, first_greatest};
use crate::eval::request::{Answer, Prompt, Request};
use crate::eval::shots::{Example, Shots};
use crate::{Error, Result};

/// A task of questions with choices: one [`Request::LogLikelihood`] for each.
#[derive(Clone, Copy, Debug)]
pub struct MultipleChoice {
    /// What there is to say about it.
    pub about: About,
    /// Adds the fields the reference's preprocessing adds to the row.
    pub prepare: fn(Fields) -> Result<Fields>,
    /// The question of a prepared row.
    pub question: fn(&Fields) -> Result<Question>,
    /// Text in front of everything, made from the subject.
    pub description: fn(&str) -> String,
}

impl MultipleChoice {
    /// Questions whose rows need no preparation and that have no description.
    pub(super) const fn plain(about: About, question: fn(&Fields) -> Result<Question>) -> Self {
        Self { about, prepare: Ok, question, description: |_| String::new() }
    }
}

impl Task for MultipleChoice {
    fn about(&self) -> &About {
        &self.about
    }

    fn prepare(&self, row: Fields) -> Result<Fields> {
        (self.prepare)(row)
    }

    fn description(&self, subject: &str) -> String {
        (self.description)(subject)
    }

    fn target(&self, document: &Fields) -> Result<String> {
        Ok((self.question)(document)?.target)
    }

    fn example(&self, document: &Fields) -> Result<Example> {
        Ok((self.question)(document)?.solved())
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
        let question = (self.question)(document)?;
        let contexts: Vec<Prompt> =
            question.contexts.iter().map(|context| shots.before(context)).collect::<Result<_>>()?;
        let request = |index: usize| Request::LogLikelihood {
            context: contexts[index.min(contexts.len() - 1)].clone(),
            continuation: format!("{}{}", shots.delimiter(), question.answer(index)),
        };
        Ok((0..question.choices()).map(request).collect())
    }

    fn gold(&self, document: &Fields) -> Result<Option<usize>> {
        Ok(Some((self.question)(document)?.gold))
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let question = (self.question)(document)?;
        let likelihoods: Vec<f64> = answers.iter().filter_map(Answer::log_likelihood).collect();
        let measure = |metric: &super::TaskMetric| {
            let score: fn(f64, usize) -> f64 = match metric.takes {
                Takes::Choice(score) => score,
                Takes::Class => |log_likelihood, _| log_likelihood,
                _ => return Err(self.about.misplaced(metric)),
            };
            let scores: Vec<f64> = likelihoods
                .iter()
                .zip(&question.lengths)
                .map(|(likelihood, length)| score(*likelihood, *length))
                .collect();
            let chosen = first_greatest(&scores);
            if let (Takes::Class, Some(chosen)) = (metric.takes, chosen) {
                return Ok(Measure { sum: question.gold as f64, weight: chosen as f64, chosen: None });
            }
            Ok(Measure { chosen, ..Measure::right(chosen == Some(question.gold)) })
        };
        self.about.metrics.iter().map(measure).collect()
    }
}

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
    ///
    /// # Errors
    /// A right answer that is none of them.
    pub fn new(context: String, answers: Vec<String>, gold: usize, target: &Value) -> Result<Self> {
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
    pub fn solved(&self) -> Example {
        Example::new(self.context(self.gold), self.answer(self.gold))
    }
}

/// Choices in a struct of texts and labels; the key is a label.
pub(super) fn labeled(context: String, row: &Fields, key: &str) -> Result<Question> {
    let choices = value(row, "choices")?;
    let labels = texts(choices.get("label"), "choices.label")?;
    let Some(gold) = labels.iter().position(|label| label == key) else {
        return Err(Error::work(format!("field answerKey is {key:?}, the labels are {labels:?}")));
    };
    Question::new(context, texts(choices.get("text"), "choices.text")?, gold, &json!(gold))
}
