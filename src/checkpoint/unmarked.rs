//! Outputs of versions that left no mark: each kind is told by the record it holds, and its entries by their names.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use super::side::{fits, is_side_file};
use crate::files::{self, Bound};

/// A kind of output that had no mark.
#[derive(Debug)]
pub(super) struct Kind {
    /// The command that made it.
    pub(super) command: &'static str,
    /// The file that tells it, as a pattern.
    record: &'static str,
    /// Whether that file was written by this program: its JSON, the first line's of `.jsonl`, or the first line itself.
    is_own: fn(&Value) -> bool,
    /// Names of entries, `*` for anything but `/`.
    entries: &'static [&'static str],
    /// Directories in it that hold a model, with `/` behind; `""` is itself.
    models: &'static [&'static str],
}

/// All kinds.
const KINDS: &[Kind] = &[
    Kind {
        command: "cut",
        record: "prune.json",
        is_own: |record| record["prune"].is_string() && record["steps"].is_array(),
        entries: &["prune.json"],
        models: &[""],
    },
    Kind {
        command: "heal",
        record: "heal.json",
        is_own: |record| record["prune"].is_string() && record["settings"].is_object(),
        entries: &[
            "heal.json",
            "log.jsonl",
            "trainer_state.json",
            "loss.svg",
            "loss.png",
            "adapter",
            "adapter/README.md",
            "adapter/adapter_config.json",
            "adapter/prune.json",
            "adapter/adapter_model.safetensors",
            "merged",
            "base-4bit",
        ],
        models: &["merged/", "base-4bit/"],
    },
    // the state of an unfinished healing
    Kind {
        command: "heal",
        record: "settings.json",
        is_own: |record| record["version"].is_string() && record["model_is"].is_string(),
        entries: &[
            "settings.json",
            "state.safetensors",
            "state.safetensors.new",
            "best.safetensors",
            "best.safetensors.new",
            "measured.json",
            "log.jsonl",
        ],
        models: &[],
    },
    Kind {
        command: "analyze",
        record: "analysis.json",
        is_own: |record| record["format"] == "prune-analysis",
        entries: &["analysis.json", "*.svg", "*.png"],
        models: &[],
    },
    Kind {
        command: "eval",
        record: "*/results_*.json",
        is_own: |record| record["model_source"] == "prune" && record["prune"].is_object(),
        entries: &["*", "*/results_*.json", "*/samples_*.jsonl", "journal.jsonl"],
        models: &[],
    },
    // an unfinished evaluation
    Kind {
        command: "eval",
        record: "journal.jsonl",
        is_own: |record| record["digest"].is_string() && record["pass_tokens"].is_object(),
        entries: &["journal.jsonl"],
        models: &[],
    },
    Kind {
        command: "run",
        record: "run.json",
        is_own: |record| record["prune"].is_string() && record["stages"].is_object(),
        entries: &[
            "run.json",
            "report.json",
            "report.html",
            "figures",
            "figures/*.svg",
            "figures/*.png",
            "tables",
            "tables/*.csv",
        ],
        models: &[],
    },
    Kind {
        command: "demo",
        record: "recipe.toml",
        is_own: |line| line.as_str().is_some_and(|line| line.starts_with("# The whole job on the pocket atlas")),
        entries: &[
            "recipe.toml",
            "model",
            "text",
            "text/train.jsonl",
            "text/validation.jsonl",
            "boolq",
            "boolq/train.jsonl",
            "boolq/validation.jsonl",
            "mmlu",
            "mmlu/dev",
            "mmlu/val",
            "mmlu/test",
            "mmlu/*/astronomy_*.csv",
            "mmlu/*/geography_*.csv",
            "mmlu/*/history_*.csv",
            "mmlu/*/music_*.csv",
            "mmlu/*/zoology_*.csv",
        ],
        models: &["model/"],
    },
];

/// Files of a model that this program wrote.
const MODEL: &[&str] = &["config.json", "README.md", "prune.json", "*.safetensors", "model.safetensors.index.json"];

impl Kind {
    /// Whether this kind of output has an entry called `name`.
    pub(super) fn lists(&self, name: &str, is_dir: bool) -> bool {
        let in_model = |file: &str| {
            // code is what people add to a model
            let is_side = is_side_file(file) && !file.to_lowercase().ends_with(".py");
            if is_dir {
                file == "additional_chat_templates"
            } else {
                is_side || MODEL.iter().any(|pattern| matches(pattern, file))
            }
        };
        self.entries.iter().any(|pattern| matches(pattern, name) && (*pattern != "*" || is_dir))
            || self.models.iter().any(|model| name.strip_prefix(model).is_some_and(in_model))
    }
}

/// Whether `name` fits `pattern` part by part.
fn matches(pattern: &str, name: &str) -> bool {
    let (patterns, names) = (pattern.split('/'), name.split('/'));
    patterns.clone().count() == names.clone().count()
        && patterns.zip(names).all(|(pattern, name)| match pattern.rsplit_once('*') {
            Some((front, back)) if front.contains('*') => name.ends_with(back) && fits(front, name),
            _ => fits(pattern, name),
        })
}

/// What kind of output `dir` is, by its record.
pub(super) fn recognize(dir: &Path) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| match kind.record.split_once('/') {
        None => is_record(kind, &dir.join(kind.record)),
        Some((_, pattern)) => below(dir).iter().any(|folder| {
            let files = fs::read_dir(folder).into_iter().flatten().flatten();
            files.into_iter().any(|file| {
                file.file_name().to_str().is_some_and(|name| fits(pattern, name)) && is_record(kind, &file.path())
            })
        }),
    })
}

/// Directories right below `dir`, no links; none where there are many, which is no evaluation.
fn below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(16);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn is_record(kind: &Kind, path: &Path) -> bool {
    if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        return false;
    }
    let first_line = || {
        let (file, _) = files::open(path).ok()?;
        let mut line = String::new();
        BufReader::new(file.take(files::NOTE)).read_line(&mut line).ok()?;
        Some(line)
    };
    let record: Option<Value> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("jsonl") => first_line().and_then(|line| serde_json::from_str(&line).ok()),
        Some("toml") => first_line().map(Value::String),
        _ => files::json(path, Bound::RECORD).ok(),
    };
    record.is_some_and(|record| (kind.is_own)(&record))
}
