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

pub use choice::{MultipleChoice, Question};
pub use continuation::SingleContinuation;
pub use generation::Generation;
pub use rolling::Rolling;

use super::fields::Fields;
use super::metrics::{NO_FILTER, TaskMetric};
use super::outcome::Measure;
use super::request::{Answer, Request};
use super::shots::{Example, Shots};
use crate::{Error, Result};

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

    /// What the answers to all requests of a document say: one measure for each of the task's metrics. Each filter's
    /// answers are judged on their own.
    ///
    /// # Errors
    /// See [`Task::prepare`].
    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>>;
}

/// What there is to say about a task.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// Name in print.
    pub title: &'static str,
    /// Data set on the hub.
    pub dataset: &'static str,
    /// Configuration of the data set: a folder or a prefix of its files.
    pub config: Config,
    /// A file of the data set to use instead of its split files.
    pub file: Option<&'static str>,
    /// Split that is scored.
    pub split: &'static str,
    /// Split that examples are taken from.
    pub shots_split: &'static str,
    /// How examples are picked.
    pub sampler: Sampler,
    /// Examples shown unless the user says otherwise.
    pub shots: usize,
    /// Whether none are shown whatever the user says: what the reference does where a definition says none.
    pub is_zero_shot: bool,
    /// Examples of its own, instead of those of a split: rows as a list in JSON; empty where there are none.
    pub samples: &'static str,
    /// What stands between a question and its answer.
    pub target_delimiter: &'static str,
    /// What stands behind an example, and between what the system says and the description.
    pub shots_delimiter: &'static str,
    /// What every answer begins with, which the model is to continue; empty where it begins by itself.
    pub gen_prefix: &'static str,
    /// How its own release lays its rows out, where that is not as the hub does.
    pub release: Release,
    /// The reference's output type.
    pub output: OutputType,
    /// What is measured.
    pub metrics: &'static [TaskMetric],
    /// What is taken of the answers before they are judged; each is judged on its own.
    pub filters: &'static [Filter],
    /// Version of the task's definition, or [`UNVERSIONED`].
    pub version: f64,
    /// The prompt in the reference's own words, for the results file.
    pub definition: &'static str,
}

impl About {
    /// What most tasks of questions have in common.
    pub const CHOICE: Self = Self {
        name: "",
        title: "",
        dataset: "",
        config: Config::None,
        file: None,
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        is_zero_shot: false,
        samples: "",
        target_delimiter: " ",
        shots_delimiter: "\n\n",
        gen_prefix: "",
        release: Release::Hub,
        output: OutputType::MultipleChoice,
        metrics: &[],
        filters: AS_THEY_ARE,
        version: 0.0,
        definition: "{}",
    };

    /// What tasks of texts have in common.
    pub const TEXT: Self = Self { output: OutputType::Rolling, metrics: PERPLEXITY, ..Self::CHOICE };

    /// Whether examples can stand in front of its documents.
    #[must_use]
    pub fn has_examples(&self) -> bool {
        self.output != OutputType::Rolling && !self.is_zero_shot
    }

    /// Whether those are rows of a split.
    pub(super) fn reads_examples(&self) -> bool {
        self.has_examples() && self.samples.is_empty()
    }

    /// Each metric of each filter, in the order of an outcome's measures.
    pub(super) fn measured(&self) -> impl Iterator<Item = (&'static Filter, TaskMetric)> {
        let metrics = self.metrics;
        self.filters.iter().flat_map(move |filter| metrics.iter().map(move |metric| (filter, *metric)))
    }

    /// A metric that its form of task cannot tell.
    pub(super) fn misplaced(&self, metric: &TaskMetric) -> Error {
        Error::work(format!("{}: {} is no metric of such a task", self.name, metric.name))
    }
}

/// The reference's output types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputType {
    /// The likeliest of several continuations.
    MultipleChoice,
    /// The likelihood of one continuation.
    LogLikelihood,
    /// The likelihood of whole texts.
    Rolling,
    /// Answers in the model's own words.
    Generate,
}

impl OutputType {
    /// The reference's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MultipleChoice => "multiple_choice",
            Self::LogLikelihood => "loglikelihood",
            Self::Rolling => "loglikelihood_rolling",
            Self::Generate => "generate_until",
        }
    }
}

/// What is taken of a generated text before it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// The reference's name.
    pub name: &'static str,
    /// From the text to what is judged.
    pub extract: fn(&str) -> String,
}

impl Filter {
    /// What is judged of an answer.
    pub(super) fn apply(&self, answer: &Answer) -> Answer {
        match answer {
            Answer::Text(text) => Answer::Text((self.extract)(text)),
            other => other.clone(),
        }
    }
}

/// Part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Config {
    /// The data set has no parts.
    None,
    /// This one.
    Named(&'static str),
    /// One for each subject; the task is a family.
    Subject,
}

/// How few-shot examples are picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// The first ones of their split.
    First,
    /// A draw of `random.Random(seed)`, one generator a task, documents in order.
    Drawn,
    /// The same, one more than needed, and the scored document itself left out: what the reference does where it has
    /// no test split.
    DrawnWithoutSelf,
}

/// How files of a task's own release are laid out.
#[derive(Clone, Copy, Debug)]
pub enum Release {
    /// As on the hub.
    Hub,
    /// CSV without a header: its columns, and the hub's row from them and the subject.
    Columns(&'static [&'static str], fn(&Fields, &str) -> Fields),
    /// Plain text with several documents: the hub's rows from a row with a text; `None` where it is one already.
    Documents(fn(&Fields) -> Option<Vec<Fields>>),
}

/// The version of a definition that has none.
pub const UNVERSIONED: f64 = f64::NAN;
/// Right or wrong.
pub const ACC: &[TaskMetric] = &[TaskMetric::ACC];
/// The same, and with the choices' lengths in the reckoning.
pub const ACC_AND_NORM: &[TaskMetric] = &[TaskMetric::ACC, TaskMetric::ACC_NORM];
/// What is said of a text.
pub const PERPLEXITY: &[TaskMetric] = &[
    TaskMetric::WORD_PERPLEXITY,
    TaskMetric::BYTE_PERPLEXITY,
    TaskMetric::BITS_PER_BYTE,
    TaskMetric::LOSS,
    TaskMetric::LOSS_PER_LOG_VOCAB,
];
/// Nothing is filtered.
pub const AS_THEY_ARE: &[Filter] = &[Filter { name: NO_FILTER, extract: str::to_owned }];

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
