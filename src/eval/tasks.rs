//! The table of tasks. A row is all there is to a task: where its data lie, how a row of it becomes a question or a
//! text, what is measured. Prompts, versions and metrics are those of lm-evaluation-harness 0.4.13.

use super::metrics::Metric;
use super::questions::{self, Question};
use super::source::Fields;
use super::texts::{self, Text};
use crate::Result;

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

const ACC: &[Metric] = &[Metric::Acc];
const ACC_AND_NORM: &[Metric] = &[Metric::Acc, Metric::AccNorm];
const PERPLEXITY: &[Metric] =
    &[Metric::WordPerplexity, Metric::BytePerplexity, Metric::BitsPerByte, Metric::Loss, Metric::LossPerLogVocab];

/// Every task.
pub const TASKS: &[Task] = &[
    Task {
        name: "mmlu",
        title: "MMLU",
        dataset: "cais/mmlu",
        config: Config::Subject,
        file: None,
        split: "test",
        shots_split: "dev",
        sampler: Sampler::First,
        shots: 5,
        form: Form::Choice { prepare: questions::prepare_mmlu, read: questions::mmlu, description: questions::about },
        metrics: ACC,
        version: 1.0,
        definition: r#"{"doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:", "doc_to_target": "answer", "doc_to_choice": ["A", "B", "C", "D"]}"#,
    },
    Task {
        name: "boolq",
        title: "BoolQ",
        dataset: "aps/super_glue",
        config: Config::Named("boolq"),
        file: None,
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        form: Form::Choice { prepare: questions::prepare_boolq, read: questions::boolq, description: nothing },
        metrics: ACC,
        version: 2.0,
        definition: r#"{"doc_to_text": "{{passage}}\nQuestion: {{question}}?\nAnswer:", "doc_to_target": "label", "doc_to_choice": ["no", "yes"]}"#,
    },
    Task {
        name: "hellaswag",
        title: "HellaSwag",
        dataset: "Rowan/hellaswag",
        config: Config::None,
        file: None,
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        form: Form::Choice { prepare: questions::prepare_hellaswag, read: questions::hellaswag, description: nothing },
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: r#"{"process_docs": "!function utils.process_docs", "doc_to_text": "{{query}}", "doc_to_target": "{{label}}", "doc_to_choice": "choices"}"#,
    },
    Task {
        name: "arc_easy",
        title: "ARC Easy",
        dataset: "allenai/ai2_arc",
        config: Config::Named("ARC-Easy"),
        file: None,
        split: "test",
        shots_split: "train",
        sampler: Sampler::Drawn,
        shots: 0,
        form: plain(questions::arc),
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: ARC,
    },
    Task {
        name: "arc_challenge",
        title: "ARC Challenge",
        dataset: "allenai/ai2_arc",
        config: Config::Named("ARC-Challenge"),
        file: None,
        split: "test",
        shots_split: "train",
        sampler: Sampler::Drawn,
        shots: 0,
        form: plain(questions::arc),
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: ARC,
    },
    Task {
        name: "piqa",
        title: "PIQA",
        dataset: "baber/piqa",
        config: Config::None,
        file: None,
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        form: plain(questions::piqa),
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: r#"{"doc_to_text": "Question: {{goal}}\nAnswer:", "doc_to_target": "label", "doc_to_choice": "{{[sol1, sol2]}}"}"#,
    },
    Task {
        name: "winogrande",
        title: "WinoGrande",
        dataset: "allenai/winogrande",
        config: Config::Named("winogrande_xl"),
        file: None,
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        form: plain(questions::winogrande),
        metrics: ACC,
        version: 1.0,
        definition: r#"{"doc_to_text": "!function preprocess_winogrande.doc_to_text", "doc_to_target": "!function preprocess_winogrande.doc_to_target", "doc_to_choice": "!function preprocess_winogrande.doc_to_choice"}"#,
    },
    Task {
        name: "openbookqa",
        title: "OpenBookQA",
        dataset: "allenai/openbookqa",
        config: Config::Named("main"),
        file: None,
        split: "test",
        shots_split: "train",
        sampler: Sampler::Drawn,
        shots: 0,
        form: plain(questions::openbookqa),
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: r#"{"doc_to_text": "question_stem", "doc_to_target": "{{choices.label.index(answerKey.lstrip())}}", "doc_to_choice": "{{choices.text}}"}"#,
    },
    Task {
        name: "wikitext",
        title: "WikiText",
        dataset: "EleutherAI/wikitext_document_level",
        config: Config::Named("wikitext-2-raw-v1"),
        file: None,
        split: "test",
        shots_split: "train",
        sampler: Sampler::Drawn,
        shots: 0,
        form: Form::Text { prepare: as_it_is, read: texts::wikitext },
        metrics: PERPLEXITY,
        version: 2.0,
        definition: r#"{"doc_to_text": "", "doc_to_target": "!function preprocess_wikitext.wikitext_detokenizer", "process_results": "!function preprocess_wikitext.process_results"}"#,
    },
    Task {
        name: "c4",
        title: "C4",
        dataset: "allenai/c4",
        config: Config::Named("en"),
        file: Some("en/c4-validation.00000-of-00008.json.gz"),
        split: "validation",
        shots_split: "train",
        sampler: Sampler::DrawnWithoutSelf,
        shots: 0,
        form: Form::Text { prepare: texts::prepare_c4, read: texts::c4 },
        metrics: PERPLEXITY,
        version: 0.0,
        definition: r#"{"doc_to_text": "", "doc_to_target": "!function preprocess_c4.c4_detokenizer", "process_results": "!function preprocess_c4.process_results"}"#,
    },
];

const ARC: &str = r#"{"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{choices.label.index(answerKey)}}", "doc_to_choice": "{{choices.text}}"}"#;

/// Any text of the user's, `text:FILE`: as `c4`, but nothing is tidied.
pub const TEXT: Task = Task {
    name: "text",
    title: "text",
    dataset: "",
    config: Config::None,
    file: None,
    split: "validation",
    shots_split: "train",
    sampler: Sampler::First,
    shots: 0,
    form: Form::Text { prepare: as_it_is, read: texts::plain },
    metrics: PERPLEXITY,
    version: 0.0,
    definition: r#"{"doc_to_text": "", "doc_to_target": "text"}"#,
};

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
