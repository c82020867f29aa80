//! MMLU: subjects of their own data, described in front of the examples.

use serde_json::{Value, json};

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, Config, Release, Sampler};
use crate::eval::fields::{Fields, number, text, texts, value};
use crate::eval::python::strip;
use crate::{Error, Result};

pub(super) const TASK: MultipleChoice = MultipleChoice {
    about: About {
        name: "mmlu",
        title: "MMLU",
        dataset: "cais/mmlu",
        config: Config::Subject,
        split: "test",
        shots_split: "dev",
        sampler: Sampler::First,
        shots: 5,
        release: Release::Columns(&COLUMNS, from_columns),
        metrics: ACC,
        version: 1.0,
        definition: r#"{"doc_to_text": "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:", "doc_to_target": "answer", "doc_to_choice": ["A", "B", "C", "D"]}"#,
        ..About::CHOICE
    },
    prepare,
    question,
    description,
};

/// MMLU's description.
fn description(subject: &str) -> String {
    let subject = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
}

/// The CSV layout has letters, the hub has numbers.
fn prepare(mut row: Fields) -> Result<Fields> {
    if let Some(Value::String(letter)) = row.get("answer") {
        let Some(number) = "ABCD".find(letter.as_str()).filter(|_| letter.len() == 1) else {
            return Err(Error::work(format!("field answer is {letter:?}, expected A, B, C or D")));
        };
        row.insert("answer".to_owned(), json!(number));
    }
    Ok(row)
}

fn question(row: &Fields) -> Result<Question> {
    let choices = texts(row.get("choices"), "choices")?;
    let [a, b, c, d] = choices.as_slice() else {
        return Err(Error::work(format!("field choices has {} entries, expected 4", choices.len())));
    };
    let context = format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", strip(text(row, "question")?));
    let letters = ["A", "B", "C", "D"].map(str::to_owned).to_vec();
    Question::new(context, letters, number(row, "answer")?, value(row, "answer")?)
}

/// Columns of MMLU's own files, which have no header.
const COLUMNS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

fn from_columns(columns: &Fields, subject: &str) -> Fields {
    let choices: Vec<&Value> = COLUMNS[1..5].iter().filter_map(|name| columns.get(*name)).collect();
    let mut fields = Fields::new();
    fields.insert("question".to_owned(), columns.get("question").cloned().unwrap_or_default());
    fields.insert("subject".to_owned(), json!(subject));
    fields.insert("choices".to_owned(), json!(choices));
    fields.insert("answer".to_owned(), columns.get("answer").cloned().unwrap_or_default());
    fields
}
