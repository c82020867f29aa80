//! From the keys of a file to a task.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::data;
use super::definition::{Definition, Key};
use super::filters::{Pipeline, pipelines};
use super::form::Form;
use super::metrics::Measured;
use super::own::is_own;
use super::task::{Asks, FileTask};
use super::yaml::{Kind, Node};
use crate::Result;
use crate::eval::gen_kwargs::GenKwargs;
use crate::eval::metrics::{Takes, TaskMetric};
use crate::eval::request::AnswerDraws;
use crate::eval::tasks::{About, Config, Filter, OutputType, Sampler, Task, UNVERSIONED};

/// Keys of a task.
const KEYS: &[&str] = &[
    "task",
    "task_alias",
    "tag",
    "task_list",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "fewshot_config",
    "num_fewshot",
    "output_type",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "gen_prefix",
    "generation_kwargs",
    "repeats",
    "filter_list",
    "metric_list",
    "metadata",
    "should_decontaminate",
    "doc_to_decontamination_query",
    "unsafe_code",
];

/// Keys that the harness has, and why they are not here.
const OTHERS: &[(&str, &str)] = &[
    ("class", "is Python, which prune does not run"),
    ("process_docs", "is Python, which prune does not run; write the fields it makes into the data"),
    ("process_results", "is Python, which prune does not run; metric_list names what is measured"),
    ("custom_dataset", "is Python, which prune does not run; data_files of dataset_kwargs name files"),
    ("use_prompt", "is a prompt of promptsource; doc_to_text holds one"),
    ("doc_to_image", "is for models that see"),
    ("doc_to_audio", "is for models that hear"),
];

/// `did you mean X?`, or what there is.
pub(in crate::eval) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|other| (strsim::levenshtein(name, other), other)).min();
    match near {
        Some((distance, near)) if distance <= 2 || distance * 3 <= name.len() => format!("did you mean {near}?"),
        Some(_) => format!("there are {}", known.join(", ")),
        None => "it has none".to_owned(),
    }
}

/// What lives as long as the program, as the tasks of the table do.
pub(in crate::eval) fn kept(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// Tasks that were made before: the same definition gives the same task, and takes its memory once.
static MADE: Mutex<BTreeMap<String, &'static FileTask>> = Mutex::new(BTreeMap::new());

/// The task that `definition` means, under the name `name`.
///
/// # Errors
/// Request: a key, a filter or a metric that is not known, a template that is none, what only Python could do; file,
/// line and key are named.
pub(super) fn task(definition: &Definition, name: &str) -> Result<&'static dyn Task> {
    let lines: Vec<usize> = definition.keys.iter().map(|key| key.line).collect();
    let identity = format!("{name} {} {lines:?} {}", definition.file.display(), Value::Object(definition.json()));
    let known = MADE.lock().unwrap_or_else(PoisonError::into_inner).get(&identity).copied();
    if let Some(task) = known {
        return Ok(task);
    }
    let task: &'static FileTask = Box::leak(Box::new(build(definition, name)?));
    MADE.lock().unwrap_or_else(PoisonError::into_inner).insert(identity, task);
    Ok(task)
}

fn build(definition: &Definition, name: &str) -> Result<FileTask> {
    check(definition)?;
    let output = output(definition)?;
    let splits = data::Splits::new(definition)?;
    let shots = definition.get("fewshot_config");
    if let Some(key) = shots {
        check_shots(key)?;
    }
    let repeats = definition.get("repeats").map_or(Ok(1), Key::count)?.max(1);
    let measured = match definition.get("metric_list") {
        Some(key) => Measured::new(key, output, repeats)?,
        None => Measured::default_of(output),
    };
    let is_code = measured.metrics.iter().any(|metric| matches!(metric.takes, Takes::Passed(_)));
    let filters = definition.get("filter_list").map(|key| pipelines(key, repeats, is_code)).transpose()?;
    let all = filters.unwrap_or_else(|| vec![Pipeline::first()]);
    if let (Some(key), false) = (definition.get("filter_list"), output == OutputType::Generate)
        && let Some(filter) = all.iter().find(|filter| !filter.is_plain())
    {
        return Err(key.fault(format!("{}: only answers of generate_until are texts to filter", filter.name)));
    }
    check_programs(definition, &measured, &all)?;
    let delimiter = |key: &str, default: &'static str| definition.text(key).map(|text| text.map_or(default, kept));
    let own = [delimiter("target_delimiter", " ")?, delimiter("fewshot_delimiter", "\n\n")?];
    let of_shots = |name: &str| shots.and_then(|key| key.value.get(name)).and_then(Node::text);
    let example =
        [of_shots("target_delimiter").map_or(own[0], kept), of_shots("fewshot_delimiter").map_or(own[1], kept)];
    let said = said(definition, output, own[1])?;
    let mut written = definition.json();
    if let Some((kwargs, _)) = &said {
        written.insert("generation_kwargs".to_owned(), Value::Object(kwargs.written().clone()));
    }
    let number = definition.get("num_fewshot").map(Key::count).transpose()?;
    let samples =
        shots.filter(|_| splits.examples_named.is_none()).and_then(|key| Some((key, key.value.get("samples")?)));
    let samples = match samples {
        Some((key, node)) => {
            let rows = node.list().filter(|rows| rows.iter().all(|row| row.entries().is_some()) && !rows.is_empty());
            rows.ok_or_else(|| key.fault_at(node.line, "samples: expected a list of documents"))?;
            kept(&node.json().to_string())
        }
        None => "",
    };
    let first = of_shots("sampler") == Some("first_n");
    // where both are the same, the document itself may be among them: also where there is neither
    let sampler = match (first, splits.examples_named == splits.test) {
        (true, true) => Sampler::FirstWithoutSelf,
        (true, false) => Sampler::First,
        (false, true) => Sampler::DrawnWithoutSelf,
        (false, false) => Sampler::Drawn,
    };
    let of = |filter: &Pipeline| Filter { name: kept(&filter.name), takes_all: filter.takes_all(), ..Filter::FIRST };
    let filters: Vec<Filter> = all.iter().map(of).collect();
    let about = About {
        name: kept(name),
        title: kept(name),
        alias: definition.text("task_alias")?.map_or("", kept),
        dataset: kept(&splits.dataset),
        config: splits.name.as_deref().map_or(Config::None, |name| Config::Named(kept(name))),
        local: splits.local(definition)?,
        only: definition.get("only").filter(|_| is_own(definition)).and_then(|key| {
            let entry = key.value.entries()?.first()?;
            Some((kept(&entry.key), kept(entry.value.text()?)))
        }),
        split: kept(&splits.scored),
        shots_split: kept(&splits.examples),
        sampler,
        shots: number.unwrap_or(0),
        is_zero_shot: number == Some(0),
        samples,
        target_delimiter: own[0],
        shots_delimiter: own[1],
        gen_prefix: definition.text("gen_prefix")?.map_or("", kept),
        example_delimiters: (example != own).then_some(example),
        repeats,
        output,
        metrics: measured.metrics.leak(),
        filters: filters.leak(),
        version: UNVERSIONED,
        definition: kept(&Value::Object(written).to_string()),
        ..About::CHOICE
    };
    let (kwargs, draws) = said.unwrap_or_default();
    let until: Vec<&'static str> = kwargs.until().iter().flatten().map(|text| kept(text)).collect();
    let differs = ["doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix"];
    let differs = shots.filter(|key| differs.iter().any(|name| key.value.get(name).is_some()));
    Ok(FileTask {
        about,
        asks: asks(definition, None, output)?,
        solved: differs.map(|key| asks(definition, Some(key), output)).transpose()?,
        description: definition.get("description").map(Form::new).transpose()?,
        until: until.leak(),
        max_gen_toks: kwargs.most(),
        draws,
        pipelines: all,
        exact: measured.exact,
    })
}

/// Programs are measured by whether they pass, and by nothing else.
fn check_programs(definition: &Definition, measured: &Measured, filters: &[Pipeline]) -> Result<()> {
    let is_passed = |metric: &TaskMetric| matches!(metric.takes, Takes::Passed(_));
    let Some(key) = definition.get("metric_list").filter(|_| measured.metrics.iter().any(is_passed)) else {
        return Ok(());
    };
    if filters.len() > 1 || !measured.metrics.iter().all(is_passed) {
        return Err(key.fault("programs have one filter, and are measured by pass_at_k or pass_at_1 alone"));
    }
    Ok(())
}

/// Keys that are not known, or that need Python.
fn check(definition: &Definition) -> Result<()> {
    for key in definition.keys.iter().filter(|key| !key.value.is_null()) {
        let name = key.name.as_str();
        if let Some((_, why)) = OTHERS.iter().find(|(known, _)| *known == name) {
            return Err(key.fault(why));
        }
        if name == "only" && is_own(definition) {
            continue;
        }
        if !KEYS.contains(&name) {
            let near = nearest(name, KEYS.iter().copied());
            return Err(key.fault(format!("is no key of a task; {near}")));
        }
        let is_asked = !matches!(name, "metadata" | "doc_to_decontamination_query");
        if let Some((line, function)) = key.value.function().filter(|_| is_asked) {
            return Err(key.fault_at(line, format!("!function {function} is Python, which prune does not run")));
        }
    }
    Ok(())
}

fn check_shots(key: &Key) -> Result<()> {
    const KNOWN: [&str; 9] = [
        "sampler",
        "split",
        "samples",
        "doc_to_text",
        "doc_to_target",
        "doc_to_choice",
        "gen_prefix",
        "fewshot_delimiter",
        "target_delimiter",
    ];
    let entries = key.value.entries().ok_or_else(|| key.fault("expected keys, such as `sampler: first_n`"))?;
    for entry in entries.iter().filter(|entry| !entry.value.is_null()) {
        let name = entry.key.as_str();
        let fault = |what: String| Err(key.fault_at(entry.line, format!("{name}: {what}")));
        match name {
            "process_docs" => return fault("is Python, which prune does not run".to_owned()),
            "fewshot_indices" => return fault("the harness has it and does not use it; list samples".to_owned()),
            _ if !KNOWN.contains(&name) => {
                return fault(format!("is no key of it; {}", nearest(name, KNOWN.into_iter())));
            }
            "sampler" if !matches!(entry.value.text(), Some("default" | "first_n")) => {
                return fault(format!("is {}, expected default or first_n", entry.value.json()));
            }
            "samples" | "sampler" => {}
            "doc_to_text" | "doc_to_target" | "doc_to_choice" => {}
            _ if entry.value.text().is_none() => return fault("expected a text".to_owned()),
            _ => {}
        }
    }
    Ok(())
}

fn output(definition: &Definition) -> Result<OutputType> {
    const ALL: [OutputType; 4] =
        [OutputType::MultipleChoice, OutputType::LogLikelihood, OutputType::Rolling, OutputType::Generate];
    let Some(key) = definition.get("output_type") else { return Ok(OutputType::Generate) };
    let name = key.text()?;
    ALL.into_iter().find(|output| output.name() == name).ok_or_else(|| {
        key.fault(format!("there is no type {name}; {}", nearest(name, ALL.into_iter().map(OutputType::name))))
    })
}

/// What documents are asked; of examples as `fewshot_config` says.
fn asks(definition: &Definition, shots: Option<&Key>, output: OutputType) -> Result<Asks> {
    let key = |name: &str| {
        let own = shots.and_then(|key| {
            let value = key.value.get(name)?.clone();
            Some(Key { name: format!("{}.{name}", key.name), line: value.line, file: key.file.clone(), value })
        });
        own.or_else(|| definition.get(name).cloned())
    };
    let missing = |name: &str| definition.fault(format!("{name} is missing: what a {} task asks", output.name()));
    let text = match (key("doc_to_text"), output) {
        (Some(key), _) => Form::new(&key)?,
        (None, OutputType::Rolling) => Form::Constant(json!("")),
        (None, _) => return Err(missing("doc_to_text")),
    };
    let choice = key("doc_to_choice").map(|key| Form::of_choices(&key)).transpose()?;
    if output == OutputType::MultipleChoice && choice.is_none() {
        return Err(missing("doc_to_choice"));
    }
    Ok(Asks {
        text,
        target: Form::new(&key("doc_to_target").ok_or_else(|| missing("doc_to_target"))?)?,
        choice,
        prefix: key("gen_prefix").map(|key| Form::new(&key)).transpose()?,
    })
}

/// How answers are generated; nothing where they are not.
fn said(
    definition: &Definition,
    output: OutputType,
    delimiter: &'static str,
) -> Result<Option<(GenKwargs, Option<AnswerDraws>)>> {
    if output != OutputType::Generate {
        return Ok(None);
    }
    let mut kwargs = GenKwargs::default();
    let Some(key) = definition.get("generation_kwargs") else {
        kwargs.or("temperature", json!(0.0));
        kwargs.or("do_sample", json!(false));
        kwargs.or("max_gen_toks", json!(256));
        kwargs.or("until", json!([delimiter]));
        return Ok(Some((kwargs, None)));
    };
    let entries = key.value.entries().ok_or_else(|| key.fault("expected keys, such as `until`"))?;
    for entry in entries.iter().filter(|entry| !entry.value.is_null()) {
        kwargs.set(&entry.key, &entry.value.json()).map_err(|fault| key.fault_at(entry.line, fault))?;
    }
    kwargs.or("until", json!([delimiter]));
    let repeats = definition.get("repeats").map_or(Ok(1), Key::count)?.max(1);
    let draws = kwargs.draws(repeats).map_err(|fault| key.fault(fault))?;
    Ok(Some((kwargs, draws)))
}

/// A scalar as a text: names may look like numbers.
pub(super) fn name_of(key: &Key) -> Result<String> {
    match &key.value.kind {
        Kind::Scalar(Value::String(text)) => Ok(text.clone()),
        Kind::Scalar(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(key.fault(format!("is {}, expected a name", key.value.json()))),
    }
}
