//! ARC, easy and challenge.

use super::{ACC_AND_NORM, Config, Release, Sampler, Task, labelled, plain};
use crate::Result;
use crate::eval::fields::{Fields, text};
use crate::eval::question::Question;

pub(super) const EASY: Task = Task {
    name: "arc_easy",
    title: "ARC Easy",
    dataset: "allenai/ai2_arc",
    config: Config::Named("ARC-Easy"),
    file: None,
    split: "test",
    shots_split: "train",
    sampler: Sampler::Drawn,
    shots: 0,
    release: Release::Hub,
    form: plain(question),
    metrics: ACC_AND_NORM,
    version: 1.0,
    definition: DEFINITION,
};

pub(super) const CHALLENGE: Task =
    Task { name: "arc_challenge", title: "ARC Challenge", config: Config::Named("ARC-Challenge"), ..EASY };

const DEFINITION: &str = r#"{"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{choices.label.index(answerKey)}}", "doc_to_choice": "{{choices.text}}"}"#;

fn question(row: &Fields) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", text(row, "question")?);
    labelled(context, row, text(row, "answerKey")?)
}
