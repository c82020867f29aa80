//! ARC, easy and challenge.

use super::choice::{MultipleChoice, Question, labeled};
use super::{ACC_AND_NORM, About, Config, Sampler};
use crate::Result;
use crate::eval::fields::{Fields, text};

pub(super) const EASY: MultipleChoice = MultipleChoice::plain(
    About {
        name: "arc_easy",
        title: "ARC Easy",
        dataset: "allenai/ai2_arc",
        config: Config::Named("ARC-Easy"),
        split: "test",
        sampler: Sampler::Drawn,
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: DEFINITION,
        ..About::CHOICE
    },
    question,
);

pub(super) const CHALLENGE: MultipleChoice = MultipleChoice {
    about: About {
        name: "arc_challenge",
        title: "ARC Challenge",
        config: Config::Named("ARC-Challenge"),
        ..EASY.about
    },
    ..EASY
};

const DEFINITION: &str = r#"{"doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_target": "{{choices.label.index(answerKey)}}", "doc_to_choice": "{{choices.text}}"}"#;

fn question(row: &Fields) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", text(row, "question")?);
    labeled(context, row, text(row, "answerKey")?)
}
