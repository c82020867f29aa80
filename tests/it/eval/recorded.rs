//! What lm-evaluation-harness asks, answers and measures on invented rows (`tests/data/eval`, made by
//! `tests/interop/eval_cases.py`): in conversations by chat templates, and without.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use prune::commands::eval::{eval, eval_of};
use prune::data::Tokenizer;
use prune::eval::chat::AppliedTemplate;
use prune::eval::code::{CodeRunner, pass_at_k};
use prune::eval::defined::TaskFiles;
use prune::eval::encode::Encoder;
use prune::eval::fields::Fields;
use prune::eval::metrics::{Takes, TaskMetric};
use prune::eval::outcome::Measure;
use prune::eval::passes::ScoredTargets;
use prune::eval::prompts::prompts;
use prune::eval::request::{Answer, Request};
use prune::eval::room::Room;
use prune::eval::select::{Selection, select_with};
use prune::eval::settings::{ChatTemplate, EvalSettings};
use prune::eval::shots::{Example, Shots};
use prune::eval::source::TaskSource;
use prune::eval::tasks::{About, Task, named};
use prune::progress::Silent;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::eval::goldens::llama_weights;
use crate::eval::shared::{close, message, number, read};
use crate::golden;

fn path(name: &str) -> PathBuf {
    golden::path("../eval").join(name)
}

/// A task whose answers all begin with something.
#[derive(Debug)]
struct Begun(About, &'static dyn Task);

impl Task for Begun {
    fn about(&self) -> &About {
        &self.0
    }

    fn target(&self, document: &Fields) -> prune::Result<String> {
        self.1.target(document)
    }

    fn example(&self, document: &Fields) -> prune::Result<Example> {
        self.1.example(document)
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> prune::Result<Vec<Request>> {
        self.1.requests(document, shots)
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> prune::Result<Vec<Measure>> {
        self.1.judge(document, answers)
    }
}

/// The model of a run in `dir`: the formula's weights, a small tokenizer, a template.
fn model(case: &Value, dir: &Path) {
    fs::create_dir(dir).unwrap();
    let tokenizer = golden::path("../tokens").join(case["tokenizer"].as_str().unwrap());
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tokenizer.join(file), dir.join(file)).unwrap();
    }
    fs::write(dir.join("config.json"), case["config"].to_string()).unwrap();
    llama_weights(dir);
    if let Some(template) = case["template"].as_str() {
        let template = path("templates").join(template).with_extension("jinja");
        fs::copy(template, dir.join("chat_template.jinja")).unwrap();
    }
}

/// Whether a task's answers are programs.
fn runs(task: &str) -> bool {
    task.starts_with("humaneval") || task.starts_with("mbpp")
}

/// What programs amount to.
fn passed(task: &dyn Task, fields: &Fields, programs: &[Answer]) -> Value {
    let tests = task.tests(fields).unwrap();
    let whole = programs.iter().map(|program| match program {
        Answer::Text(said) => format!("{}\n{tests}", said.text),
        other => panic!("{other:?}"),
    });
    let whole: Vec<String> = whole.collect();
    static RUNNER: LazyLock<CodeRunner> = LazyLock::new(|| CodeRunner::open(None, &Silent).unwrap());
    let passed = RUNNER.passes(&whole, &Silent).unwrap();
    let right = passed.iter().filter(|passed| **passed).count();
    let figure = |metric: &TaskMetric| {
        let Takes::Passed(k) = metric.takes else { panic!("{metric:?}") };
        (metric.name.to_owned(), json!(pass_at_k(whole.len(), right, k)))
    };
    Value::Object(task.about().metrics.iter().map(figure).collect())
}

/// A run's settings, and its task where that is none of the table.
fn asked(case: &Value, dir: &Path) -> (EvalSettings, Option<&'static dyn Task>) {
    let text = |key: &str| case[key].as_str().map(str::to_owned);
    let settings = EvalSettings {
        model: Some(dir.join("model").display().to_string()),
        tasks: text("task").into_iter().collect(),
        few_shot: case["few_shot"].as_u64().map(|shots| shots as usize),
        data_dir: Some(path("data")),
        run_code: runs(&text("task").unwrap()).then_some(true),
        include_path: case["defined"].as_bool().map(|_| path("defined")),
        apply_chat_template: case["template"].is_string().then_some(ChatTemplate::Applied(true)),
        fewshot_as_multiturn: case["fewshot_as_multiturn"].as_bool(),
        system_instruction: text("system_instruction"),
        out: Some(dir.join("out")),
        ..EvalSettings::default()
    };
    let begun = text("gen_prefix").map(|prefix| {
        let task = named(&settings.tasks[0]).unwrap();
        let about = About { gen_prefix: prefix.leak(), ..*task.about() };
        Box::leak(Box::new(Begun(about, task))) as &'static dyn Task
    });
    (settings, begun)
}

fn selected(settings: &EvalSettings) -> Selection {
    let files = TaskFiles::open(settings.include_path.as_deref(), &settings.tasks).unwrap();
    select_with(&settings.tasks, &[], &files).unwrap()
}

/// For each request how many tokens are read and scored, and a digest of all; and its texts.
fn asks(settings: &EvalSettings, task: Option<&'static dyn Task>) -> (Vec<Value>, Vec<Value>) {
    let selection = task.map_or_else(|| selected(settings), Selection::of);
    let directory = Path::new(settings.model.as_deref().unwrap());
    let (source, room) = (TaskSource::open(settings.data_dir.as_deref().unwrap()).unwrap(), Room::new(u64::MAX));
    let tokenizer = Tokenizer::open(directory).unwrap();
    let chat = AppliedTemplate::open(settings, directory, &tokenizer).unwrap();
    let prompts = prompts(&selection.leaves[0], chat.as_ref(), &source, settings, &room, &Silent).unwrap();
    let encoder = Encoder::new(&tokenizer, None, None, 8192, false).unwrap();
    let (mut tokens, mut texts) = (Vec::new(), Vec::new());
    for document in &prompts.documents {
        for request in &encoder.document(document, room.taken()).unwrap().requests {
            // of drawn answers one: all read the same
            if matches!(&request.targets, ScoredTargets::Until { draw: Some(draw), .. } if draw.sample > 0) {
                continue;
            }
            let mut ids = request.input.to_vec();
            let mut read = ids.len();
            if let ScoredTargets::Sequence(targets) = &request.targets {
                read = request.from + 1;
                ids.extend(targets.last());
            }
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            let digest = format!("{:x}", Sha256::digest(bytes));
            tokens.push(json!([read, ids.len() - read, digest[..16]]));
        }
        texts.extend(document.requests.iter().map(|request| match request {
            Request::LogLikelihood { context, continuation } => json!([context.text(), continuation]),
            Request::LogLikelihoodRolling { text } => json!([text]),
            Request::GenerateUntil { context, .. } => json!([context.text()]),
        }));
    }
    (tokens, texts)
}

fn same_answers(found: &Value, expected: &Value, place: &str) {
    let (found, expected) = (found.as_array().unwrap(), expected.as_array().unwrap());
    assert_eq!(found.len(), expected.len(), "{place}");
    for (found, expected) in found.iter().zip(expected) {
        let sum = |value: &Value| value.as_str().and_then(|text| text.parse::<f64>().ok());
        if let (Some(found), Some(expected)) = (sum(found), sum(expected)) {
            assert!(close(found, expected), "{place}: {found} for {expected}");
        } else if expected.is_string() {
            assert_eq!(found, expected, "{place}");
        } else {
            assert!(close(number(&found[0]), number(&expected[0])), "{place}: {found} for {expected}");
            assert_eq!(found[1], expected[1], "{place}");
        }
    }
}

fn same_figures(found: &Value, expected: &Value, place: &str) {
    for (key, expected) in expected.as_object().unwrap() {
        match (expected.as_f64(), found[key].as_f64()) {
            (Some(expected), Some(found)) => {
                assert!(
                    (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                    "{place} {key}: {found} {expected}"
                );
            }
            // the runs were recorded without standard errors
            _ if key.contains("_stderr") => assert_eq!(expected, "N/A", "{place}"),
            _ => assert_eq!(&found[key], expected, "{place} {key}"),
        }
    }
}

/// What the task makes of an answer to each of its documents.
fn judged(settings: &EvalSettings, said: &str) -> Value {
    let selection = selected(settings);
    let task = selection.leaves[0].task;
    let source = TaskSource::open(settings.data_dir.as_deref().unwrap()).unwrap();
    let (settings_of, settings) = (settings, EvalSettings { few_shot: Some(0), ..EvalSettings::default() });
    let all = prompts(&selection.leaves[0], None, &source, &settings, &Room::new(u64::MAX), &Silent).unwrap();
    let row = |fields: &Fields| -> Value {
        let filters = task.about().filters.iter().map(|filter| {
            let answer = task.filtered(filter, fields, &[Answer::text(said.to_owned())]).unwrap();
            if runs(&settings_of.tasks[0]) {
                return (filter.name.to_owned(), passed(task, fields, &answer));
            }
            let measures = task.judge(fields, &answer).unwrap();
            // what the harness does not count
            let named = task.about().metrics.iter().zip(measures);
            let named = named.filter(|(metric, _)| **metric != TaskMetric::INST_UNCHECKED);
            let named = named.map(|(metric, measure)| (metric.name.to_owned(), json!(measure.sum)));
            (filter.name.to_owned(), Value::Object(named.collect()))
        });
        Value::Object(filters.collect())
    };
    all.documents.iter().map(|document| row(&document.row)).collect()
}

/// Holds the figures of a group against their record.
fn group(case: &Value) -> usize {
    let dir = tempfile::tempdir().unwrap();
    model(case, &dir.path().join("model"));
    eval(&asked(case, dir.path()).0, &Silent).unwrap();
    let (results, _) = read(&dir.path().join("out"));
    for (key, expected) in case["found"].as_object().unwrap() {
        for (name, expected) in expected.as_object().unwrap() {
            match key.as_str() {
                "results" | "groups" => same_figures(&results[key][name], expected, name),
                _ => assert_eq!(&results[key][name], expected, "{key} {name}"),
            }
        }
    }
    0
}

/// Runs it and holds answers and figures against the record; how many answers were compared.
fn ran(case: &Value, (settings, begun): (&EvalSettings, Option<&'static dyn Task>), dir: &Path, place: &str) -> usize {
    let (task, mut answers) = (case["task"].as_str().unwrap(), 0);
    let report = match begun {
        Some(begun) => eval_of(begun, settings, &Silent),
        None => eval(settings, &Silent),
    };
    report.unwrap();
    let (results, samples) = read(&dir.join("out"));
    let (samples, golden) = (&samples[task], case["samples"].as_array().unwrap());
    assert_eq!(samples.len(), golden.len(), "{place}");
    for (ours, golden) in samples.iter().zip(golden) {
        for key in ["doc_id", "target", "filter", "metrics", "doc_hash", "prompt_hash", "target_hash"] {
            assert_eq!(ours[key], golden[key], "{place} {key}");
        }
        same_answers(&ours["filtered_resps"], &golden["filtered_resps"], place);
        for metric in golden["metrics"].as_array().unwrap().iter().filter_map(Value::as_str) {
            assert_eq!(ours[metric].as_f64().is_some(), golden[metric].as_f64().is_some(), "{place} {metric}");
            if let (Some(found), Some(expected)) = (ours[metric].as_f64(), golden[metric].as_f64()) {
                assert!(close(found, expected), "{place} {metric}: {found} for {expected}");
            }
            for (at, expected) in golden[metric].as_array().into_iter().flatten().enumerate() {
                assert!(close(number(&ours[metric][at]), number(expected)), "{place} {metric}: {expected}");
            }
        }
        answers += 1;
    }
    for (key, expected) in case["found"].as_object().unwrap() {
        match (key.as_str(), expected) {
            ("results", expected) => same_figures(&results[key][task], &expected[task], place),
            (_, Value::Object(tasks)) => assert_eq!(results[key][task], tasks[task], "{place} {key}"),
            _ => assert_eq!(&results[key], expected, "{place} {key}"),
        }
    }
    answers
}

/// Holds a run against its record; how many answers were compared.
fn compared(case: &Value) -> usize {
    if case["group"] == true {
        return group(case);
    }
    let mut answers = 0;
    let dir = tempfile::tempdir().unwrap();
    let (task, template) = (case["task"].as_str().unwrap(), &case["template"]);
    let place = format!("{task} {template} {} {}", case["few_shot"], case["fewshot_as_multiturn"]);
    model(case, &dir.path().join("model"));
    let (settings, begun) = asked(case, dir.path());
    let (tokens, texts) = asks(&settings, begun);
    for (found, expected) in texts.iter().zip(case["first"].as_array().unwrap()) {
        let count = found.as_array().unwrap().len();
        assert_eq!(found.as_array().unwrap(), &expected.as_array().unwrap()[..count], "{place}");
    }
    assert_eq!(Value::Array(tokens), case["tokens"], "{place}");

    if case["asked"] != true {
        answers += ran(case, (&settings, begun), dir.path(), &place);
    }
    for answer in case["judged"].as_array().unwrap() {
        let said = answer[0].as_str().unwrap();
        assert_eq!(judged(&settings, said), answer[1], "{place} {said:?}");
    }
    answers
}

#[test]
fn every_run_equals_the_reference() {
    let text = fs::read_to_string(path("cases.jsonl")).unwrap();
    let cases: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let answers: Vec<Option<usize>> =
        cases.iter().map(|case| std::panic::catch_unwind(|| compared(case)).ok()).collect();
    let failed = answers.iter().zip(&cases).filter(|(answers, _)| answers.is_none());
    let failed: Vec<String> = failed.map(|(_, case)| format!("{} {}", case["task"], case["template"])).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let answers: usize = answers.into_iter().flatten().sum();
    assert!(cases.len() >= 102 && answers >= 200, "{} {answers}", cases.len());
}

/// The first recorded run, by `template` where one is named.
fn first(dir: &Path, template: Option<&str>) -> EvalSettings {
    let text = fs::read_to_string(path("cases.jsonl")).unwrap();
    let mut case: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    case["template"] = json!(template);
    model(&case, &dir.join("model"));
    EvalSettings { apply_chat_template: Some(ChatTemplate::Applied(true)), ..asked(&case, dir).0 }
}

#[test]
fn a_template_that_is_missing_unknown_or_broken_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let settings = first(dir.path(), None);
    let (text, code) = message(eval(&settings, &Silent));
    assert!(text.contains("--apply-chat-template") && text.contains("has no chat template") && code == 2, "{text}");

    let file = dir.path().join("model/chat_template.jinja");
    let broken = "{{ messages[0].content }}{{ raise_exception('no question about ' ~ messages[-1].role) }}";
    fs::write(&file, broken).unwrap();
    let (text, code) = message(eval(&settings, &Silent));
    for part in ["test.jsonl line 1", "chat_template.jinja", "no question about user"] {
        assert!(text.contains(part) && code == 1, "{text}");
    }
    fs::write(&file, "{% for %}").unwrap();
    let (text, _) = message(eval(&settings, &Silent));
    assert!(text.contains("chat_template.jinja: no chat template"), "{text}");

    fs::write(&file, "{{ messages[-1].content }}").unwrap();
    let others = dir.path().join("model/additional_chat_templates");
    fs::create_dir(&others).unwrap();
    fs::write(others.join("terse.jinja"), "{{ messages[-1].content | trim }} A:").unwrap();
    let by = |name: &str| EvalSettings {
        apply_chat_template: Some(ChatTemplate::Named(name.to_owned())),
        ..settings.clone()
    };
    let (text, code) = message(eval(&by("polite"), &Silent));
    assert!(text.contains("templates default, terse, none of them `polite`") && code == 2, "{text}");
    eval(&by("terse"), &Silent).unwrap();
    let (results, samples) = read(&dir.path().join("out"));
    assert_eq!(results["chat_template"], "{{ messages[-1].content | trim }} A:");
    let asked = &samples["mmlu_abstract_algebra"][0]["arguments"]["gen_args_0"];
    assert!(asked["arg_0"].as_str().unwrap().ends_with("Answer: A:") && asked["arg_1"] == "A", "{asked}");
    // what stands there was asked otherwise
    let (text, code) = message(eval(&settings, &Silent));
    assert!(text.contains("with other settings (chat_template_sha") && code == 2, "{text}");
}
