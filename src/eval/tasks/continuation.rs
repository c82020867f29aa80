//! Tasks of one right continuation, which the model finds likely or not.

use super::{About, Task, TaskMetric};
use crate::eval::fields::Fields;
use crate::eval::metrics::Takes;
use crate::eval::outcome::Measure;
use crate::eval::request::{Answer, Request};
use crate::eval::shots::{Example, Shots};
use crate::{Error, Result};

/// A task with one [`Request::LogLikelihood`] for each document.
#[derive(Clone, Copy, Debug)]
pub struct SingleContinuation {
    /// What there is to say about it.
    pub about: About,
    /// The text before the continuation, and the continuation with the space that joins it to that.
    pub halves: fn(&Fields) -> Result<(String, String)>,
}

impl Task for SingleContinuation {
    fn about(&self) -> &About {
        &self.about
    }

    fn target(&self, document: &Fields) -> Result<String> {
        Ok((self.halves)(document)?.1)
    }

    fn example(&self, document: &Fields) -> Result<Example> {
        let (context, continuation) = (self.halves)(document)?;
        Ok(Example::new(context, continuation))
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
        let (context, continuation) = (self.halves)(document)?;
        Ok(vec![Request::LogLikelihood { context: shots.before(&context)?, continuation }])
    }

    fn judge(&self, _document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let Some(&Answer::LogLikelihood { log_likelihood, greedy }) = answers.first() else {
            return Err(Error::work(format!("{}: a continuation has no log-likelihood", self.about.name)));
        };
        let measure = |metric: &TaskMetric| {
            let Takes::Continuation(sum) = metric.takes else { return Err(self.about.misplaced(metric)) };
            Ok(Measure { sum: sum(f64::from(log_likelihood), greedy), weight: 1.0, chosen: None })
        };
        self.about.metrics.iter().map(measure).collect()
    }
}
