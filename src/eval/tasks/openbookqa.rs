//! OpenBookQA.

use super::{ACC_AND_NORM, Config, Release, Sampler, Task, labelled, plain};
use crate::Result;
use crate::eval::fields::{Fields, text};
use crate::eval::python::is_space;
use crate::eval::question::Question;

pub(super) const TASK: Task = Task {
    name: "openbookqa",
    title: "OpenBookQA",
    dataset: "allenai/openbookqa",
    config: Config::Named("main"),
    file: None,
    split: "test",
    shots_split: "train",
    sampler: Sampler::Drawn,
    shots: 0,
    release: Release::Hub,
    form: plain(question),
    metrics: ACC_AND_NORM,
    version: 1.0,
    definition: r#"{"doc_to_text": "question_stem", "doc_to_target": "{{choices.label.index(answerKey.lstrip())}}", "doc_to_choice": "{{choices.text}}"}"#,
};

fn question(row: &Fields) -> Result<Question> {
    labelled(text(row, "question_stem")?.to_owned(), row, text(row, "answerKey")?.trim_start_matches(is_space))
}
