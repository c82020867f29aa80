//! What the tests of this folder share: reading results, a small model with data of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prune::commands::eval::EvalReport;
use prune::eval::settings::EvalSettings;
use serde_json::{Value, json};

use crate::fixture::Llama;

pub(crate) fn settings(model: &Path, tasks: &[&str]) -> EvalSettings {
    let tasks = tasks.iter().map(|task| (*task).to_owned()).collect();
    EvalSettings { model: Some(model.display().to_string()), tasks, ..EvalSettings::default() }
}

pub(crate) fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Directories right below `dir`.
fn folders(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir())
}

/// The results file below `out` and the samples by task.
pub(crate) fn read(out: &Path) -> (Value, BTreeMap<String, Vec<Value>>) {
    let (mut results, mut samples) = (Value::Null, BTreeMap::new());
    for folder in folders(out) {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("results_") {
                results = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            } else if let Some(name) = name.strip_prefix("samples_") {
                let task = name.rsplit_once('_').unwrap().0;
                samples.insert(task.to_owned(), lines(&path));
            }
        }
    }
    (results, samples)
}

/// 1e-4 nats, or what f32 can tell apart where the number is large.
pub(crate) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4f64.max(1e-6 * b.abs())
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap()
}

/// A model and data without any shared material: words that the fixture's tokenizer knows.
pub(crate) struct Small {
    pub(crate) dir: tempfile::TempDir,
}

impl Small {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn settings(&self, model: &str, out: &str) -> EvalSettings {
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
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for folder in folders(dir) {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            files.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
    files
}

pub(crate) fn message(result: prune::Result<EvalReport>) -> (String, u8) {
    let error = result.unwrap_err();
    (error.to_string(), error.exit_code())
}
