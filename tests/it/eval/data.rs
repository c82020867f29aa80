//! Data as users have them: layouts, whole subjects, the hub.

use prune::commands::eval::eval;
use prune::eval::settings::{Compat, EvalSettings};
use prune::progress::Silent;
use serde_json::{Map, Value, json};

use crate::checkpoint::server;
use crate::eval::shared::{Small, number, read, settings};
use crate::fixture::Llama;
use crate::fixture::material::shared;

/// BoolQ in SuperGLUE's layout and in its original one is the same task, whatever file it comes from.
#[test]
fn real_boolq_in_two_layouts() {
    let (Some(data), Some(golden)) = (shared("data/boolq"), shared("golden/mini/tiny")) else { return };
    let out = tempfile::tempdir().unwrap();
    let figures = ["superglue_val.jsonl", "dev.jsonl"].map(|file| {
        let settings = EvalSettings {
            data_dir: Some(data.join(file)),
            limit: Some(8.0),
            out: Some(out.path().join(file)),
            ..settings(&golden, &["boolq"])
        };
        eval(&settings, &Silent).unwrap();
        let (_, samples) = read(&out.path().join(file));
        let prompt = |line: &Value| (line["prompt_hash"].clone(), line["filtered_resps"].clone(), line["acc"].clone());
        samples["boolq"].iter().map(prompt).collect::<Vec<_>>()
    });
    assert_eq!(figures[0], figures[1]);
}

/// The whole of MMLU in hendrycks' layout, read and tokenised.
#[test]
fn all_57_subjects_are_read() {
    let (Some(data), Some(golden)) = (shared("data/mmlu"), shared("golden/mini/tiny")) else { return };
    let settings =
        EvalSettings { data_dir: Some(data), limit: Some(3.0), dry_run: true, ..settings(&golden, &["mmlu"]) };
    let report = eval(&settings, &Silent).unwrap();
    assert_eq!((report.passes.documents, report.passes.requests), (171, 684));
}

#[test]
fn the_papers_way() {
    let small = Small::new();
    let settings =
        EvalSettings { paper: true, tasks: vec!["mmlu".into(), "boolq".into()], ..small.settings("model", "paper") };
    eval(&settings, &Silent).unwrap();
    let (results, samples) = read(&small.path("paper"));
    let line: &Map<String, Value> = samples["boolq"][0].as_object().unwrap();
    assert_eq!(line["arguments"]["gen_args_1"]["arg_1"], "Yes");
    // both answers are unknown words to this tokenizer, so the first one wins
    assert_eq!(line["filtered_resps"][0][0], line["filtered_resps"][1][0]);
    assert_eq!(number(&results["results"]["boolq"]["acc,none"]), 0.5);
}

/// Version 0.4.13 takes the logarithms in the model's own type, where choices tie and the first one wins.
#[test]
fn narrow_models_have_narrow_log_probabilities_in_version_0_4_13() {
    let small = Small::new();
    Llama { dtype: safetensors::Dtype::BF16, ..Llama::default() }.write(&small.path("narrow"));
    let narrow = |compat: Option<Compat>, out: &str| {
        let settings = EvalSettings { tasks: vec!["mmlu".into()], compat, ..small.settings("narrow", out) };
        eval(&settings, &Silent).unwrap();
        let (_, samples) = read(&small.path(out));
        let answers = samples["mmlu_queens"].iter().flat_map(|line| line["filtered_resps"].as_array().unwrap().clone());
        answers.map(|answer| number(&answer[0]) as f32).collect::<Vec<f32>>()
    };
    let (own, f32s) = (narrow(Some(Compat::V0_4_13), "own"), narrow(None, "f32"));
    assert!(own.iter().all(|ll| half::bf16::from_f32(*ll).to_f32() == *ll));
    assert!(own.iter().zip(&f32s).all(|(own, exact)| half::bf16::from_f32(*exact).to_f32() == *own));
    assert!(own.iter().zip(&f32s).any(|(own, exact)| own != exact));
}

/// Data sets come from the hub once, then from its cache, also without a network.
#[test]
fn data_come_from_the_hub_and_then_from_its_cache() {
    use prune::checkpoint::Hub;
    use prune::eval::prompts::prompts;
    use prune::eval::room::Room;
    use prune::eval::select::Leaf;
    use prune::eval::source::TaskSource;
    use prune::eval::tasks::{About, MultipleChoice, Question, Task, named};

    let row = |i: usize| {
        json!({"question": format!("w{i}"), "choices": ["w3", "w4", "w5", "w6"], "answer": i % 4}).to_string()
    };
    let rows = |n: usize| (0..n).map(|i| row(i) + "\n").collect::<String>().into_bytes();
    let files = server::Files::from([
        ("queens/test-00000-of-00001.jsonl".to_owned(), rows(7)),
        ("queens/dev-00000-of-00001.jsonl".to_owned(), rows(5)),
        ("all/test-00000-of-00001.jsonl".to_owned(), rows(9)),
        ("README.md".to_owned(), b"nothing".to_vec()),
    ]);
    let server = server::Server::start(files);
    let home = tempfile::tempdir().unwrap();
    let hub = |offline: &str| {
        let home = home.path().display().to_string();
        Hub::from_vars(|name| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_ENDPOINT" => Some(server.endpoint.clone()),
            "HF_HUB_OFFLINE" => Some(offline.to_owned()),
            _ => None,
        })
    };
    let about = About { dataset: "org/name", ..*named("mmlu").unwrap().about() };
    let question = |row: &Map<String, Value>| {
        let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
        Question::new(text("question"), ["A", "B", "C", "D"].map(str::to_owned).to_vec(), 0, &json!(0))
    };
    let mmlu = MultipleChoice { about, prepare: Ok, question, description: |_| String::new() };
    let task: &'static dyn Task = Box::leak(Box::new(mmlu));
    let leaf =
        |subject: &str| Leaf { name: format!("mmlu_{subject}"), task, subject: Some(subject.into()), file: None };
    let read = |offline: &str, subject: &str| {
        let source = TaskSource::hub(hub(offline).unwrap());
        prompts(&leaf(subject), None, &source, &EvalSettings::default(), &Room::new(u64::MAX), &Silent)
    };
    let text = |error: prune::Error| (error.to_string(), error.exit_code());
    assert!(matches!(text(read("1", "queens").unwrap_err()), (text, 2) if text.contains("not in the cache")));
    assert_eq!(read("", "queens").unwrap().documents.len(), 7);
    let fetched = server.requests();
    assert!(fetched.iter().all(|line| !line.contains("/resolve/") || line.contains("/queens/")), "{fetched:?}");
    assert_eq!(read("1", "queens").unwrap().documents.len(), 7);
    assert!(server.requests().is_empty());
    assert!(matches!(text(read("1", "kings").unwrap_err()), (text, 2) if text.contains("subject kings")));
}
