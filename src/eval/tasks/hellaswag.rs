//! HellaSwag.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::json;

use super::choice::{MultipleChoice, Question};
use super::{ACC_AND_NORM, About};
use crate::Result;
use crate::eval::fields::{Fields, number, text, texts, value};
use crate::eval::python::{capitalize, strip};

pub(super) const TASK: MultipleChoice = MultipleChoice {
    about: About {
        name: "hellaswag",
        title: "HellaSwag",
        dataset: "Rowan/hellaswag",
        metrics: ACC_AND_NORM,
        version: 1.0,
        definition: r#"{"process_docs": "!function utils.process_docs", "doc_to_text": "{{query}}", "doc_to_target": "{{label}}", "doc_to_choice": "choices"}"#,
        ..About::CHOICE
    },
    prepare,
    question,
    description: |_| String::new(),
};

/// Adds `query`, `choices` and `gold`.
fn prepare(mut row: Fields) -> Result<Fields> {
    let context = format!("{} {}", text(&row, "ctx_a")?, capitalize(text(&row, "ctx_b")?));
    let query = tidy(&format!("{}: {context}", text(&row, "activity_label")?));
    let choices: Vec<String> = texts(row.get("endings"), "endings")?.iter().map(|ending| tidy(ending)).collect();
    let gold = number(&row, "label")?;
    row.insert("query".to_owned(), json!(query));
    row.insert("choices".to_owned(), json!(choices));
    row.insert("gold".to_owned(), json!(gold));
    Ok(row)
}

fn question(row: &Fields) -> Result<Question> {
    let choices = texts(row.get("choices"), "choices")?;
    Question::new(text(row, "query")?.to_owned(), choices, number(row, "label")?, value(row, "label")?)
}

/// Brackets are left over from WikiHow.
fn tidy(text: &str) -> String {
    static BRACKETS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[.*?\]").ok());
    let text = strip(text).replace(" [title]", ". ");
    let text = BRACKETS.as_ref().map_or(text.as_str().into(), |brackets| brackets.replace_all(&text, ""));
    text.replace("  ", " ")
}
