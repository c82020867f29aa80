//! One line a document, as lm-evaluation-harness writes them, hashes included.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::scores::TaskScore;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::encode::paper_answer;
use super::gen_kwargs::GenKwargs;
use super::job::Part;
use super::metrics::Takes;
use super::prompts::AskedDocument;
use super::python::{repr, to_json, to_json_pretty};
use super::request::{Answer, Completion, Request, Written};
use super::tasks::{About, Filter, Task};
use crate::checkpoint::create_file;
use crate::{Error, Result};

/// How each answer of a document was written, in its line.
pub(super) const GENERATIONS: &str = "generations";

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
    // what stands behind the prompt is no part of its hash
    let hash = |document: &AskedDocument| {
        let prompt = document
            .requests
            .first()
            .and_then(|request| arguments(request, part.leaf.task.about(), (paper, None)).into_iter().next());
        let prompt = prompt.as_ref().and_then(Value::as_str).unwrap_or_default();
        [sha(&to_json_pretty(&document.row)), sha(prompt), sha(&document.target)]
    };
    let documents: Vec<[String; 3]> = part.prompts.documents.iter().map(hash).collect();
    // of each document's line, and every filter has one
    let task = sha(&documents.concat().concat().repeat(part.leaf.task.about().filters.len()));
    Hashes { documents, task }
}

/// Whether it is asked as the paper's scripts do, and what `--gen-kwargs` says.
pub(super) type Asked<'a> = (bool, Option<&'a GenKwargs>);

/// How a task's answers are generated: what its definition says, and over it the user.
pub(super) fn told(about: &About, kwargs: Option<&GenKwargs>) -> Option<Value> {
    let own = GenKwargs::of_definition(about.definition);
    let told = match (own, kwargs) {
        (Some(own), Some(kwargs)) => Some(kwargs.over(&own)),
        (own, kwargs) => own.or_else(|| kwargs.cloned()),
    };
    told.map(|told| Value::Object(told.written().clone()))
}

/// A request's arguments, as the reference passes them: context and continuation, a text, context and settings.
fn arguments(request: &Request, about: &About, (paper, kwargs): Asked<'_>) -> Vec<Value> {
    match request {
        Request::LogLikelihood { context, continuation } => {
            let continuation = if paper { paper_answer(continuation) } else { continuation.clone() };
            vec![json!(context.text()), json!(continuation)]
        }
        Request::LogLikelihoodRolling { text } => vec![json!(text)],
        Request::GenerateUntil { context, until, max_gen_toks, .. } => {
            let told = told(about, kwargs);
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
        Answer::Text(said) => json!(said.text),
    }
}

/// Writes a line for each document, filter after filter.
pub(super) fn write(path: &Path, part: &Part, score: &TaskScore, hashes: &Hashes, asked: Asked<'_>) -> Result<()> {
    written(path, &mut |out| lines(out, part, score, hashes, asked))
}

/// A file of lines.
fn written(path: &Path, lines: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let io = |error: io::Error| Error::io(path, &error);
    let mut out = BufWriter::new(create_file(path)?);
    lines(&mut out).map_err(io)?;
    out.flush().map_err(io)
}

fn lines(out: &mut dyn Write, part: &Part, score: &TaskScore, hashes: &Hashes, asked: Asked<'_>) -> io::Result<()> {
    let About { filters, metrics, .. } = *part.leaf.task.about();
    for (place, filter) in filters.iter().enumerate() {
        let measured = place * metrics.len()..(place + 1) * metrics.len();
        for ((document, outcome), hashes) in part.prompts.documents.iter().zip(&score.outcomes).zip(&hashes.documents) {
            let mut line = line(document, &outcome.answers, filter, (part.leaf.task, asked), hashes);
            let written = outcome.answers.iter().map(Answer::written).collect::<Option<Vec<Written>>>();
            if let Some(written) = written.filter(|_| !outcome.written.is_empty()) {
                line.insert(GENERATIONS.to_owned(), json!(written));
            }
            if !outcome.passed.is_empty() {
                line.insert("passed".to_owned(), json!(outcome.passed));
            }
            let measures = outcome.measures.get(measured.clone()).unwrap_or_default();
            for (metric, measure) in metrics.iter().zip(measures) {
                let (sum, weight) = measure.parts();
                let value = match metric.takes {
                    Takes::Text(_) => json!([sum, weight as u64]),
                    Takes::Class => json!([sum as u64, weight as u64]),
                    Takes::Choice(_)
                    | Takes::Continuation(_)
                    | Takes::Generated
                    | Takes::Written(_)
                    | Takes::Passed(_) => json!(sum),
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
    (task, asked): (&dyn Task, Asked<'_>),
    hashes: &[String; 3],
) -> Map<String, Value> {
    let about = task.about();
    // what cannot be filtered was told when it was judged
    let filtered = task.filtered(filter, &document.row, answers).unwrap_or_default();
    let all_arguments = document.requests.iter().enumerate().map(|(index, request)| {
        let arguments = arguments(request, about, asked).into_iter().enumerate();
        let named = arguments.map(|(place, argument)| (format!("arg_{place}"), argument));
        (format!("gen_args_{index}"), Value::Object(named.collect()))
    });
    let filtered: Vec<Value> = filtered.iter().map(response).collect();
    let filtered = if filter.takes_all { json!([filtered]) } else { json!(filtered) };
    let is_drawn = matches!(document.requests[..], [Request::GenerateUntil { draws: Some(_), .. }]);
    let resps = match is_drawn {
        true => json!([answers.iter().map(response).collect::<Vec<_>>()]),
        false => answers.iter().map(|answer| json!(vec![response(answer); about.repeats])).collect(),
    };
    let entries = [
        ("doc_id", json!(document.id)),
        ("doc", Value::Object(document.row.clone())),
        ("target", json!(document.target)),
        ("arguments", Value::Object(all_arguments.collect())),
        ("resps", resps),
        ("filtered_resps", filtered),
        ("filter", json!(filter.name)),
        ("metrics", about.metrics.iter().map(|metric| json!(metric.name)).collect()),
        ("doc_hash", json!(hashes[0])),
        ("prompt_hash", json!(hashes[1])),
        ("target_hash", json!(hashes[2])),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Writes the programs of a task in the layout of openai/human-eval, which others score too: a line for each with
/// `task_id` and `completion`, what follows the prompt.
pub(super) fn write_programs(path: &Path, part: &Part, score: &TaskScore) -> Result<()> {
    written(path, &mut |out| programs(out, part, score))
}

fn programs(out: &mut dyn Write, part: &Part, score: &TaskScore) -> io::Result<()> {
    let task = part.leaf.task;
    for (document, outcome) in part.prompts.documents.iter().zip(&score.outcomes) {
        let own = ["task_id", "id"].iter().find_map(|name| document.row.get(*name)).cloned();
        let id = own.unwrap_or_else(|| json!(format!("{}/{}", part.leaf.name, document.id)));
        let prompt = document.row.get("prompt").and_then(Value::as_str).unwrap_or_default();
        for filter in task.about().filters {
            for answer in task.filtered(filter, &document.row, &outcome.answers).unwrap_or_default() {
                let Answer::Text(Completion { text, .. }) = answer else { continue };
                let completion = text.strip_prefix(prompt).unwrap_or(&text);
                writeln!(out, "{}", json!({"task_id": id, "completion": completion}))?;
            }
        }
    }
    Ok(())
}
