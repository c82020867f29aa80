//! WinoGrande, by partial evaluation.

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, Config};
use crate::eval::fields::{Fields, text, wrong};
use crate::eval::python::strip;
use crate::{Error, Result};

pub(super) const TASK: MultipleChoice = MultipleChoice::plain(
    About {
        name: "winogrande",
        title: "WinoGrande",
        dataset: "allenai/winogrande",
        config: Config::Named("winogrande_xl"),
        metrics: ACC,
        version: 1.0,
        definition: r#"{"doc_to_text": "!function preprocess_winogrande.doc_to_text", "doc_to_target": "!function preprocess_winogrande.doc_to_target", "doc_to_choice": "!function preprocess_winogrande.doc_to_choice"}"#,
        ..About::CHOICE
    },
    question,
);

/// Partial evaluation (arXiv 1806.02847): the options fill the gap, what follows the gap is scored.
fn question(row: &Fields) -> Result<Question> {
    let sentence = text(row, "sentence")?;
    let (before, after) = sentence.split_once('_').ok_or_else(|| wrong("sentence", "a text with a gap, _"))?;
    let gold = match text(row, "answer")? {
        "1" => 0,
        "2" => 1,
        other => return Err(Error::work(format!("field answer is {other:?}, expected \"1\" or \"2\""))),
    };
    let contexts = vec![format!("{before}{}", text(row, "option1")?), format!("{before}{}", text(row, "option2")?)];
    let ending = strip(after).to_owned();
    let lengths = contexts.iter().map(|context| context.chars().count()).collect();
    Ok(Question { contexts, answers: vec![ending.clone()], lengths, gold, target: ending })
}
