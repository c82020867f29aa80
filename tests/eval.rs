//! `prune eval` against lm-evaluation-harness's own numbers, and what it does when it is killed or given nonsense.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod fixture;
#[path = "checkpoint/server.rs"]
#[allow(dead_code, reason = "another test needs the rest of it")]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use fixture::{Llama, shared};
use prune::commands::eval::{EvalReport, eval};
use prune::eval::metrics::{Metric, pooled};
use prune::eval::settings::{Compat, EvalSettings};
use prune::progress::{Progress, Silent, Unit};
use serde_json::{Map, Value, json};

fn settings(model: &Path, tasks: &[&str]) -> EvalSettings {
    let tasks = tasks.iter().map(|task| (*task).to_owned()).collect();
    EvalSettings { model: Some(model.display().to_string()), tasks, ..EvalSettings::default() }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The results file below `out` and the samples by task.
fn read(out: &Path) -> (Value, BTreeMap<String, Vec<Value>>) {
    let (mut results, mut samples) = (Value::Null, BTreeMap::new());
    for folder in fs::read_dir(out).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("results_") {
                results = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            } else {
                let task = name.strip_prefix("samples_").unwrap().rsplit_once('_').unwrap().0;
                samples.insert(task.to_owned(), lines(&path));
            }
        }
    }
    (results, samples)
}

/// 1e-4 nats, or what f32 can tell apart where the number is large.
fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4f64.max(1e-6 * b.abs())
}

fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap()
}

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
        let group = pooled(Metric::Acc, &SUBJECTS.iter().map(member).collect::<Vec<_>>());
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
    if !fixture::formula::mini(&dir.path().join("mini")) {
        return;
    }
    let base = EvalSettings { data_dir: Some(golden.join("eval")), ..settings(&dir.path().join("mini"), &[]) };
    for (task, limit, answers) in [("mmlu", 20u32, 240), ("boolq", 40, 80)] {
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

/// A model and data without any shared material: words that the fixture's tokenizer knows.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Llama::default().write(&dir.path().join("model"));
        Llama { seed: 5, ..Llama::default() }.write(&dir.path().join("other"));
        let word = |n: usize| format!("w{}", 3 + n % 61);
        let text = |from: usize, len: usize| (from..from + len).map(word).collect::<Vec<_>>().join(" ");
        for subject in ["queens", "rivers"] {
            let rows = |seed: usize, n: usize| {
                let row = |i: usize| {
                    format!(
                        "{},{},w4,w5,w6,{}\n",
                        text(seed + 7 * i, 12),
                        word(i),
                        ["A", "B", "C", "D"][(seed + i) % 4]
                    )
                };
                (0..n).map(row).collect::<String>()
            };
            for (split, n) in [("dev", 5), ("test", 30)] {
                let path = dir.path().join(format!("data/mmlu/{split}/{subject}_{split}.csv"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, rows(subject.len() + n, n)).unwrap();
            }
        }
        let boolq = (0..24).map(|i| {
            json!({"question": text(i, 5), "passage": text(i / 3, 30), "idx": i, "label": i % 2}).to_string() + "\n"
        });
        fs::create_dir_all(dir.path().join("data/boolq")).unwrap();
        fs::write(dir.path().join("data/boolq/validation.jsonl"), boolq.collect::<String>()).unwrap();
        let pages = (0..4).map(|i| json!({"text": text(i, 150 * (i + 1))}).to_string() + "\n");
        fs::write(dir.path().join("data/notes.jsonl"), pages.collect::<String>()).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn settings(&self, model: &str, out: &str) -> EvalSettings {
        EvalSettings {
            tasks: vec!["mmlu".into(), "boolq".into(), format!("text:{}", self.path("data/notes.jsonl").display())],
            data_dir: Some(self.path("data")),
            out: Some(self.path(out)),
            pass_tokens: Some(300),
            ..settings(&self.path(model), &[])
        }
    }
}

/// Every file below `dir` with its bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in fs::read_dir(dir).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            files.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn the_same_run_gives_the_same_bytes_whatever_a_pass_holds() {
    let small = Small::new();
    let a = eval(&small.settings("model", "a"), &Silent).unwrap();
    eval(&small.settings("model", "b"), &Silent).unwrap();
    assert_eq!(tree(&small.path("a")), tree(&small.path("b")));
    assert!(a.passes.passes > 8, "{:?}", a.passes);
    let whole = EvalSettings { pass_tokens: Some(100_000), ..small.settings("model", "c") };
    let c = eval(&whole, &Silent).unwrap();
    assert_eq!(c.passes.passes, 1);
    for (few, many) in c.figures.iter().zip(&a.figures) {
        assert!((few.value - many.value).abs() < 1e-5 * few.value.abs().max(1.0), "{few:?} {many:?}");
    }
}

/// Ends the process, as a kill would, once some passes are in the journal.
struct Killer {
    journal: PathBuf,
}

impl Progress for Killer {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {
        if fs::read_to_string(&self.journal).is_ok_and(|text| text.lines().count() > 4) {
            std::process::abort();
        }
    }
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}

#[test]
#[ignore = "runs only as the victim of the test below"]
fn victim() {
    let Ok(dir) = std::env::var("PRUNE_TEST_EVAL") else { return };
    let settings: EvalSettings =
        serde_json::from_str(&fs::read_to_string(Path::new(&dir).join("settings.json")).unwrap()).unwrap();
    let journal = settings.out.as_ref().unwrap().join("journal.jsonl");
    eval(&settings, &Killer { journal }).unwrap();
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let small = Small::new();
    let settings = small.settings("model", "killed");
    fs::write(small.path("settings.json"), serde_json::to_string(&settings).unwrap()).unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored"])
        .env("PRUNE_TEST_EVAL", small.dir.path())
        .output()
        .unwrap();
    assert!(!status.status.success());
    let kept = fs::read_to_string(small.path("killed/journal.jsonl")).unwrap();
    assert!(kept.lines().count() > 4);
    // the last line may have been cut short
    fs::write(small.path("killed/journal.jsonl"), &kept[..kept.len() - 3]).unwrap();
    let report = eval(&settings, &Silent).unwrap();
    assert!(report.passes.resumed > 0 && report.passes.resumed < report.passes.passes, "{:?}", report.passes);
    eval(&small.settings("model", "whole"), &Silent).unwrap();
    assert_eq!(tree(&small.path("killed")), tree(&small.path("whole")));
    assert!(!small.path("killed/journal.jsonl").exists());
}

fn message(result: prune::Result<EvalReport>) -> (String, u8) {
    let error = result.unwrap_err();
    (error.to_string(), error.exit_code())
}

#[test]
fn an_output_is_never_overwritten_unasked() {
    let small = Small::new();
    let settings = EvalSettings { tasks: vec!["boolq".into()], ..small.settings("model", "out") };
    eval(&settings, &Silent).unwrap();
    let (text, code) = message(eval(&settings, &Silent));
    assert!(text.contains("exists; --force") && code == 2, "{text}");
    let before = tree(&small.path("out"));
    eval(&EvalSettings { force: true, ..settings.clone() }, &Silent).unwrap();
    assert_eq!(before, tree(&small.path("out")));
    let other =
        EvalSettings { force: true, ..EvalSettings { tasks: vec!["boolq".into()], ..small.settings("other", "out") } };
    eval(&other, &Silent).unwrap();
    assert_ne!(before, tree(&small.path("out")));
}

#[test]
fn pruned_against_whole() {
    let small = Small::new();
    eval(&small.settings("model", "whole"), &Silent).unwrap();
    let against = EvalSettings { against: Some(small.path("whole")), ..small.settings("other", "pruned") };
    let report = eval(&against, &Silent).unwrap();
    let (whole, _) = read(&small.path("whole"));
    let (pruned, _) = read(&small.path("pruned"));
    for comparison in &report.comparisons {
        let key = format!("{},none", comparison.metric);
        let figure = |results: &Value| number(&results["results"][&comparison.task][&key]);
        assert!((comparison.difference - (figure(&pruned) - figure(&whole))).abs() < 1e-9, "{comparison:?}");
        assert!(comparison.stderr.is_some());
        if comparison.metric == "acc" {
            let uneven = comparison.gained.unwrap() as f64 - comparison.lost.unwrap() as f64;
            assert!((comparison.difference * comparison.documents as f64 - uneven).abs() < 1e-9, "{comparison:?}");
        }
    }
    let compared: Vec<&str> = report.comparisons.iter().map(|comparison| comparison.task.as_str()).collect();
    assert_eq!(compared, ["mmlu_queens", "mmlu_rivers", "boolq", "text_notes", "text_notes", "mmlu"]);
    let same = EvalSettings { against: Some(small.path("whole")), ..small.settings("model", "again") };
    let report = eval(&same, &Silent).unwrap();
    assert!(report.comparisons.iter().all(|comparison| comparison.difference == 0.0));
    assert!(report.text().contains("against the other run"));
}

#[test]
fn results_that_cannot_be_compared_are_refused() {
    let small = Small::new();
    let boolq = |out: &str| EvalSettings { tasks: vec!["boolq".into()], ..small.settings("model", out) };
    eval(&boolq("boolq"), &Silent).unwrap();
    let against = |settings: EvalSettings, path: PathBuf| {
        message(eval(&EvalSettings { against: Some(path), out: None, ..settings }, &Silent))
    };
    // a model with another tokenizer
    Llama { vocab: 70, ..Llama::default() }.write(&small.path("wide"));
    let wide = EvalSettings { tasks: vec!["boolq".into()], ..small.settings("wide", "x") };
    let (text, code) = against(wide, small.path("boolq"));
    assert!(text.contains("whose tokenizer is not this model's") && code == 2, "{text}");
    // another task, other prompts, no results, something else
    let mmlu = EvalSettings { tasks: vec!["mmlu".into()], ..small.settings("model", "x") };
    assert!(against(mmlu.clone(), small.path("boolq")).0.contains("no task in common"));
    eval(&EvalSettings { out: Some(small.path("shots")), ..mmlu.clone() }, &Silent).unwrap();
    let fewer = EvalSettings { few_shot: Some(2), ..mmlu };
    assert!(against(fewer, small.path("shots")).0.contains("document 0 of mmlu_queens was asked differently"));
    assert_eq!(against(boolq("x"), small.path("model")).1, 2);
    let (text, code) = against(boolq("x"), small.path("data/notes.jsonl"));
    assert!(text.contains("not a results file") && code == 1, "{text}");
    // samples that are not there
    let (results, samples): (Vec<_>, Vec<_>) =
        tree(&small.path("boolq")).into_keys().partition(|path| path.to_string_lossy().contains("results_"));
    fs::remove_file(small.path("boolq").join(&samples[0])).unwrap();
    assert!(against(boolq("x"), small.path("boolq").join(&results[0])).0.contains("are missing"));
}

#[test]
fn what_is_wrong_is_named() {
    let small = Small::new();
    let base = EvalSettings { out: None, ..small.settings("model", "x") };
    let run = |settings: EvalSettings| message(eval(&settings, &Silent));
    let tasks =
        |names: &[&str]| EvalSettings { tasks: names.iter().map(|name| (*name).to_owned()).collect(), ..base.clone() };
    for (settings, part, code) in [
        (tasks(&["piqa"]), "the validation split of piqa is not there", 2),
        (tasks(&["mmlu_anatomy"]), "subject anatomy", 2),
        (tasks(&["mmlu_kings"]), "there is no task", 2),
        (tasks(&[]), "at least one task", 2),
        (EvalSettings { few_shot: Some(6), ..base.clone() }, "--few-shot 6", 2),
        (EvalSettings { data_dir: Some(small.path("nowhere")), ..base.clone() }, "nowhere", 2),
        (EvalSettings { model: None, ..base.clone() }, "which model", 2),
        (
            EvalSettings {
                max_length: Some(1),
                tasks: vec!["boolq".into()],
                compat: Some(Compat::V0_4_0),
                ..base.clone()
            },
            "",
            0,
        ),
    ] {
        if code == 0 {
            eval(&settings, &Silent).unwrap();
            continue;
        }
        let (text, found) = run(settings);
        assert!(text.contains(part) && found == code, "{text} ({found})");
    }
    // a missing subject among the 57
    let folder = small.path("partial");
    for split in ["dev", "test"] {
        fs::create_dir_all(folder.join(split)).unwrap();
        fs::write(folder.join(format!("{split}/anatomy_{split}.csv")), "q,a,b,c,d,A\n".repeat(5)).unwrap();
    }
    let (text, code) = run(EvalSettings { tasks: vec!["mmlu".into()], data_dir: Some(folder), ..base.clone() });
    assert!(text.contains("subject abstract_algebra") && code == 2, "{text}");
    // a malformed row, by file and row
    let broken = small.path("broken.jsonl");
    fs::write(&broken, "{\"question\": \"w5\", \"passage\": \"w6\", \"label\": 1}\n{\"question\": \"w5\"}\n").unwrap();
    let (text, code) = run(EvalSettings { tasks: vec!["boolq".into()], data_dir: Some(broken), ..base });
    assert!(text.contains("broken.jsonl line 2") && code == 1, "{text}");
}

#[test]
fn long_prompts_warn_and_a_dry_run_scores_nothing() {
    #[derive(Default)]
    struct Warnings(std::sync::Mutex<Vec<String>>);
    impl Progress for Warnings {
        fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
        fn advance(&self, _units: u64) {}
        fn end(&self) {}
        fn warn(&self, message: &str) {
            self.0.lock().unwrap().push(message.to_owned());
        }
    }
    let small = Small::new();
    let warnings = Warnings::default();
    let settings = EvalSettings { max_length: Some(20), dry_run: true, ..small.settings("model", "dry") };
    let report = eval(&settings, &warnings).unwrap();
    assert!(warnings.0.lock().unwrap()[0].contains("lose their beginning"));
    assert!(report.figures.is_empty() && report.passes.seconds.is_none() && !small.path("dry").exists());
    assert!(report.text().contains("dry run"));
}

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
    use prune::eval::select::Leaf;
    use prune::eval::source::Source;
    use prune::eval::tasks::{TASKS, Task};

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
    let mmlu = &TASKS[0];
    let task: &'static Task = Box::leak(Box::new(Task { dataset: "org/name", ..*mmlu }));
    let leaf =
        |subject: &str| Leaf { name: format!("mmlu_{subject}"), task, subject: Some(subject.into()), file: None };
    let read = |offline: &str, subject: &str| {
        let source = Source::hub(hub(offline).unwrap());
        prompts(&leaf(subject), &source, &EvalSettings::default(), &Silent)
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
