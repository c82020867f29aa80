//! Conversations against transformers and TRL: the same texts, token ids and labels.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use prune::data::chat::{Chat, Form, LossOn, Template};
use prune::data::{SequenceOptions, Sequences, Shape, SourceOptions, TextSource, Tokenizer, marked};
use prune::progress::Silent;
use serde_json::Value;

use crate::fixture::material::skipped;

/// What `tests/interop/chats.py` makes, with the Python of `PRUNE_VENV`, as `.ci/interop` says it.
fn cases() -> Option<tempfile::TempDir> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Some(venv) = std::env::var_os("PRUNE_VENV").map(PathBuf::from) else {
        skipped("TRL, in PRUNE_VENV");
        return None;
    };
    let python = venv.join("bin/python");
    let out = tempfile::tempdir().unwrap();
    let made =
        Command::new(&python).args(["-W", "ignore"]).arg(root.join("tests/interop/chats.py")).arg(out.path()).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some(out)
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Token ids and labels of each row.
type Labeled = Vec<(Vec<i64>, Vec<i64>)>;

/// Ids of each row, and the ids that are learned, -100 for the others.
fn labeled(case: &Path) -> (Form, Labeled) {
    let tokenizer = Tokenizer::open(case.join("model")).unwrap();
    let template = Template::open(&case.join("model"), None, &tokenizer).unwrap();
    let source = TextSource::open(case.join("data.jsonl"), &SourceOptions::default()).unwrap();
    let (form, eos) = (source.form().unwrap(), tokenizer.eos().and_then(|id| tokenizer.token(id)));
    let chat = Chat { form, template, loss_on: LossOn::Answers, eos, asks: false };
    let options = SequenceOptions { shape: Shape { seq_len: 96, ..Shape::default() }, ..SequenceOptions::default() };
    let rows = Sequences::read(&source.talking(Arc::new(chat)), &tokenizer, &options, &Silent).unwrap().rows;
    let label = |token: &u32| if marked::is_given(*token) { -100 } else { i64::from(*token) };
    let ids = |row: &Vec<u32>| row.iter().map(|token| i64::from(marked::id(*token))).collect();
    (form, rows.iter().map(|row| (ids(row), row.iter().map(label).collect())).collect())
}

#[test]
fn ids_labels_and_texts_are_those_of_trl_and_transformers() {
    let Some(out) = cases() else { return };
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in fs::read_dir(out.path()).unwrap() {
        let case = entry.unwrap().path();
        if !case.is_dir() {
            continue;
        }
        let numbers = |row: &Value, key: &str| -> Vec<i64> {
            row[key].as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
        };
        let expected: Vec<(Vec<i64>, Vec<i64>)> = lines(&case.join("expected.jsonl"))
            .iter()
            .map(|row| (numbers(row, "input_ids"), numbers(row, "labels")))
            .collect();
        let (form, found) = labeled(&case);
        assert_eq!(found, expected, "{}", case.display());
        *seen.entry(form.name()).or_default() += found.len();
    }
    assert!(seen["messages"] >= 15 && seen["alpaca"] >= 10 && seen["prompt-completion"] >= 20, "{seen:?}");
    texts(out.path());
}

/// Every template of TRL: the text of transformers, its generation blocks, and what it refuses.
fn texts(out: &Path) {
    let model = out.join("llama3-texts/model");
    let config = r#"{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}"#;
    fs::write(model.join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::open(&model).unwrap();
    let (mut templates, mut same, mut refused) = (BTreeMap::new(), 0, 0);
    for line in lines(&out.join("text.jsonl")) {
        let path = line["template"].as_str().unwrap().to_owned();
        let template = templates
            .entry(path.clone())
            .or_insert_with(|| Template::open(&model, Some(Path::new(&path)), &tokenizer).unwrap().unwrap());
        let (row, tools) = (&line["row"], line["row"].get("tools"));
        let prompt = row["add_generation_prompt"].as_bool().unwrap_or(false);
        let found = template.render(row["messages"].as_array().unwrap(), tools, &serde_json::Map::new(), prompt);
        let Some(text) = line["text"].as_str() else {
            assert!(found.is_err(), "{path}: {row}: {found:?}");
            refused += 1;
            continue;
        };
        let (found, parts) = found.unwrap_or_else(|error| panic!("{path}: {row}: {error}"));
        assert_eq!(found, text, "{path}: {row}");
        let at = |byte: usize| found[..byte].chars().count() as u64;
        let parts: Vec<Value> = parts.iter().map(|part| serde_json::json!([at(part.start), at(part.end)])).collect();
        assert_eq!(Value::Array(parts), line["parts"], "{path}: {row}");
        same += 1;
    }
    assert!(templates.len() > 40 && same > 400 && refused > 20, "{} {same} {refused}", templates.len());
}
