//! `results_*.json` and `samples_*.jsonl` as lm-evaluation-harness 0.4.13 writes them, for its viewers and for people.
//!
//! The names end in a digest of the results instead of a date, and no clock shows in the files: the same evaluation
//! gives the same bytes.

use std::path::{Path, PathBuf};

use super::scores::{EvalScores, GroupScore, TaskScore};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::job::{Job, Part};
use super::metrics::{Takes, TaskFigure, TaskMetric};
use super::python::to_json_pretty;
use super::samples::{self, Hashes};
use super::settings::EvalSettings;
use super::tasks::{About, Config, Sampler};
use crate::Result;
use crate::checkpoint::{create_dir, write_new};
use crate::data::TextSplit;

/// What the files say about the model.
#[derive(Clone, Debug, Default)]
pub struct ModelFacts {
    /// Directory or hub id, as the user gave it.
    pub model: String,
    /// Commit of the hub repository.
    pub revision: Option<String>,
    /// Numbers in its weights.
    pub parameters: u64,
    /// Type of its weights: `float32`.
    pub dtype: String,
    /// Tokens it knows.
    pub vocabulary: usize,
    /// Longest input, in tokens.
    pub max_length: usize,
    /// Texts and ids of its tokenizer's padding, end and beginning tokens.
    pub special: [Option<(String, u32)>; 3],
    /// SHA-256 of `tokenizer.json`: results of another tokenizer's model are not comparable question by question.
    pub tokenizer: String,
    /// The chat template that questions are put through.
    pub chat_template: Option<String>,
    /// SHA-256 of what decides the answers besides the questions: config, weights, adapter, where it computes.
    pub weights: String,
}

/// Writes results and samples below `dir`, in a folder named after the model; returns the paths relative to `dir`, the
/// results file first.
///
/// # Errors
/// The file system's.
pub fn write(
    dir: &Path,
    about: &ModelFacts,
    settings: &EvalSettings,
    job: &Job,
    scores: &EvalScores,
) -> Result<Vec<PathBuf>> {
    let folder = PathBuf::from(short(sanitized(&about.model), 255));
    let place = dir.join(&folder);
    create_dir(&place)?;
    let parts: Vec<(&Part, &TaskScore)> = job.parts.iter().zip(&scores.tasks).collect();
    let hashes: Vec<Hashes> = parts.iter().map(|(part, _)| samples::hashes(part, settings.paper)).collect();
    let text = to_json_pretty(&results(about, settings, (job, &parts), &hashes, scores));
    let stamp = &format!("{:x}", Sha256::digest(&text))[..12];
    let mut files = vec![folder.join(format!("results_{stamp}.json"))];
    let kwargs = settings.kwargs()?;
    for ((part, score), hashes) in parts.iter().zip(&hashes) {
        let file = folder.join(samples_file(&score.name, stamp));
        samples::write(&dir.join(&file), part, score, hashes, (settings.paper, kwargs.as_ref()))?;
        files.push(file);
        if part.leaf.task.about().is_code() {
            let file = folder.join(samples_file(&score.name, stamp).replacen("samples_", "programs_", 1));
            samples::write_programs(&dir.join(&file), part, score)?;
            files.push(file);
        }
    }
    // last, so that results are there only when everything is
    write_new(&dir.join(&files[0]), text)?;
    Ok(files)
}

/// `re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)`.
fn sanitized(name: &str) -> String {
    let mut result = String::new();
    let mut inside = false;
    for c in name.chars() {
        let strange = r#""<>:/|\?*[]"#.contains(c);
        if !strange {
            result.push(c);
        } else if !inside {
            result.push_str("__");
        }
        inside = strange;
    }
    // a folder of that name would be this one or the one above
    if result.chars().all(|c| c == '.') { format!("{result}_") } else { result }
}

/// The file of a task's samples, which go with the results of this stamp.
pub(super) fn samples_file(task: &str, stamp: &str) -> String {
    let name = short(sanitized(task), 255_usize.saturating_sub("samples__.jsonl".len() + stamp.len()));
    format!("samples_{name}_{stamp}.jsonl")
}

/// `name`, or when it is longer than `bytes`, which file systems refuse, its end with a digest of the whole before it.
fn short(name: String, bytes: usize) -> String {
    if name.len() <= bytes {
        return name;
    }
    let digest = &format!("{:x}", Sha256::digest(&name))[..16];
    let from = (name.len() - bytes.saturating_sub(digest.len() + 1)..).find(|at| name.is_char_boundary(*at));
    format!("{digest}-{}", &name[from.unwrap_or(name.len())..])
}

fn results(
    about: &ModelFacts,
    settings: &EvalSettings,
    (job, parts): (&Job, &[(&Part, &TaskScore)]),
    hashes: &[Hashes],
    scores: &EvalScores,
) -> Value {
    let mut top = Map::new();
    let mut results: Map<String, Value> =
        scores.tasks.iter().map(|task| (task.name.clone(), task_entry(task))).collect();
    let groups: Map<String, Value> =
        scores.groups.iter().map(|score| (score.group.name.clone(), group_entry(score))).collect();
    results.extend(groups.clone());
    top.insert("results".to_owned(), Value::Object(results));
    if !groups.is_empty() {
        top.insert("groups".to_owned(), Value::Object(groups));
    }
    let subtasks = scores.groups.iter().rev().map(|score| (score.group.name.clone(), json!(score.group.children)));
    top.insert("group_subtasks".to_owned(), Value::Object(subtasks.collect()));
    let leaves = parts.iter().map(|(part, score)| (score.name.clone(), config(part, score, settings)));
    top.insert("configs".to_owned(), sorted(leaves));
    let groups = || scores.groups.iter();
    let versions = parts.iter().map(|(part, score)| (score.name.clone(), version(part.leaf.task.about())));
    top.insert(
        "versions".to_owned(),
        sorted(versions.chain(groups().map(|group| (group.group.name.clone(), json!(group.group.version))))),
    );
    let shots = scores.tasks.iter().map(|task| (task.name.clone(), json!(task.shots)));
    let group_shots = groups().filter_map(|group| Some((group.group.name.clone(), json!(group.shots?))));
    top.insert("n-shot".to_owned(), sorted(shots.chain(group_shots)));
    let better = |figures: &[TaskFigure]| {
        // what the reference does not measure is not in its table
        let own = figures.iter().filter(|figure| !matches!(figure.metric.takes, Takes::Written(_)));
        let own = own.map(|figure| (figure.metric.name.to_owned(), json!(figure.metric.higher_is_better)));
        Value::Object(own.collect())
    };
    let directions = scores.tasks.iter().map(|task| (task.name.clone(), better(&task.figures)));
    let group_directions = groups().map(|group| (group.group.name.clone(), better(&group.figures)));
    top.insert("higher_is_better".to_owned(), sorted(directions.chain(group_directions)));
    let counts = parts.iter().map(|(part, score)| {
        let counts = json!({"original": part.prompts.total, "effective": score.outcomes.len()});
        (score.name.clone(), counts)
    });
    top.insert("n-samples".to_owned(), Value::Object(counts.collect()));
    top.insert("config".to_owned(), run_config(about, settings));
    top.extend(tokenizer_info(about));
    let task_hashes = parts.iter().zip(hashes).map(|((_, score), hashes)| (score.name.clone(), json!(hashes.task)));
    top.insert("task_hashes".to_owned(), Value::Object(task_hashes.collect()));
    for (key, value) in [
        ("model_source", json!("prune")),
        ("model_name", json!(about.model)),
        ("model_name_sanitized", json!(sanitized(&about.model))),
    ] {
        top.insert(key.to_owned(), value);
    }
    top.extend(conversation(about, settings));
    let mut own = own(about, settings);
    own.insert("tasks".to_owned(), json!(settings.tasks));
    let requests = parts.iter().zip(job.digests()).map(|((_, score), digest)| (score.name.clone(), json!(digest)));
    own.insert("requests_sha256".to_owned(), Value::Object(requests.collect()));
    if settings.text_split != TextSplit::default() {
        own.insert("text_split".to_owned(), json!(settings.text_split));
    }
    top.insert("prune".to_owned(), Value::Object(own));
    Value::Object(top)
}

/// What this program says besides what the reference does, the same for every task.
fn own(about: &ModelFacts, settings: &EvalSettings) -> Map<String, Value> {
    let entries = [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("tokenizer_sha256", json!(about.tokenizer)),
        ("vocabulary", json!(about.vocabulary)),
        ("compat", json!(settings.compat)),
        ("bos", json!(settings.bos)),
        ("paper", json!(settings.paper)),
        ("weights_sha256", json!(about.weights)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What results of all tasks have in common, section by section: tasks can be added where it is the same.
#[must_use]
pub fn common(about: &ModelFacts, settings: &EvalSettings) -> [(&'static str, Map<String, Value>); 4] {
    let Value::Object(config) = run_config(about, settings) else { return Default::default() };
    let mut conversation = conversation(about, settings);
    // its digest says it in a line
    conversation.shift_remove("chat_template");
    [("prune", own(about, settings)), ("config", config), ("", tokenizer_info(about)), ("", conversation)]
}

/// What the system says and how questions become conversations.
fn conversation(about: &ModelFacts, settings: &EvalSettings) -> Map<String, Value> {
    let sha = |text: &Option<String>| {
        let text = text.as_ref().filter(|text| !text.is_empty());
        text.map(|text| format!("{:x}", Sha256::digest(text)))
    };
    let entries = [
        ("system_instruction", json!(settings.system_instruction)),
        ("system_instruction_sha", json!(sha(&settings.system_instruction))),
        ("fewshot_as_multiturn", json!(settings.is_multiturn())),
        ("chat_template", json!(about.chat_template)),
        ("chat_template_sha", json!(sha(&about.chat_template))),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn sorted(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(entries.into_iter().collect())
}

fn task_entry(task: &TaskScore) -> Value {
    let mut entry = Map::new();
    entry.insert("name".to_owned(), json!(task.name));
    entry.insert("alias".to_owned(), json!(task.alias));
    entry.insert("sample_len".to_owned(), json!(task.outcomes.len()));
    figures(&mut entry, &task.figures);
    let share = |(metric, share): (TaskMetric, f64)| Some((metric.majority_key?.to_owned(), json!(share)));
    entry.extend(task.majorities().into_iter().filter_map(share));
    Value::Object(entry)
}

fn group_entry(score: &GroupScore) -> Value {
    let mut entry = Map::new();
    entry.insert("alias".to_owned(), json!(score.group.alias));
    entry.insert("name".to_owned(), json!(score.group.name));
    if !score.group.aggregates.is_empty() {
        entry.insert("sample_len".to_owned(), json!(score.size));
    }
    figures(&mut entry, &score.figures);
    if !score.figures.is_empty() {
        let counts = score.figures.iter().zip(&score.counts).map(|(figure, count)| (figure.key(""), json!(count)));
        entry.insert("sample_count".to_owned(), Value::Object(counts.collect()));
    }
    let majority = TaskMetric::ACC.majority_key.zip(score.majority);
    entry.extend(majority.map(|(key, share)| (key.to_owned(), json!(share))));
    Value::Object(entry)
}

fn figures(entry: &mut Map<String, Value>, figures: &[TaskFigure]) {
    for figure in figures {
        entry.insert(figure.key(""), json!(figure.value));
        entry.insert(figure.key("_stderr"), figure.stderr.map_or_else(|| json!("N/A"), |stderr| json!(stderr)));
    }
}

/// The task's definition with the reference's keys.
fn config(part: &Part, score: &TaskScore, settings: &EvalSettings) -> Value {
    let task = part.leaf.task;
    let about = task.about();
    let About { dataset, config, split, shots_split, sampler, output, metrics, definition, .. } = *about;
    let mut entry = Map::new();
    entry.insert("task".to_owned(), json!(score.name));
    if part.leaf.subject.is_some() || !about.alias.is_empty() {
        entry.insert("task_alias".to_owned(), json!(score.alias));
    }
    entry.insert("dataset_path".to_owned(), json!(dataset));
    let part_of = match config {
        Config::None => None,
        Config::Named(name) => Some(name),
        Config::Subject => part.leaf.subject.as_deref(),
    };
    if let Some(name) = part_of {
        entry.insert("dataset_name".to_owned(), json!(name));
    }
    entry.insert(if split == "test" { "test_split" } else { "validation_split" }.to_owned(), json!(split));
    let samples: Option<Value> = serde_json::from_str(about.samples).ok();
    if samples.is_none() {
        entry.insert("fewshot_split".to_owned(), json!(shots_split));
    }
    if let Ok(Value::Object(definition)) = serde_json::from_str(definition) {
        entry.extend(definition);
    }
    if let Some(told) = settings.kwargs().ok().flatten().and_then(|kwargs| samples::told(about, Some(&kwargs))) {
        entry.insert("generation_kwargs".to_owned(), told);
    }
    let is_first = matches!(sampler, Sampler::First | Sampler::FirstWithoutSelf);
    let sampler = if is_first { "first_n" } else { "default" };
    let shots_config = match samples {
        Some(samples) => json!({"sampler": sampler, "samples": samples}),
        None => json!({"sampler": sampler, "split": shots_split}),
    };
    if !about.gen_prefix.is_empty() {
        entry.insert("gen_prefix".to_owned(), json!(about.gen_prefix));
    }
    let metrics: Vec<Value> = metrics
        .iter()
        .map(|metric| json!({"metric": metric.name, "higher_is_better": metric.higher_is_better}))
        .collect();
    for (key, value) in [
        ("description", json!(task.description(&score.alias))),
        ("target_delimiter", json!(about.target_delimiter)),
        ("fewshot_delimiter", json!(about.shots_delimiter)),
        ("fewshot_config", shots_config),
        ("num_fewshot", json!(score.shots)),
        ("metric_list", json!(metrics)),
        ("output_type", json!(output.name())),
        ("repeats", json!(about.repeats)),
        ("metadata", json!({"version": version(about), "paper": settings.paper})),
    ] {
        entry.insert(key.to_owned(), value);
    }
    Value::Object(entry)
}

/// The version of a task's definition, as the reference says it.
fn version(about: &About) -> Value {
    let definition: Option<Value> = serde_json::from_str(about.definition).ok();
    if let Some(version) = definition.as_ref().and_then(|own| own.get("metadata")?.get("version")) {
        return version.clone();
    }
    if about.version.is_nan() { json!("Yaml") } else { json!(about.version) }
}

fn run_config(about: &ModelFacts, settings: &EvalSettings) -> Value {
    let mut arguments = Map::new();
    arguments.insert("pretrained".to_owned(), json!(about.model));
    if let Some(adapter) = &settings.adapter {
        arguments.insert("peft".to_owned(), json!(adapter));
    }
    if let Some(bos) = settings.bos {
        arguments.insert("add_bos_token".to_owned(), json!(bos));
    }
    if let Some(length) = settings.max_length {
        arguments.insert("max_length".to_owned(), json!(length));
    }
    json!({
        "model": "prune",
        "model_args": arguments,
        "model_num_parameters": about.parameters,
        "model_dtype": format!("torch.{}", about.dtype),
        "model_revision": about.revision.as_deref().unwrap_or("main"),
        "model_sha": about.revision.as_deref().unwrap_or_default(),
        "batch_size": Value::Null,
        "batch_sizes": [],
        "device": Value::Null,
        "use_cache": Value::Null,
        "limit": settings.limit,
        "bootstrap_iters": 0,
        "gen_kwargs": settings.kwargs().ok().flatten().map(|kwargs| kwargs.written().clone()),
        "random_seed": 0,
        "numpy_seed": 1234,
        "torch_seed": 1234,
        "fewshot_seed": settings.seed,
    })
}

fn tokenizer_info(about: &ModelFacts) -> Map<String, Value> {
    let mut info = Map::new();
    info.insert("git_hash".to_owned(), Value::Null);
    // the version whose figures these are
    info.insert("lm_eval_version".to_owned(), json!("0.4.13"));
    for (name, token) in ["pad", "eos", "bos"].iter().zip(&about.special) {
        let (text, id) =
            token.as_ref().map_or((Value::Null, "None".to_owned()), |(text, id)| (json!(text), id.to_string()));
        info.insert(format!("tokenizer_{name}_token"), json!([text, id]));
    }
    info.insert("eot_token_id".to_owned(), json!(about.special[1].as_ref().map(|(_, id)| id)));
    info.insert("max_length".to_owned(), json!(about.max_length));
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_as_the_reference_names_them() {
        assert_eq!(sanitized("meta-llama/Llama-2-7b-hf"), "meta-llama__Llama-2-7b-hf");
        assert_eq!(sanitized("./a//b[1]"), ".__a__b__1__");
        assert_eq!(sanitized(".."), ".._");
    }

    #[test]
    fn names_are_no_longer_than_file_systems_allow() {
        assert_eq!(short("a".repeat(255), 255), "a".repeat(255));
        let (one, other) = (short(format!("x{}", "ä".repeat(200)), 255), short(format!("y{}", "ä".repeat(200)), 255));
        assert!(one.len() <= 255 && one.len() > 250 && one.ends_with("ä"), "{one}");
        assert_ne!(one, other);
    }
}
