//! Questions of the tasks, as they come from the hub and from people.

use std::fs;
use std::path::Path;

use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use rand::Rng as _;
use serde_json::{Value, json};

use super::super::{bytes, json as values};
use super::{Feed, small};

/// Task, file, and a row of it.
fn good() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("boolq", "validation.jsonl", json!({"question": "w3 w4", "passage": "w5 w6", "label": 1, "idx": 0})),
        (
            "hellaswag",
            "validation.jsonl",
            json!({"ind": 4, "activity_label": "w3", "ctx_a": "w4", "ctx_b": "w5", "ctx": "w4 w5",
            "endings": ["w6", "w7", "w8", "w9"], "label": "2"}),
        ),
        (
            "arc_easy",
            "test.jsonl",
            json!({"id": "a", "question": "w3", "choices": {"text": ["w4", "w5"], "label": ["A", "B"]},
            "answerKey": "B"}),
        ),
        (
            "winogrande",
            "validation.jsonl",
            json!({"sentence": "w3 _ w4", "option1": "w5", "option2": "w6", "answer": "1"}),
        ),
        ("piqa", "validation.jsonl", json!({"goal": "w3", "sol1": "w4", "sol2": "w5", "label": 0})),
        (
            "mmlu_anatomy",
            "anatomy/test.jsonl",
            json!({"question": "w3", "subject": "anatomy", "choices": ["w4", "w5", "w6", "w7"],
            "answer": 2}),
        ),
        ("gsm8k", "test.jsonl", json!({"question": "w3 w4", "answer": "w5\n#### 6"})),
        ("text:own.jsonl", "own.jsonl", json!({"text": "w3 w4 w5"})),
    ]
}

/// A folder of data for a dry run.
pub(super) fn tasks(dir: &Path) -> Feed {
    let (model, data) = (dir.join("model"), dir.join("data"));
    small().write(&model);
    let good = good();
    Box::new(move |case| {
        if data.exists() {
            fs::remove_dir_all(&data).unwrap();
        }
        let (task, file, row) = &good[case.rng.random_range(0..good.len())];
        let path = data.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut rows: Vec<Vec<u8>> = vec![row.to_string().into_bytes(); 3];
        let at = case.rng.random_range(0..rows.len());
        rows[at] = values::changed(&mut case.rng, row);
        let mut text = rows.join(&b'\n');
        if case.is_one_in(4) {
            bytes::change(&mut case.rng, &mut text, &[]);
        }
        fs::write(&path, text).unwrap();
        let task = if task.starts_with("text:") { format!("text:{}", path.display()) } else { (*task).to_owned() };
        let settings = EvalSettings {
            model: Some(model.display().to_string()),
            tasks: vec![task],
            few_shot: case.is_one_in(3).then_some(1),
            data_dir: Some(data.clone()),
            limit: [None, Some(2.0), Some(0.5)][case.rng.random_range(0..3)],
            paper: case.is_one_in(8),
            dry_run: true,
            ..EvalSettings::default()
        };
        case.listen(|progress| eval(&settings, progress));
    })
}
