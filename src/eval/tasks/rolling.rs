//! Tasks of texts whose every token is predicted.

use super::{About, Task, TaskMetric};
use crate::eval::fields::{Fields, text};
use crate::eval::metrics::{Takes, TextSums};
use crate::eval::outcome::Measure;
use crate::eval::python::words;
use crate::eval::request::{Answer, Request};
use crate::eval::shots::{Example, Shots};
use crate::{Error, Result};

/// A task of texts: one [`Request::LogLikelihoodRolling`] for each. Perplexities are divided by the words and bytes of
/// the text before any tidying.
#[derive(Clone, Copy, Debug)]
pub struct Rolling {
    /// What there is to say about it.
    pub about: About,
    /// Prepares the row.
    pub prepare: fn(Fields) -> Result<Fields>,
    /// The field with the text.
    pub field: &'static str,
    /// Tidies the text that is predicted.
    pub tidy: fn(&str) -> String,
}

impl Task for Rolling {
    fn about(&self) -> &About {
        &self.about
    }

    fn prepare(&self, row: Fields) -> Result<Fields> {
        (self.prepare)(row)
    }

    fn target(&self, document: &Fields) -> Result<String> {
        Ok((self.tidy)(text(document, self.field)?))
    }

    fn example(&self, _document: &Fields) -> Result<Example> {
        Err(Error::request(format!("{}: a text takes no examples in front", self.about.name)))
    }

    fn requests(&self, document: &Fields, _shots: &Shots<'_>) -> Result<Vec<Request>> {
        Ok(vec![Request::LogLikelihoodRolling { text: self.target(document)? }])
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let original = text(document, self.field)?;
        let Some(Answer::Rolling { log_likelihood, own, tokens }) = answers.first() else {
            return Err(Error::work(format!("{}: a text has no log-likelihood", self.about.name)));
        };
        let (log_likelihood, own, tokens) = (*log_likelihood, *own, *tokens);
        let sums = TextSums { log_likelihood, own, tokens, words: words(original), bytes: original.len() };
        let measure = |metric: &TaskMetric| {
            let Takes::Text(parts) = metric.takes else { return Err(self.about.misplaced(metric)) };
            let (sum, weight) = parts(&sums);
            Ok(Measure { sum, weight, chosen: None })
        };
        self.about.metrics.iter().map(measure).collect()
    }
}
