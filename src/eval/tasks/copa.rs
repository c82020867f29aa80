//! COPA, as SuperGLUE has it: which of two is the cause, or the effect.

use serde_json::json;

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, Config};
use crate::eval::fields::{Fields, number, text};
use crate::eval::python::strip;
use crate::{Error, Result};

pub(super) const TASK: MultipleChoice = MultipleChoice::plain(
    About {
        name: "copa",
        title: "COPA",
        dataset: "aps/super_glue",
        config: Config::Named("copa"),
        metrics: ACC,
        version: 1.0,
        definition: r#"{"doc_to_text": "!function utils.doc_to_text", "doc_to_target": "!function utils.doc_to_target", "doc_to_choice": "!function utils.doc_to_choice"}"#,
        ..About::CHOICE
    },
    question,
);

fn question(row: &Fields) -> Result<Question> {
    let connector = match text(row, "question")? {
        "cause" => "because",
        "effect" => "therefore",
        other => return Err(Error::work(format!("field question is {other:?}, expected \"cause\" or \"effect\""))),
    };
    // without its full stop
    let premise = strip(text(row, "premise")?);
    let premise = premise.char_indices().next_back().map_or("", |(last, _)| &premise[..last]);
    let choices = vec![lowered(text(row, "choice1")?), lowered(text(row, "choice2")?)];
    let right = if number(row, "label")? == 0 { &choices[0] } else { &choices[1] }.clone();
    let gold = choices.iter().position(|choice| *choice == right).unwrap_or_default();
    Question::new(format!("{premise} {connector}"), choices, gold, &json!(right))
}

/// With a small first letter, and a space in front beside the one that joins it to the premise.
fn lowered(choice: &str) -> String {
    let mut rest = choice.chars();
    let first: String = rest.next().into_iter().flat_map(char::to_lowercase).collect();
    format!(" {first}{}", rest.as_str())
}
