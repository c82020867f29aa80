//! What there is to say about a task besides what it asks.

use crate::Error;
use crate::eval::fields::Fields;
use crate::eval::metrics::{NO_FILTER, Takes, TaskMetric};
use crate::eval::request::Answer;

/// What there is to say about a task.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Name on the command line and in results.
    pub name: &'static str,
    /// Name in print.
    pub title: &'static str,
    /// Name in tables, where it is another one.
    pub alias: &'static str,
    /// Data set on the hub.
    pub dataset: &'static str,
    /// Configuration of the data set: a folder or a prefix of its files.
    pub config: Config,
    /// A file of the data set to use instead of its split files.
    pub file: Option<&'static str>,
    /// Files of the user's that the splits are in, where the definition names them.
    pub local: &'static [LocalSplit],
    /// A field and what it says in the task's rows; all others are left out.
    pub only: Option<(&'static str, &'static str)>,
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
    /// What stands at those two places of an example, where that differs.
    pub example_delimiters: Option<[&'static str; 2]>,
    /// How often an answer counts among those that a filter chooses from.
    pub repeats: usize,
    /// Tokens of an answer at most, whatever the user says.
    pub longest_answer: Option<usize>,
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
        alias: "",
        dataset: "",
        config: Config::None,
        file: None,
        local: &[],
        only: None,
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        is_zero_shot: false,
        samples: "",
        target_delimiter: " ",
        shots_delimiter: "\n\n",
        gen_prefix: "",
        example_delimiters: None,
        repeats: 1,
        longest_answer: None,
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
    pub(in crate::eval) fn reads_examples(&self) -> bool {
        self.has_examples() && self.samples.is_empty()
    }

    /// Each metric of each filter, in the order of an outcome's measures.
    pub(in crate::eval) fn measured(&self) -> impl Iterator<Item = (&'static Filter, TaskMetric)> {
        let metrics = self.metrics;
        self.filters.iter().flat_map(move |filter| metrics.iter().map(move |metric| (filter, *metric)))
    }

    /// What is said of the answers in the model's own words, whatever they are.
    pub(in crate::eval) fn written(&self) -> &'static [TaskMetric] {
        if self.output == OutputType::Generate { TaskMetric::WRITTEN } else { &[] }
    }

    /// Whether its answers are programs that have to be run.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.metrics.iter().any(|metric| matches!(metric.takes, Takes::Passed(_)))
    }

    /// A metric that its form of task cannot tell.
    pub(in crate::eval) fn misplaced(&self, metric: &TaskMetric) -> Error {
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
    /// Whether all answers to a question are judged, not the first one.
    pub takes_all: bool,
}

impl Filter {
    /// The first answer as it is.
    pub const FIRST: Self = Self { name: NO_FILTER, extract: str::to_owned, takes_all: false };

    /// What is judged of an answer.
    pub(in crate::eval) fn apply(&self, answer: &Answer) -> Answer {
        match answer {
            Answer::Text(said) => Answer::text((self.extract)(&said.text)),
            other => other.clone(),
        }
    }
}

/// Files of a split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSplit {
    /// Name of the split.
    pub split: &'static str,
    /// Paths as the definition has them: relative to the working directory or else to `beside`; `*` for any name.
    pub files: &'static [&'static str],
    /// Folder of the definition.
    pub beside: &'static str,
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
    /// The same, the scored document itself left out.
    FirstWithoutSelf,
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
pub const AS_THEY_ARE: &[Filter] = &[Filter::FIRST];
