//! IFEval (arXiv 2311.07911): instructions that a program can check, strictly and loosely, by prompt and by
//! instruction.
//!
//! Instructions whose check needs a sentence tokenizer, a language detector or a draw of the harness's own are kept
//! apart: they count neither as followed nor as not, a prompt with one counts by instruction alone, and
//! `inst_level_unchecked` is their share.

mod checks;

use serde_json::Value;

use super::{AS_THEY_ARE, About, OutputType, Sampler, Task};
use crate::eval::fields::{Fields, text, texts, value, wrong};
use crate::eval::metrics::TaskMetric;
use crate::eval::outcome::Measure;
use crate::eval::python::strip;
use crate::eval::request::{Answer, Completion, Request};
use crate::eval::shots::{Example, Shots};
use crate::{Error, Result};

use checks::Instruction;

/// The task.
#[derive(Debug)]
pub(super) struct IfEval;

pub(super) const TASK: IfEval = IfEval;

const ABOUT: About = About {
    name: "ifeval",
    title: "IFEval",
    dataset: "google/IFEval",
    split: "train",
    sampler: Sampler::Drawn,
    is_zero_shot: true,
    output: OutputType::Generate,
    metrics: &[
        TaskMetric::PROMPT_STRICT,
        TaskMetric::INST_STRICT,
        TaskMetric::PROMPT_LOOSE,
        TaskMetric::INST_LOOSE,
        TaskMetric::INST_UNCHECKED,
    ],
    filters: AS_THEY_ARE,
    version: 4.0,
    definition: r#"{"doc_to_text": "prompt", "doc_to_target": 0, "process_results": "!function utils.process_results", "generation_kwargs": {"until": [], "do_sample": false, "temperature": 0.0, "max_gen_toks": 1280}}"#,
    ..About::CHOICE
};

/// The instructions of a document; nothing for one that is kept apart.
fn instructions(document: &Fields) -> Result<Vec<Option<Instruction>>> {
    let names = texts(document.get("instruction_id_list"), "instruction_id_list")?;
    let settings = value(document, "kwargs")?.as_array().filter(|settings| settings.len() == names.len());
    let settings = settings.ok_or_else(|| wrong("kwargs", "a list with as many entries as instruction_id_list"))?;
    let none = Fields::new();
    let made = names
        .iter()
        .zip(settings)
        .map(|(name, settings)| Instruction::new(name, settings.as_object().unwrap_or(&none)));
    made.collect()
}

impl Task for IfEval {
    fn about(&self) -> &About {
        &ABOUT
    }

    fn target(&self, _document: &Fields) -> Result<String> {
        Ok("0".to_owned())
    }

    fn example(&self, document: &Fields) -> Result<Example> {
        Ok(Example::new(text(document, "prompt")?, ""))
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
        // what cannot be checked is told before the work
        instructions(document)?;
        let context = shots.before(text(document, "prompt")?)?;
        Ok(vec![Request::GenerateUntil { context, until: &[], max_gen_toks: Some(1280), draws: None }])
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let Some(Answer::Text(Completion { text: said, .. })) = answers.first() else {
            return Err(Error::work("ifeval: nothing was said"));
        };
        let all = instructions(document)?;
        let known: Vec<&Instruction> = all.iter().flatten().collect();
        let followed = |responses: &[String]| -> Result<usize> {
            let mut count = 0;
            for instruction in &known {
                let mut is_followed = false;
                for response in responses.iter().filter(|response| !strip(response).is_empty()) {
                    is_followed = is_followed || instruction.is_followed(response)?;
                }
                count += usize::from(is_followed);
            }
            Ok(count)
        };
        let (strict, loose) = (followed(std::slice::from_ref(said))?, followed(&variants(said))?);
        // a prompt is judged where all of it can be
        let whole = f64::from(u8::from(known.len() == all.len()));
        let prompt =
            |count: usize| Measure { sum: if count == all.len() { whole } else { 0.0 }, weight: whole, chosen: None };
        let each = |count: usize| Measure { sum: count as f64, weight: known.len() as f64, chosen: None };
        let unchecked = Measure { sum: (all.len() - known.len()) as f64, weight: all.len() as f64, chosen: None };
        Ok(vec![prompt(strict), each(strict), prompt(loose), each(loose), unchecked])
    }
}

/// The response and what it is without its first line, its last, both, and without asterisks.
fn variants(response: &str) -> Vec<String> {
    let lines: Vec<&str> = response.split('\n').collect();
    let part = |from: usize, to: usize| strip(&lines.get(from..to.max(from)).unwrap_or_default().join("\n")).to_owned();
    let count = lines.len();
    let plain = [response.to_owned(), part(1, count), part(0, count - 1), part(1, count.saturating_sub(1))];
    let bare: Vec<String> = plain.iter().map(|text| text.replace('*', "")).collect();
    plain.into_iter().chain(bare).collect()
}

/// A value that the harness does not drop: neither null, nor zero, nor empty.
fn given<'a>(settings: &'a Fields, name: &str) -> Option<&'a Value> {
    settings.get(name).filter(|value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the harness makes of every recorded answer to every recorded document.
    #[test]
    fn answers_are_judged_as_the_harness_judges_them() {
        let read = |name: &str| {
            let path = format!("{}/tests/data/eval/{name}", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        let (documents, cases) = (read("data/IFEval/train.jsonl"), read("cases.jsonl"));
        let judged = cases.iter().filter(|case| case["task"] == "ifeval").flat_map(|case| case["judged"].as_array());
        let mut compared = 0;
        for answer in judged.flatten() {
            let said = [Answer::text(answer[0].as_str().unwrap().to_owned())];
            for (document, expected) in documents.iter().zip(answer[1].as_array().unwrap()) {
                let found = TASK.judge(document.as_object().unwrap(), &said).unwrap();
                for (metric, measure) in ABOUT.metrics.iter().zip(&found).take(4) {
                    let expected = expected["none"][metric.name].as_f64().unwrap();
                    assert_eq!(measure.sum, expected, "{} {:?} {}", metric.name, answer[0], document["key"]);
                    compared += 1;
                }
            }
        }
        assert!(compared > 2000, "{compared}");
    }
}
