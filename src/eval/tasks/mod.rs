//! The table of tasks. A file is all there is to a task: where its data lie, what it asks of the model about a row of
//! them, how it judges the answers. Prompts, versions and metrics are those of lm-evaluation-harness 0.4.13.
//!
//! # Add a task
//! A file here and its line in [`TASKS`]. `openbookqa.rs` is the shortest example of questions with choices
//! ([`MultipleChoice`]), `c4.rs` of texts ([`Rolling`]), `lambada.rs` of one continuation ([`SingleContinuation`]),
//! `gsm8k.rs` of generated answers ([`Generation`]). One that is of another form implements [`Task`] itself. The
//! definition is the reference's own, for the results file.
//!
//! ```
//! use prune::Result;
//! use prune::eval::fields::Fields;
//! use prune::eval::outcome::Measure;
//! use prune::eval::request::{Answer, Request};
//! use prune::eval::shots::{Example, Shots};
//! use prune::eval::tasks::{ACC, About, Task};
//!
//! /// Is the last word the one that the model would say?
//! #[derive(Debug)]
//! struct LastWord(About);
//!
//! fn halves(document: &Fields) -> (&str, &str) {
//!     document["text"].as_str().and_then(|text| text.rsplit_once(' ')).unwrap_or_default()
//! }
//!
//! impl Task for LastWord {
//!     fn about(&self) -> &About {
//!         &self.0
//!     }
//!     fn target(&self, document: &Fields) -> Result<String> {
//!         Ok(halves(document).1.to_owned())
//!     }
//!     fn example(&self, document: &Fields) -> Result<Example> {
//!         let (start, word) = halves(document);
//!         Ok(Example::new(start, word))
//!     }
//!     fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
//!         let (start, word) = halves(document);
//!         Ok(vec![Request::LogLikelihood { context: shots.before(start)?, continuation: format!(" {word}") }])
//!     }
//!     fn judge(&self, _: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
//!         let is_said = |answer: &Answer| matches!(answer, Answer::LogLikelihood { greedy: true, .. });
//!         Ok(vec![Measure::right(answers.iter().all(is_said))])
//!     }
//! }
//!
//! // what the stage does with it, with a model of four layers
//! use prune::commands::eval::eval_of;
//! use prune::eval::settings::EvalSettings;
//! use prune::progress::Silent;
//!
//! let dir = tempfile::tempdir()?;
//! prune::pico::write(&dir.path().join("model"))?;
//! let data = dir.path().join("validation.jsonl");
//! prune::checkpoint::write_new(&data, "{\"text\": \"w3 w1 w4 w1\"}\n{\"text\": \"w5 w9 w2\"}\n")?;
//! let task: &'static dyn Task =
//!     Box::leak(Box::new(LastWord(About { name: "last_word", metrics: ACC, ..About::CHOICE })));
//! let model = Some(dir.path().join("model").display().to_string());
//! let settings = EvalSettings { model, data_dir: Some(data), ..EvalSettings::default() };
//! let report = eval_of(task, &settings, &Silent)?;
//! assert_eq!((report.figures[0].metric.as_str(), report.figures[0].documents), ("acc", 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod about;
mod arc;
mod boolq;
mod c4;
mod choice;
mod commonsense_qa;
mod continuation;
mod copa;
mod detokenize;
mod entailment;
mod generation;
mod gsm8k;
mod gsm8k_cot;
mod hellaswag;
mod ifeval;
mod lambada;
mod mmlu;
mod openbookqa;
mod piqa;
mod plain_text;
mod race;
mod rolling;
mod truthfulqa;
mod wikitext;
mod winogrande;

use std::fmt::Debug;

pub use about::{
    ACC, ACC_AND_NORM, AS_THEY_ARE, About, Config, Filter, LocalSplit, OutputType, PERPLEXITY, Release, Sampler,
    UNVERSIONED,
};
pub use choice::{MultipleChoice, Question};
pub use continuation::SingleContinuation;
pub use generation::Generation;
pub use rolling::Rolling;

use super::fields::Fields;
use super::metrics::TaskMetric;
use super::outcome::Measure;
use super::request::{Answer, Request};
use super::shots::{Example, Shots};
use crate::Result;

/// A task, or a family of tasks with one prompt (MMLU's subjects). A document of it is a prepared row of its data.
pub trait Task: Debug + Sync {
    /// What there is to say about it.
    fn about(&self) -> &About;

    /// The document of a row: with the fields the reference's preprocessing adds.
    ///
    /// # Errors
    /// A field that is missing or is not what is expected; as all that follow.
    fn prepare(&self, row: Fields) -> Result<Fields> {
        Ok(row)
    }

    /// Text in front of everything, made from the subject.
    fn description(&self, _subject: &str) -> String {
        String::new()
    }

    /// The same where it hangs on the document.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn described(&self, _document: &Fields, subject: &str) -> Result<String> {
        Ok(self.description(subject))
    }

    /// What the answer to a document begins with.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn prefix(&self, _document: &Fields) -> Result<String> {
        Ok(self.about().gen_prefix.to_owned())
    }

    /// The reference's `str(target)`, part of its hashes.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn target(&self, document: &Fields) -> Result<String>;

    /// The document with its right answer, as an example in front of another one.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn example(&self, document: &Fields) -> Result<Example>;

    /// What is asked about a document behind `shots`, description and examples, which say what the model reads of a
    /// question, and what divides it from its choices. The same document asks the same.
    ///
    /// # Errors
    /// See [`Task::prepare`], and [`Shots::before`].
    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>>;

    /// Number of the right one among the requests, where each is a choice.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn gold(&self, _document: &Fields) -> Result<Option<usize>> {
        Ok(None)
    }

    /// What `filter`, one of the task's, takes of the answers to a document.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn filtered(&self, filter: &Filter, _document: &Fields, answers: &[Answer]) -> Result<Vec<Answer>> {
        Ok(answers.iter().map(|answer| filter.apply(answer)).collect())
    }

    /// What is to be run behind each answer, where answers are programs ([`About::is_code`]).
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn tests(&self, document: &Fields) -> Result<String> {
        self.target(document)
    }

    /// What the answers to all requests of a document say: one measure for each of the task's metrics. Each filter's
    /// answers are judged on their own.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>>;
}

/// Every task.
pub const TASKS: &[&dyn Task] = &[
    &mmlu::TASK,
    &boolq::TASK,
    &hellaswag::TASK,
    &arc::EASY,
    &arc::CHALLENGE,
    &piqa::TASK,
    &winogrande::TASK,
    &openbookqa::TASK,
    &commonsense_qa::TASK,
    &truthfulqa::ONE,
    &truthfulqa::SEVERAL,
    &race::TASK,
    &copa::TASK,
    &entailment::RTE,
    &entailment::CB,
    &lambada::TASK,
    &gsm8k::TASK,
    &gsm8k_cot::COT,
    &gsm8k_cot::ZERO_SHOT,
    &gsm8k_cot::LLAMA,
    &ifeval::TASK,
    &wikitext::TASK,
    &c4::TASK,
];

/// Any text of the user's, `text:FILE`.
pub const TEXT: &dyn Task = &plain_text::TASK;

/// The task of that name.
#[must_use]
pub fn named(name: &str) -> Option<&'static dyn Task> {
    TASKS.iter().copied().find(|task| task.about().name == name)
}

#[cfg(test)]
mod tests;
