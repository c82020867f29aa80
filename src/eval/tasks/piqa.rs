//! PIQA.

use super::choice::{MultipleChoice, Question};
use super::{ACC_AND_NORM, About};
use crate::Result;
use crate::eval::fields::{Fields, number, text, value};

pub(super) const TASK: MultipleChoice = MultipleChoice::plain(
    About {
        name: "piqa",
        title: "PIQA",
        dataset: "baber/piqa",
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: r#"{"doc_to_text": "Question: {{goal}}\nAnswer:", "doc_to_target": "label", "doc_to_choice": "{{[sol1, sol2]}}"}"#,
        ..About::CHOICE
    },
    question,
);

fn question(row: &Fields) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", text(row, "goal")?);
    let choices = vec![text(row, "sol1")?.to_owned(), text(row, "sol2")?.to_owned()];
    Question::new(context, choices, number(row, "label")?, value(row, "label")?)
}
