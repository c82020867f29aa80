//! CommonsenseQA (arXiv 1811.00937).

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, UNVERSIONED};
use crate::eval::fields::{Fields, text, texts, value};
use crate::eval::python::strip;
use crate::{Error, Result};

pub(super) const TASK: MultipleChoice = MultipleChoice::plain(
    About {
        name: "commonsense_qa",
        title: "CommonsenseQA",
        dataset: "tau/commonsense_qa",
        metrics: ACC,
        version: UNVERSIONED,
        definition: r#"{"doc_to_text": "Question: {{ question.strip() }}\nA. {{choices['text'][0]}}\nB. {{choices['text'][1]}}\nC. {{choices['text'][2]}}\nD. {{choices['text'][3]}}\nE. {{choices['text'][4]}}\nAnswer:", "doc_to_target": "answerKey", "doc_to_choice": ["A", "B", "C", "D", "E"]}"#,
        ..About::CHOICE
    },
    question,
);

const LETTERS: [&str; 5] = ["A", "B", "C", "D", "E"];

fn question(row: &Fields) -> Result<Question> {
    let choices = texts(value(row, "choices")?.get("text"), "choices.text")?;
    let [a, b, c, d, e] = choices.as_slice() else {
        return Err(Error::work(format!("field choices.text has {} entries, expected 5", choices.len())));
    };
    let asked = strip(text(row, "question")?);
    let context = format!("Question: {asked}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nE. {e}\nAnswer:");
    let key = value(row, "answerKey")?;
    let gold = LETTERS.iter().position(|letter| key == letter);
    let gold = gold.ok_or_else(|| Error::work(format!("field answerKey is {key}, expected A, B, C, D or E")))?;
    Question::new(context, LETTERS.map(str::to_owned).to_vec(), gold, key)
}
