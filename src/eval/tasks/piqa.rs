//! PIQA.

use super::{ACC_AND_NORM, Config, Release, Sampler, Task, plain};
use crate::Result;
use crate::eval::fields::{Fields, number, text, value};
use crate::eval::question::Question;

pub(super) const TASK: Task = Task {
    name: "piqa",
    title: "PIQA",
    dataset: "baber/piqa",
    config: Config::None,
    file: None,
    split: "validation",
    shots_split: "train",
    sampler: Sampler::DrawnWithoutSelf,
    shots: 0,
    release: Release::Hub,
    form: plain(question),
    metrics: ACC_AND_NORM,
    version: 1.0,
    definition: r#"{"doc_to_text": "Question: {{goal}}\nAnswer:", "doc_to_target": "label", "doc_to_choice": "{{[sol1, sol2]}}"}"#,
};

fn question(row: &Fields) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", text(row, "goal")?);
    let choices = vec![text(row, "sol1")?.to_owned(), text(row, "sol2")?.to_owned()];
    Question::new(context, choices, number(row, "label")?, value(row, "label")?)
}
