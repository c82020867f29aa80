//! Tasks that a model answers in its own words.

use super::{About, Task, TaskMetric};
use crate::eval::fields::Fields;
use crate::eval::metrics::Takes;
use crate::eval::outcome::Measure;
use crate::eval::request::{Answer, Completion, Request};
use crate::eval::shots::{Example, Shots};
use crate::{Error, Result};

/// What the reference's filters say where they find nothing.
pub(super) const INVALID: &str = "[invalid]";

/// A task with one [`Request::GenerateUntil`] for each document.
#[derive(Clone, Copy, Debug)]
pub struct Generation {
    /// What there is to say about it.
    pub about: About,
    /// The text before the answer.
    pub context: fn(&Fields) -> Result<String>,
    /// The right answer.
    pub answer: fn(&Fields) -> Result<String>,
    /// Texts before the first of which an answer ends.
    pub until: &'static [&'static str],
    /// Tokens at most, where the task says so.
    pub max_gen_toks: Option<usize>,
    /// From what a filter took of the model's answer and the right one to the score, 1 at best.
    pub score: fn(&str, &str) -> f64,
}

impl Task for Generation {
    fn about(&self) -> &About {
        &self.about
    }

    fn target(&self, document: &Fields) -> Result<String> {
        (self.answer)(document)
    }

    fn example(&self, document: &Fields) -> Result<Example> {
        Ok(Example::new((self.context)(document)?, (self.answer)(document)?))
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
        let context = shots.before(&(self.context)(document)?)?;
        Ok(vec![Request::GenerateUntil { context, until: self.until, max_gen_toks: self.max_gen_toks, draws: None }])
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let Some(Answer::Text(Completion { text: said, .. })) = answers.first() else {
            return Err(Error::work(format!("{}: nothing was said", self.about.name)));
        };
        let sum = (self.score)(said, &(self.answer)(document)?);
        let measure = |metric: &TaskMetric| match metric.takes {
            Takes::Generated => Ok(Measure { sum, weight: 1.0, chosen: None }),
            _ => Err(self.about.misplaced(metric)),
        };
        self.about.metrics.iter().map(measure).collect()
    }
}
