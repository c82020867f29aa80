//! RACE (arXiv 1704.04683), of high schools: an article, questions with their answers, and the last one.

use serde_json::{Value, json};

use super::choice::{MultipleChoice, Question};
use super::{ACC, About, Config, Sampler};
use crate::eval::fields::{Fields, text, texts, wrong};
use crate::eval::python::literal;
use crate::{Error, Result};

pub(super) const TASK: MultipleChoice = MultipleChoice::plain(
    About {
        name: "race",
        title: "RACE",
        dataset: "EleutherAI/race",
        config: Config::Named("high"),
        split: "test",
        shots_split: "test",
        sampler: Sampler::Drawn,
        metrics: ACC,
        version: 3.0,
        definition: r#"{"doc_to_text": "!function preprocess_race.doc_to_text", "doc_to_target": "!function preprocess_race.doc_to_target", "doc_to_choice": "!function preprocess_race.doc_to_choice"}"#,
        ..About::CHOICE
    },
    question,
);

/// The gap at the end of a question that its answer fills.
const GAP: &str = "  _  .";

fn question(row: &Fields) -> Result<Question> {
    // the data set has a list as Python writes it
    let problems = literal(text(row, "problems")?).and_then(|problems| match problems {
        Value::Array(problems) => problems.iter().map(problem).collect::<Option<Vec<_>>>(),
        _ => None,
    });
    let problems = problems.ok_or_else(|| wrong("problems", "a list of questions with options and an answer, A to D"));
    let mut problems = problems?;
    let (asked, options, gold) = problems.pop().ok_or_else(|| Error::work("field problems has no question"))?;
    let mut context = format!("Article: {}\n\n", text(row, "article")?);
    for (question, options, right) in problems {
        let answer = &options[right];
        context += &match question.strip_suffix(GAP) {
            Some(start) => format!("{start} {answer}\n"),
            None => format!("Question: {question}\nAnswer: {answer}\n"),
        };
    }
    Question::new(context + &asked, options.into_iter().take(4).collect(), gold, &json!(gold))
}

/// A question, its four options at least, and which of them is right.
fn problem(problem: &Value) -> Option<(String, Vec<String>, usize)> {
    let options = texts(problem.get("options"), "options").ok().filter(|options| options.len() >= 4)?;
    let right =
        ["A", "B", "C", "D"].iter().position(|letter| problem.get("answer").is_some_and(|key| key == letter))?;
    Some((problem.get("question")?.as_str()?.to_owned(), options, right))
}
