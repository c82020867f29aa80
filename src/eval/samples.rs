//! One line a document, as lm-evaluation-harness writes them, hashes included.

use std::io::{self, Write};

use super::scores::TaskScore;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::encode::paper_answer;
use super::job::Part;
use super::metrics::Takes;
use super::prompts::AskedDocument;
use super::python::{repr, to_json, to_json_pretty};
use super::request::{Answer, Request};
use super::tasks::{About, Filter, Task};

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
    let hash = |document: &AskedDocument| {
        let prompt = document
            .requests
            .first()
            .and_then(|request| arguments(request, part.leaf.task.about(), paper).into_iter().next());
        let prompt = prompt.as_ref().and_then(Value::as_str).unwrap_or_default();
        [sha(&to_json_pretty(&document.row)), sha(prompt), sha(&document.target)]
    };
    let documents: Vec<[String; 3]> = part.prompts.documents.iter().map(hash).collect();
    // of each document's line, and every filter has one
    let task = sha(&documents.concat().concat().repeat(part.leaf.task.about().filters.len()));
    Hashes { documents, task }
}

/// A request's arguments, as the reference passes them: context and continuation, a text, context and settings.
fn arguments(request: &Request, about: &About, paper: bool) -> Vec<Value> {
    match request {
        Request::LogLikelihood { context, continuation } => {
            let continuation = if paper { paper_answer(continuation) } else { continuation.clone() };
            vec![json!(context.text()), json!(continuation)]
        }
        Request::LogLikelihoodRolling { text } => vec![json!(text)],
        Request::GenerateUntil { context, until, max_gen_toks } => {
            let definition: Option<Value> = serde_json::from_str(about.definition).ok();
            let told = definition.and_then(|definition| definition.get("generation_kwargs").cloned());
            let settings = told.unwrap_or_else(|| {
                let mut settings = json!({"until": until, "do_sample": false, "temperature": 0.0});
                if let Some(most) = max_gen_toks {
                    settings["max_gen_toks"] = json!(most);
                }
                settings
            });
            vec![json!(context.text()), settings]
        }
    }
}

/// An answer as the reference writes it.
fn response(answer: &Answer) -> Value {
    match answer {
        Answer::LogLikelihood { log_likelihood, greedy } => {
            json!([repr(f64::from(*log_likelihood)), if *greedy { "True" } else { "False" }])
        }
        Answer::Rolling { log_likelihood, .. } => json!(repr(*log_likelihood)),
        Answer::Text(text) => json!(text),
    }
}

/// Writes a line for each document, filter after filter.
pub(super) fn write(
    out: &mut impl Write,
    part: &Part,
    score: &TaskScore,
    hashes: &Hashes,
    paper: bool,
) -> io::Result<()> {
    let About { filters, metrics, .. } = *part.leaf.task.about();
    for (place, filter) in filters.iter().enumerate() {
        let measured = place * metrics.len()..(place + 1) * metrics.len();
        for ((document, outcome), hashes) in part.prompts.documents.iter().zip(&score.outcomes).zip(&hashes.documents) {
            let mut line = line(document, &outcome.answers, filter, (part.leaf.task, paper), hashes);
            for (metric, measure) in metrics.iter().zip(&outcome.measures[measured.clone()]) {
                let (sum, weight) = measure.parts();
                let value = match metric.takes {
                    Takes::Text(_) => json!([sum, weight as u64]),
                    Takes::Class => json!([sum as u64, weight as u64]),
                    Takes::Choice(_) | Takes::Continuation(_) | Takes::Generated => json!(sum),
                };
                line.insert(metric.name.to_owned(), value);
            }
            writeln!(out, "{}", to_json(&line))?;
        }
    }
    Ok(())
}

/// A document's line without its figures.
fn line(
    document: &AskedDocument,
    answers: &[Answer],
    filter: &Filter,
    (task, paper): (&dyn Task, bool),
    hashes: &[String; 3],
) -> Map<String, Value> {
    let about = task.about();
    // what cannot be filtered was told when it was judged
    let filtered = task.filtered(filter, &document.row, answers).unwrap_or_default();
    let all_arguments = document.requests.iter().enumerate().map(|(index, request)| {
        let arguments = arguments(request, about, paper).into_iter().enumerate();
        let named = arguments.map(|(place, argument)| (format!("arg_{place}"), argument));
        (format!("gen_args_{index}"), Value::Object(named.collect()))
    });
    let entries = [
        ("doc_id", json!(document.id)),
        ("doc", Value::Object(document.row.clone())),
        ("target", json!(document.target)),
        ("arguments", Value::Object(all_arguments.collect())),
        ("resps", answers.iter().map(|answer| json!(vec![response(answer); about.repeats])).collect()),
        ("filtered_resps", filtered.iter().map(response).collect()),
        ("filter", json!(filter.name)),
        ("metrics", about.metrics.iter().map(|metric| json!(metric.name)).collect()),
        ("doc_hash", json!(hashes[0])),
        ("prompt_hash", json!(hashes[1])),
        ("target_hash", json!(hashes[2])),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
