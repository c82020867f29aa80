//! The table of tasks. A file is all there is to a task: where its data lie, how a row of it becomes a question or a
//! text, what is measured. Prompts, versions and metrics are those of lm-evaluation-harness 0.4.13.
//!
//! # Add a task
//! A file here with a `TASK`, and its line in [`TASKS`]. `openbookqa.rs` is the shortest example of a question, `c4.rs`
//! of a text; the definition is the reference's own, for the results file.
//!
//! ```
//! use prune::eval::tasks::{Form, TASKS};
//!
//! let task = TASKS.iter().find(|task| task.name == "openbookqa").unwrap();
//! let row = serde_json::json!({
//!     "question_stem": "The sun is", "answerKey": "B", "choices": {"text": ["cold", "hot"], "label": ["A", "B"]},
//! });
//! let Form::Choice { prepare, read, .. } = task.form else { unreachable!() };
//! let question = read(&prepare(row.as_object().unwrap().clone())?)?;
//! assert_eq!((question.gold, question.answer(1)), (1, "hot"));
//! # Ok::<(), prune::Error>(())
//! ```

mod arc;
mod boolq;
mod c4;
mod detokenize;
mod hellaswag;
mod mmlu;
mod openbookqa;
mod piqa;
mod plain_text;
mod wikitext;
mod winogrande;

use serde_json::json;

use super::fields::{Fields, texts, value};
use super::metrics::Metric;
use super::question::Question;
use super::text::Text;
use crate::{Error, Result};

/// One task, or a family of tasks with one prompt (MMLU's subjects).
#[derive(Clone, Copy, Debug)]
pub struct Task {
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
    /// How its own release lays its rows out, where that is not as the hub does.
    pub release: Release,
    /// From a row of the data to what is scored.
    pub form: Form,
    /// What is measured.
    pub metrics: &'static [Metric],
    /// Version of the task's definition.
    pub version: f64,
    /// The prompt in the reference's own words, for the results file.
    pub definition: &'static str,
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

/// From a row to what is scored.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// A question with choices.
    Choice {
        /// Adds the fields the reference's preprocessing adds to the row.
        prepare: fn(Fields) -> Result<Fields>,
        /// The question of a prepared row.
        read: fn(&Fields) -> Result<Question>,
        /// Text in front of everything, made from the subject.
        description: fn(&str) -> String,
    },
    /// A text whose every token is predicted.
    Text {
        /// Tidies the row.
        prepare: fn(Fields) -> Result<Fields>,
        /// The text of a row.
        read: fn(&Fields) -> Result<Text>,
    },
}

/// A question whose rows need no preparation and that has no description.
const fn plain(read: fn(&Fields) -> Result<Question>) -> Form {
    Form::Choice { prepare: as_it_is, read, description: nothing }
}

fn as_it_is(row: Fields) -> Result<Fields> {
    Ok(row)
}

fn nothing(_: &str) -> String {
    String::new()
}

/// Choices in a struct of texts and labels; the key is a label.
fn labelled(context: String, row: &Fields, key: &str) -> Result<Question> {
    let choices = value(row, "choices")?;
    let labels = texts(choices.get("label"), "choices.label")?;
    let Some(gold) = labels.iter().position(|label| label == key) else {
        return Err(Error::work(format!("field answerKey is {key:?}, the labels are {labels:?}")));
    };
    Question::new(context, texts(choices.get("text"), "choices.text")?, gold, &json!(gold))
}

const ACC: &[Metric] = &[Metric::Acc];
const ACC_AND_NORM: &[Metric] = &[Metric::Acc, Metric::AccNorm];
const PERPLEXITY: &[Metric] =
    &[Metric::WordPerplexity, Metric::BytePerplexity, Metric::BitsPerByte, Metric::Loss, Metric::LossPerLogVocab];

/// Every task.
pub const TASKS: &[Task] = &[
    mmlu::TASK,
    boolq::TASK,
    hellaswag::TASK,
    arc::EASY,
    arc::CHALLENGE,
    piqa::TASK,
    winogrande::TASK,
    openbookqa::TASK,
    wikitext::TASK,
    c4::TASK,
];

/// Any text of the user's, `text:FILE`.
pub const TEXT: Task = plain_text::TASK;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sound() {
        for task in TASKS.iter().chain([&TEXT]) {
            let definition: serde_json::Value = serde_json::from_str(task.definition).unwrap();
            assert!(definition["doc_to_target"].is_string(), "{}", task.name);
            assert!(!task.metrics.is_empty() && !task.split.is_empty());
            assert_eq!(TASKS.iter().filter(|other| other.name == task.name).count(), usize::from(task.name != "text"));
        }
    }
}
