//! Every run of lm-evaluation-harness that was recorded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prune::arch::ModelSpec;
use prune::commands::eval::eval;
use prune::eval::metrics::{NO_FILTER, TaskMetric, pooled};
use prune::eval::settings::EvalSettings;
use prune::progress::Silent;
use serde_json::{Map, Value};

use crate::arch::cases::{Case, read as read_case, weights};
use crate::eval::shared::{close, lines, number, read, settings};
use crate::fixture::material::shared;
use crate::fixture::write_weights;
use crate::golden;

/// The golden items where a user would have them; examples come from the scored split, as in the reference's run.
fn golden_data(golden: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: &str, to: &str| {
        let to = folder.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden.join("data").join(from), to).unwrap();
    };
    for task in ["boolq", "hellaswag", "piqa", "winogrande", "c4"] {
        copy(&format!("{task}/validation.jsonl"), &format!("{task}/validation.jsonl"));
    }
    copy("wikitext/test.jsonl", "wikitext/test.jsonl");
    copy("arc/test.jsonl", "arc_easy/test.jsonl");
    copy("arc/test.jsonl", "arc_challenge/test.jsonl");
    for subject in SUBJECTS {
        for split in ["dev", "test"] {
            let path = format!("mmlu/{subject}/{split}.jsonl");
            copy(&path, &path);
        }
    }
    folder
}

const SUBJECTS: [&str; 3] = ["abstract_algebra", "us_foreign_policy", "high_school_statistics"];

fn compare_samples(task: &str, ours: &[Value], golden: &[Value]) -> usize {
    assert_eq!(ours.len(), golden.len(), "{task}");
    let mut compared = 0;
    for (ours, golden) in ours.iter().zip(golden) {
        let place = format!("{task} {}", golden["doc_id"]);
        for key in ["doc_id", "doc", "target", "arguments", "filter", "doc_hash", "prompt_hash", "target_hash"] {
            assert_eq!(ours[key], golden[key], "{place} {key}");
        }
        let keys = |line: &Value| line.as_object().unwrap().keys().take(11).cloned().collect::<Vec<_>>();
        assert_eq!(keys(ours), keys(golden), "{place}");
        let (found, expected) =
            (ours["filtered_resps"].as_array().unwrap(), golden["filtered_resps"].as_array().unwrap());
        assert_eq!(found.len(), expected.len(), "{place}");
        for (found, expected) in found.iter().zip(expected) {
            match expected {
                Value::Array(pair) => {
                    assert!(close(number(&found[0]), number(&pair[0])), "{place}: {found} for {expected}");
                    assert_eq!(found[1], pair[1], "{place}");
                }
                sum => assert!(close(number(found), number(sum)), "{place}: {found} for {expected}"),
            }
            compared += 1;
        }
        for metric in golden["metrics"].as_array().unwrap() {
            let metric = metric.as_str().unwrap();
            match &golden[metric] {
                Value::Array(pair) => {
                    assert!(close(number(&ours[metric][0]), number(&pair[0])), "{place} {metric}");
                    assert_eq!(ours[metric][1], pair[1], "{place} {metric}");
                }
                value => assert_eq!(&ours[metric], value, "{place} {metric}"),
            }
        }
    }
    compared
}

fn compare_results(ours: &Value, golden: &Value) {
    for (task, expected) in golden["results"].as_object().unwrap().iter().filter(|(task, _)| *task != "mmlu_golden") {
        let found = &ours["results"][task];
        for (key, expected) in expected.as_object().unwrap() {
            match expected {
                Value::Number(_) => {
                    let (found, expected) = (number(&found[key]), number(expected));
                    let tolerance = if key.contains("perplexity") || key.contains("bits") { 1e-6 } else { 1e-14 };
                    assert!(
                        (found - expected).abs() <= tolerance * expected.abs().max(1.0),
                        "{task} {key}: {found} for {expected}"
                    );
                }
                other => assert_eq!(&found[key], other, "{task} {key}"),
            }
        }
        assert_eq!(ours["task_hashes"][task], golden["task_hashes"][task], "{task}");
        for key in ["versions", "n-shot", "n-samples"] {
            assert_eq!(ours[key][task], golden[key][task], "{task} {key}");
        }
    }
    for key in ["tokenizer_pad_token", "tokenizer_eos_token", "tokenizer_bos_token", "eot_token_id", "max_length"] {
        if key != "tokenizer_pad_token" {
            assert_eq!(ours[key], golden[key], "{key}");
        }
    }
    assert_eq!(ours["config"]["model_num_parameters"], golden["config"]["model_num_parameters"]);
    if golden["groups"].is_object() {
        let member = |subject: &&str| {
            let entry = &ours["results"][format!("mmlu_{subject}")];
            (
                number(&entry["acc,none"]),
                entry["acc_stderr,none"].as_f64(),
                entry["sample_len"].as_u64().unwrap() as usize,
            )
        };
        let group = pooled((TaskMetric::ACC, NO_FILTER), &SUBJECTS.iter().map(member).collect::<Vec<_>>(), true);
        let expected = &golden["groups"]["mmlu_golden"];
        assert!((group.value - number(&expected["acc,none"])).abs() < 1e-14);
        assert!((group.stderr.unwrap() - number(&expected["acc_stderr,none"])).abs() < 1e-14);
    }
}

#[test]
fn every_golden_run() {
    let Some(golden) = shared("golden/eval") else { return };
    let data = golden_data(&golden);
    let mmlu: Vec<String> = SUBJECTS.iter().map(|subject| format!("mmlu_{subject}")).collect();
    let mut compared = 0;
    for run in fs::read_dir(golden.join("runs")).unwrap() {
        let run = run.unwrap().path();
        let name = run.file_name().unwrap().to_string_lossy().into_owned();
        let tasks: Vec<String> = match &name {
            name if name.ends_with("-ppl") => vec!["wikitext".into(), "c4".into()],
            name if name.ends_with("zeroshot") => {
                let tasks = ["boolq", "hellaswag", "arc_easy", "arc_challenge", "piqa", "winogrande", "wikitext", "c4"];
                tasks.map(str::to_owned).to_vec()
            }
            _ => mmlu.clone(),
        };
        let out = tempfile::tempdir().unwrap();
        let settings = EvalSettings {
            tasks,
            data_dir: Some(data.path().to_owned()),
            bos: name.contains("nobos").then_some(false),
            max_length: name.contains("maxlen96").then_some(96),
            out: Some(out.path().join("out")),
            ..settings(&golden.join(format!("model-{}", &name[..6])), &[])
        };
        eval(&settings, &Silent).unwrap();
        let (results, samples) = read(&out.path().join("out"));
        compare_results(
            &results,
            &serde_json::from_str(&fs::read_to_string(run.join("results.json")).unwrap()).unwrap(),
        );
        for (task, ours) in &samples {
            compared += compare_samples(task, ours, &lines(&run.join(format!("samples_{task}.jsonl"))));
        }
    }
    assert_eq!(compared, 316);
}

/// Invented questions of six tasks, of which lm-evaluation-harness's sample files are in `tests/data/golden`.
#[test]
fn invented_questions_equal_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let (model, samples) = (dir.path().join("model"), golden::path("samples"));
    fs::create_dir(&model).unwrap();
    let tokenizer = golden::path("../tokens/llama3");
    for file in [samples.join("config.json"), tokenizer.join("tokenizer.json"), tokenizer.join("tokenizer_config.json")]
    {
        fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
    }
    llama_weights(&model);
    let mut compared = 0;
    for (out, shots, tasks) in [
        ("shots", Some(2), &["mmlu_abstract_algebra"][..]),
        ("zero", None, &["boolq", "hellaswag", "winogrande", "arc_easy", "piqa"]),
    ] {
        let out = dir.path().join(out);
        let base = settings(&model, tasks);
        let data_dir = Some(golden::path("questions"));
        eval(&EvalSettings { few_shot: shots, data_dir, out: Some(out.clone()), ..base }, &Silent).unwrap();
        for (task, ours) in &read(&out).1 {
            compared += compare_samples(task, ours, &lines(&samples.join(format!("{task}.jsonl"))));
        }
    }
    assert_eq!(compared, 8 + 4 + 8 + 4 + 7 + 4);
}

/// Weights from the formula for the config in `dir`.
pub(crate) fn llama_weights(dir: &Path) {
    let config: Map<String, Value> =
        serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
    let spec = ModelSpec::from_config(&config).unwrap();
    let table = vec![spec.vocab_size, spec.hidden_size];
    let outer = [
        ("model.embed_tokens.weight".to_owned(), table.clone()),
        ("model.norm.weight".to_owned(), vec![spec.hidden_size]),
        ("lm_head.weight".to_owned(), table),
    ];
    let layers = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer)).map(|tensor| (tensor.name, tensor.shape));
    let seed = read_case::<Case>("llama").seed;
    let tensors: Vec<_> = outer.into_iter().chain(layers).map(|(name, shape)| weights(seed, name, shape)).collect();
    write_weights(dir, &tensors, 1);
}

/// Compares with the peer's own record of each question: log-likelihoods, greediness, prompt digests, accuracy.
fn compare_peer(samples: &BTreeMap<String, Vec<Value>>, record: &Path) -> usize {
    let mut compared = 0;
    for line in lines(record) {
        let task = line["task"].as_str().unwrap().strip_prefix("local_").unwrap();
        let ours = &samples[task][line["doc_id"].as_u64().unwrap() as usize];
        let place = format!("{task} {}", line["doc_id"]);
        assert_eq!(ours["prompt_hash"], line["context_sha256"], "{place}");
        assert_eq!(ours["target"], line["target"].to_string(), "{place}");
        assert_eq!(ours["acc"], line["acc"], "{place}");
        let responses = ours["filtered_resps"].as_array().unwrap().iter();
        for (index, response) in responses.enumerate() {
            let expected = number(&line["ll"][index]);
            assert!(close(number(&response[0]), expected), "{place}: {response} for {expected}");
            assert_eq!(response[1] == "True", line["greedy"][index].as_bool().unwrap(), "{place}");
            compared += 1;
        }
    }
    compared
}

#[test]
fn tiny_equals_the_peer() {
    let Some(golden) = shared("golden/mini") else { return };
    let out = tempfile::tempdir().unwrap();
    let settings = EvalSettings {
        data_dir: Some(golden.join("eval")),
        out: Some(out.path().join("out")),
        ..settings(&golden.join("tiny"), &["mmlu", "boolq"])
    };
    let report = eval(&settings, &Silent).unwrap();
    let (results, samples) = read(&out.path().join("out"));
    assert_eq!(compare_peer(&samples, &golden.join("eval/eval-tiny-mmlu.jsonl")), 1200);
    assert_eq!(compare_peer(&samples, &golden.join("eval/eval-tiny-boolq.jsonl")), 400);
    // a group of the subjects that are there, and shared examples run once a pass
    assert_eq!(results["groups"]["mmlu"]["sample_len"], 300);
    assert!(report.passes.tokens_run * 2 < report.passes.tokens_asked, "{:?}", report.passes);
}

#[test]
fn mini_equals_the_peer() {
    let Some(golden) = shared("golden/mini") else { return };
    let dir = tempfile::tempdir().unwrap();
    if !crate::fixture::formula::mini(&dir.path().join("mini")) {
        return;
    }
    let base = EvalSettings { data_dir: Some(golden.join("eval")), ..settings(&dir.path().join("mini"), &[]) };
    for (task, limit, answers) in [("mmlu", 6u32, 72), ("boolq", 12, 24)] {
        let out = dir.path().join(task);
        let settings = EvalSettings {
            tasks: vec![task.into()],
            limit: Some(f64::from(limit)),
            out: Some(out.clone()),
            ..base.clone()
        };
        eval(&settings, &Silent).unwrap();
        let record = golden.join(format!("eval/eval-mini-{task}.jsonl"));
        let known: Vec<Value> =
            lines(&record).into_iter().filter(|line| line["doc_id"].as_u64() < Some(limit.into())).collect();
        let record = dir.path().join("record.jsonl");
        fs::write(&record, known.iter().map(|line| line.to_string() + "\n").collect::<String>()).unwrap();
        assert_eq!(compare_peer(&read(&out).1, &record), answers);
    }
}
