//! Answers in the model's own words: as lm-evaluation-harness has them, one by one as together.

use std::fs;
use std::path::Path;

use prune::checkpoint::{Checkpoint, Hub};
use prune::commands::eval::eval;
use prune::data::{Special, Tokenizer, end_tokens};
use prune::eval::settings::{Compat, EvalSettings};
use prune::model::{Cache, Ended, Model, ModelOptions, SamplingParams, repeats_from};
use prune::progress::Silent;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::eval::shared::{Small, message, number, read, settings};
use crate::fixture::material::shared;

/// Problems of words that the fixture's tokenizer knows, of several lengths, in GSM8K's files.
pub(crate) fn problems(small: &Small, count: usize) {
    let words =
        |from: usize, len: usize| (from..from + len).map(|n| format!("w{}", 3 + n % 61)).collect::<Vec<_>>().join(" ");
    let row = |n: usize| json!({"question": words(n, 3 + n % 9), "answer": format!("{}\n#### {n}", words(2 * n, 4))});
    let rows = |range: std::ops::Range<usize>| range.map(|n| row(n).to_string() + "\n").collect::<String>();
    fs::create_dir_all(small.path("data/gsm8k")).unwrap();
    fs::write(small.path("data/gsm8k/train.jsonl"), rows(500..510)).unwrap();
    fs::write(small.path("data/gsm8k/test.jsonl"), rows(0..count)).unwrap();
}

/// One example, and room for a prompt before 256 new tokens.
pub(crate) fn generation(small: &Small, out: &str) -> EvalSettings {
    let settings = small.settings("model", out);
    EvalSettings { tasks: vec!["gsm8k".into()], few_shot: Some(1), max_length: Some(300), ..settings }
}

fn opened(settings: &EvalSettings) -> Model {
    let checkpoint = Checkpoint::open(settings.model.as_deref().unwrap(), &Hub::from_env().unwrap(), &Silent).unwrap();
    Model::open(checkpoint.into(), &ModelOptions::default(), &Silent).unwrap()
}

fn lines<'a>(samples: &'a [Value], filter: &str) -> Vec<&'a Value> {
    samples.iter().filter(|line| line["filter"] == filter).collect()
}

#[test]
fn answers_together_are_those_of_each_alone() {
    let small = Small::new();
    problems(&small, 20);
    let settings = generation(&small, "out");
    let report = eval(&settings, &Silent).unwrap();
    assert_eq!((report.passes.documents, report.passes.requests, report.passes.passes), (20, 20, 2));
    let metrics: Vec<&str> = report.figures.iter().map(|figure| figure.metric.as_str()).collect();
    let written = ["repeated_suffix", "cut_at_limit", "generated_tokens"];
    assert_eq!(metrics[..2], ["exact_match,strict-match", "exact_match,flexible-extract"]);
    assert_eq!(metrics[2..], written);
    let (results, samples) = read(&small.path("out"));
    let samples = &samples["gsm8k"];
    let (strict, flexible) = (lines(samples, "strict-match"), lines(samples, "flexible-extract"));
    assert_eq!((strict.len(), flexible.len(), samples.len()), (20, 20, 40));

    let model = opened(&settings);
    let tokenizer = Tokenizer::open(small.path("model")).unwrap();
    for line in &strict {
        let arguments = &line["arguments"]["gen_args_0"];
        assert_eq!(arguments["arg_1"]["until"], json!(["Question:", "</s>", "<|im_end|>"]));
        let prompt = tokenizer.encode(arguments["arg_0"].as_str().unwrap(), Special::Default).unwrap();
        let prompt = &prompt[prompt.len().saturating_sub(300 - 256)..];
        let ends = end_tokens(&small.path("model"), &tokenizer).unwrap();
        let alone = model.generate(prompt, 256, &ends, &SamplingParams::default(), &mut |_| Ok(())).unwrap();
        let generation = &line["generations"][0];
        assert_eq!(generation["repeated_suffix"], repeats_from(&alone.ids).is_some());
        if generation["finish_reason"] == "length" {
            assert_eq!((generation["tokens"].as_u64(), alone.ended), (Some(256), Ended::Length));
        } else {
            assert!(generation["tokens"].as_u64().unwrap() <= alone.ids.len() as u64);
        }
        let said = tokenizer.decode(&alone.ids, true).unwrap();
        let said = ["Question:", "</s>", "<|im_end|>"]
            .iter()
            .fold(said.as_str(), |said, stop| said.split(stop).next().unwrap());
        assert_eq!(line["resps"], json!([[said]]), "{}", line["doc_id"]);
    }
    // what is said of all of them is the mean of what is said of each
    let mean = |of: &dyn Fn(&Value) -> f64| strict.iter().map(|line| of(&line["generations"][0])).sum::<f64>() / 20.0;
    let figures = [
        mean(&|it| f64::from(u8::from(it["repeated_suffix"] == true))),
        mean(&|it| f64::from(u8::from(it["finish_reason"] == "length"))),
        mean(&|it| number(&it["tokens"])),
    ];
    for (name, figure) in written.iter().zip(figures) {
        assert!((number(&results["results"]["gsm8k"][format!("{name},none")]) - figure).abs() < 1e-12, "{name}");
    }
    // a problem whose answer is what the model says last
    let said = flexible[3]["filtered_resps"][0].as_str().unwrap();
    let text = fs::read_to_string(small.path("data/gsm8k/test.jsonl")).unwrap();
    fs::write(small.path("data/gsm8k/test.jsonl"), text.replace("\\n#### 3\"", &format!("\\n#### {said}\""))).unwrap();
    eval(&generation(&small, "right"), &Silent).unwrap();
    let (right, again) = read(&small.path("right"));
    let got = lines(&again["gsm8k"], "flexible-extract")[3]["exact_match"].clone();
    assert_eq!((got, number(&flexible[3]["exact_match"])), (json!(1.0), 0.0));
    let figure = |results: &Value| number(&results["results"]["gsm8k"]["exact_match,flexible-extract"]);
    assert!((figure(&right) - figure(&results) - 0.05).abs() < 1e-12);
}

/// What stands in the prompt or was said is less likely where the model's files say so, as transformers has it.
#[test]
fn a_repetition_penalty_is_obeyed() {
    let small = Small::new();
    problems(&small, 2);
    let path = small.path("model/generation_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["repetition_penalty"] = json!(1.25);
    fs::write(&path, config.to_string()).unwrap();
    let settings = generation(&small, "out");
    eval(&settings, &Silent).unwrap();
    let (_, samples) = read(&small.path("out"));
    let model = opened(&settings);
    let tokenizer = Tokenizer::open(small.path("model")).unwrap();
    let ends = end_tokens(&small.path("model"), &tokenizer).unwrap();
    for line in lines(&samples["gsm8k"], "strict-match") {
        let text = line["arguments"]["gen_args_0"]["arg_0"].as_str().unwrap();
        let prompt = tokenizer.encode(text, Special::Default).unwrap();
        let mut ids = prompt[prompt.len().saturating_sub(300 - 256)..].to_vec();
        let (read, mut cache) = (ids.len(), Cache::new(&model, 300).unwrap());
        let mut stream = model.extend(&mut cache, &ids).unwrap();
        while ids.len() < read + 256 {
            let last = stream.narrow(0, stream.dim(0).unwrap() - 1, 1).unwrap();
            let mut logits = model.logits(&last).unwrap().to_vec2::<f32>().unwrap().remove(0);
            for (_, logit) in logits.iter_mut().enumerate().filter(|(token, _)| ids.contains(&(*token as u32))) {
                *logit = if *logit < 0.0 { *logit * 1.25 } else { *logit / 1.25 };
            }
            let best = (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
            if ends.contains(&best) {
                break;
            }
            ids.push(best);
            stream = model.extend(&mut cache, &[best]).unwrap();
        }
        let said = tokenizer.decode(&ids[read..], true).unwrap();
        let said = said.split("</s>").next().unwrap().to_owned();
        assert_eq!(line["resps"], json!([[said]]), "{}", line["doc_id"]);
    }
}

#[test]
fn finished_answers_are_found_and_compared() {
    let small = Small::new();
    problems(&small, 5);
    let first = eval(&generation(&small, "out"), &Silent).unwrap();
    let again = eval(&generation(&small, "out"), &Silent).unwrap();
    assert!(again.found && again.figures == first.figures);
    // a task beside it leaves it as it is
    let notes = format!("text:{}", small.path("data/notes.jsonl").display());
    let more = EvalSettings { tasks: vec![notes], ..generation(&small, "out") };
    assert_eq!(eval(&more, &Silent).unwrap().kept, ["gsm8k"]);
    let against = EvalSettings { against: Some(small.path("out")), ..generation(&small, "other") };
    let compared = eval(&EvalSettings { out: None, ..against }, &Silent).unwrap().comparisons;
    let names: Vec<String> = compared.iter().map(|comparison| comparison.name()).collect();
    let expected = ["exact_match,strict-match", "exact_match,flexible-extract", "repeated_suffix", "cut_at_limit"];
    assert_eq!(names, expected);
    assert!(compared.iter().all(|comparison| comparison.paired && comparison.difference == 0.0));
    let (text, code) = message(eval(&EvalSettings { max_length: Some(256), ..generation(&small, "x") }, &Silent));
    assert!(text.contains("gsm8k, document 0") && text.contains("256 new tokens") && code == 2, "{text}");
}

/// What lm-evaluation-harness 0.4.13 with transformers 5.23 writes for the first problems of GSM8K, with examples of
/// which a small context keeps only the end: a digest of the answers, and the task's hash.
#[test]
fn gsm8k_equals_the_reference() {
    let (Some(model), Some(data)) = (shared("data/stories260K"), shared("data/gsm8k")) else { return };
    let out = tempfile::tempdir().unwrap();
    let settings = EvalSettings {
        data_dir: Some(data),
        limit: Some(20.0),
        compat: Some(Compat::V0_4_13),
        out: Some(out.path().join("out")),
        ..settings(Path::new(&model), &["gsm8k"])
    };
    eval(&settings, &Silent).unwrap();
    let (results, samples) = read(&out.path().join("out"));
    let said = lines(&samples["gsm8k"], "strict-match");
    let said: Vec<&str> = said.iter().map(|line| line["resps"][0][0].as_str().unwrap()).collect();
    let digest = "1f1d5a44f6424e617c4722f580d752f1d0fd21569b2e7d3b0471781b2d207f56";
    assert_eq!(format!("{:x}", Sha256::digest(said.join("\0"))), digest, "{said:?}");
    let hash = "93ebc65e73eda7508a0775674ecfdbb10b048e0291c8256e8cb51bca333be2a0";
    assert_eq!(results["task_hashes"]["gsm8k"], hash);
    assert_eq!(results["n-samples"]["gsm8k"], json!({"original": 1319, "effective": 20}));
}
