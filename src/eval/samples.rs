//! One line a document, as lm-evaluation-harness writes them, hashes included.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::encode::paper_answer;
use super::job::{Part, TaskScore};
use super::metrics::{Metric, Outcome};
use super::prompts::{Body, Document};
use super::python::{repr, to_json, to_json_pretty};

/// Hashes of a task: they tell whether two runs asked the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashes {
    /// For each document: of the document, of its first prompt, of its target.
    pub(super) documents: Vec<[String; 3]>,
    /// Of all those, one after the other.
    pub(super) task: String,
}

fn sha(text: &str) -> String {
    format!("{:x}", Sha256::digest(text))
}

/// Hashes of all documents of a task.
pub(super) fn hashes(part: &Part, paper: bool) -> Hashes {
    let hash = |document: &Document| {
        let prompt = arguments(&document.body, 0, paper);
        [sha(&to_json_pretty(&document.row)), sha(&prompt[0]), sha(target(&document.body))]
    };
    let documents: Vec<[String; 3]> = part.prompts.documents.iter().map(hash).collect();
    let task = sha(&documents.concat().concat());
    Hashes { documents, task }
}

fn target(body: &Body) -> &str {
    match body {
        Body::Question { question, .. } => &question.target,
        Body::Text(text) => &text.text,
    }
}

/// Context and continuation of a choice, or a text.
fn arguments(body: &Body, choice: usize, paper: bool) -> Vec<String> {
    match body {
        Body::Question { shots, question } => {
            let answer = question.answer(choice);
            let answer = if paper { paper_answer(answer) } else { format!(" {answer}") };
            vec![format!("{shots}{}", question.context(choice)), answer]
        }
        Body::Text(text) => vec![text.text.clone()],
    }
}

/// Writes a line for each document.
pub(super) fn write(
    out: &mut impl Write,
    part: &Part,
    score: &TaskScore,
    hashes: &Hashes,
    paper: bool,
) -> io::Result<()> {
    let metrics = part.leaf.task.metrics;
    for ((document, outcome), hashes) in part.prompts.documents.iter().zip(&score.outcomes).zip(&hashes.documents) {
        writeln!(out, "{}", to_json(&line(document, outcome, hashes, metrics, paper)))?;
    }
    Ok(())
}

fn line(document: &Document, outcome: &Outcome, hashes: &[String; 3], metrics: &[Metric], paper: bool) -> Value {
    let requests = match outcome {
        Outcome::Choice { answers, .. } => answers.len(),
        Outcome::Text { .. } => 1,
    };
    let all_arguments = (0..requests).map(|index| {
        let arguments = arguments(&document.body, index, paper);
        let named = arguments.into_iter().enumerate().map(|(place, text)| (format!("arg_{place}"), json!(text)));
        (format!("gen_args_{index}"), Value::Object(named.collect()))
    });
    let responses: Vec<Value> = match outcome {
        Outcome::Choice { answers, .. } => answers
            .iter()
            .map(|answer| json!([repr(answer.log_likelihood.into()), if answer.greedy { "True" } else { "False" }]))
            .collect(),
        Outcome::Text { log_likelihood, .. } => vec![json!(repr(*log_likelihood))],
    };
    let mut line = Map::new();
    for (key, value) in [
        ("doc_id", json!(document.id)),
        ("doc", Value::Object(document.row.clone())),
        ("target", json!(target(&document.body))),
        ("arguments", Value::Object(all_arguments.collect())),
        ("resps", responses.iter().map(|response| json!([response])).collect()),
        ("filtered_resps", Value::Array(responses)),
        ("filter", json!("none")),
        ("metrics", metrics.iter().map(|metric| json!(metric.name())).collect()),
        ("doc_hash", json!(hashes[0])),
        ("prompt_hash", json!(hashes[1])),
        ("target_hash", json!(hashes[2])),
    ] {
        line.insert(key.to_owned(), value);
    }
    for metric in metrics {
        let (top, bottom) = outcome.parts(*metric);
        let value = match outcome {
            Outcome::Choice { .. } => json!(top),
            Outcome::Text { .. } => json!([top, bottom as u64]),
        };
        line.insert(metric.name().to_owned(), value);
    }
    Value::Object(line)
}
