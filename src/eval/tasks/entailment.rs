//! Does one text follow from another? RTE, as GLUE has it, and CommitmentBank, as SuperGLUE has it.

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, Config, TaskMetric};
use crate::Result;
use crate::eval::fields::{Fields, number, text, value};

pub(super) const RTE: MultipleChoice = MultipleChoice::plain(
    About {
        name: "rte",
        title: "RTE",
        dataset: "nyu-mll/glue",
        config: Config::Named("rte"),
        metrics: ACC,
        version: 1.0,
        definition: r#"{"doc_to_text": "{{sentence1}}\nQuestion: {{sentence2}} True or False?\nAnswer:", "doc_to_target": "label", "doc_to_choice": ["True", "False"]}"#,
        ..About::CHOICE
    },
    |row| {
        let context =
            format!("{}\nQuestion: {} True or False?\nAnswer:", text(row, "sentence1")?, text(row, "sentence2")?);
        of(row, context, &["True", "False"])
    },
);

pub(super) const CB: MultipleChoice = MultipleChoice::plain(
    About {
        name: "cb",
        title: "CommitmentBank",
        dataset: "aps/super_glue",
        config: Config::Named("cb"),
        metrics: &[TaskMetric::ACC, TaskMetric::F1_OF_THREE],
        version: 1.0,
        definition: r#"{"doc_to_text": "{{premise}}\nQuestion: {{hypothesis}}. True, False, or Neither?\nAnswer:", "doc_to_target": "label", "doc_to_choice": ["True", "False", "Neither"]}"#,
        ..About::CHOICE
    },
    |row| {
        let (premise, hypothesis) = (text(row, "premise")?, text(row, "hypothesis")?);
        let context = format!("{premise}\nQuestion: {hypothesis}. True, False, or Neither?\nAnswer:");
        of(row, context, &["True", "False", "Neither"])
    },
);

fn of(row: &Fields, context: String, answers: &[&str]) -> Result<Question> {
    let answers = answers.iter().map(|answer| (*answer).to_owned()).collect();
    Question::new(context, answers, number(row, "label")?, value(row, "label")?)
}
