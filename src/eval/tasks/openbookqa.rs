//! OpenBookQA.

use super::choice::{MultipleChoice, Question, labeled};
use super::{ACC_AND_NORM, About, Config, Sampler};
use crate::Result;
use crate::eval::fields::{Fields, text};
use crate::eval::python::is_space;

pub(super) const TASK: MultipleChoice = MultipleChoice::plain(
    About {
        name: "openbookqa",
        title: "OpenBookQA",
        dataset: "allenai/openbookqa",
        config: Config::Named("main"),
        split: "test",
        sampler: Sampler::Drawn,
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: r#"{"doc_to_text": "question_stem", "doc_to_target": "{{choices.label.index(answerKey.lstrip())}}", "doc_to_choice": "{{choices.text}}"}"#,
        ..About::CHOICE
    },
    question,
);

fn question(row: &Fields) -> Result<Question> {
    labeled(text(row, "question_stem")?.to_owned(), row, text(row, "answerKey")?.trim_start_matches(is_space))
}
