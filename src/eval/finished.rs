//! Results that are there already, ours or lm-evaluation-harness's: to be compared with, or added to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::job::Part;
use super::job::judge;
use super::metrics::{NO_FILTER, Takes, TaskMetric};
use super::outcome::{Outcome, first_greatest, majority, mean};
use super::request::{Answer, Completion, Request, Written};
use super::results::{ModelFacts, samples_file};
use super::samples::GENERATIONS;
use super::side::{Parts, Side, SideFigure, SideTask};
use crate::data::{Row, rows};
use crate::files::{self, Bound};
use crate::{Context, Error, Result};

/// The documents of a task by number, and which choice each question got.
type Answered = (BTreeMap<usize, Parts>, Vec<usize>);

/// A results file that was read; its samples are read when they are needed.
#[derive(Clone, Debug)]
pub struct Finished {
    path: PathBuf,
    results: Map<String, Value>,
}

impl Finished {
    /// Reads a results file, or the only one in a directory or its folders.
    ///
    /// # Errors
    /// Request: no results there, or several. Work: something else, or a broken file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { only_results(path)? } else { path.to_owned() };
        let not_results = |fault: String| format!("not a results file: {fault}");
        let results: Map<String, Value> = files::json(&file, Bound::RECORD).map_err(|error| match error {
            Error::Work(fault) => Error::Work(not_results(fault)),
            error => error,
        })?;
        if !results.get("results").is_some_and(Value::is_object) {
            return Err(Error::work(not_results(format!("{}: it has no results", file.display()))));
        }
        Ok(Self { path: file, results })
    }

    /// The results file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model, as the results call it.
    #[must_use]
    pub fn model(&self) -> &str {
        let argument = || self.results.get("config")?.get("model_args")?.get("pretrained")?.as_str();
        self.results.get("model_name").and_then(Value::as_str).or_else(argument).unwrap_or("a model")
    }

    /// Part of the results file.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Value> {
        self.results.get(name)
    }

    /// Questions are the same tokens for both models only with one tokenizer.
    ///
    /// # Errors
    /// Request: results of a model with another one.
    pub(crate) fn same_tokenizer(&self, about: &ModelFacts) -> Result<()> {
        let refuse = |what: &str| {
            Err(Error::request(format!(
                "{}: these are results of {}, whose tokenizer is not this model's ({what}); compare models that were \
                 cut from the same one",
                self.path.display(),
                self.model()
            )))
        };
        let own = self.results.get("prune").and_then(|own| own.get("tokenizer_sha256")).and_then(Value::as_str);
        if let Some(known) = own {
            return if known == about.tokenizer { Ok(()) } else { refuse("tokenizer.json differs") };
        }
        for (name, token) in [("tokenizer_eos_token", &about.special[1]), ("tokenizer_bos_token", &about.special[2])] {
            let theirs =
                self.results.get(name).and_then(|token| Some((token.get(0)?.as_str()?, token.get(1)?.as_str()?)));
            let ours = token.as_ref().map(|(text, id)| (text.as_str(), id.to_string()));
            let same = match (theirs, &ours) {
                (Some(theirs), Some(ours)) => theirs == (ours.0, ours.1.as_str()),
                (None, _) => true,
                (Some(_), None) => false,
            };
            if !same {
                return refuse(&format!("{name} is {theirs:?}, here {ours:?}"));
            }
        }
        Ok(())
    }

    /// The figures of each task and group, and the documents of those that `wanted` says, where samples were kept.
    ///
    /// # Errors
    /// Work: broken samples.
    pub fn side(&self, wanted: &dyn Fn(&str) -> bool) -> Result<Side> {
        let mut tasks = Vec::new();
        for (name, entry) in self.results["results"].as_object().into_iter().flatten() {
            let figures = figures(entry, self.results.get("higher_is_better").and_then(|known| known.get(name)));
            let read = wanted(name) && self.children(name).is_none();
            let (documents, chosen) = if read { self.documents(name, &figures)?.unzip() } else { (None, None) };
            let share = |metric: &TaskMetric| Some((*metric, entry.get(metric.majority_key?)?.as_f64()?));
            let told: Vec<(TaskMetric, f64)> = TaskMetric::ALL.iter().filter_map(share).collect();
            let counted = chosen.and_then(|chosen: Vec<usize>| majority(chosen.into_iter()));
            let count = entry.get("sample_len").and_then(Value::as_u64).map(|count| count as usize);
            tasks.push(SideTask {
                name: name.clone(),
                majority: if told.is_empty() {
                    counted.map(|share| (TaskMetric::ACC, share)).into_iter().collect()
                } else {
                    told
                },
                count: count.or_else(|| self.counted(name)).unwrap_or(documents.as_ref().map_or(0, BTreeMap::len)),
                figures,
                documents,
            });
        }
        let groups =
            tasks.iter().filter_map(|task| Some((task.name.clone(), self.leaves(self.children(&task.name)?, 0))));
        Ok(Side { groups: groups.collect(), tasks })
    }

    /// Documents of a task, as the results say.
    fn counted(&self, name: &str) -> Option<usize> {
        self.results.get("n-samples")?.get(name)?.get("effective")?.as_u64().map(|count| count as usize)
    }

    /// Tasks and groups of a group.
    fn children(&self, name: &str) -> Option<&Vec<Value>> {
        self.results.get("group_subtasks")?.get(name)?.as_array().filter(|children| !children.is_empty())
    }

    fn leaves(&self, children: &[Value], depth: usize) -> Vec<String> {
        let below = |name: &str| match self.children(name).filter(|_| depth < 8) {
            Some(children) => self.leaves(children, depth + 1),
            None => vec![name.to_owned()],
        };
        children.iter().filter_map(Value::as_str).flat_map(below).collect()
    }

    /// Where the samples of a task are, if they were kept.
    fn samples(&self, task: &str) -> PathBuf {
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stamp = name.strip_prefix("results_").and_then(|name| name.strip_suffix(".json"));
        let file = stamp.map_or_else(|| format!("samples_{task}.jsonl"), |stamp| samples_file(task, stamp));
        self.path.with_file_name(file)
    }

    /// The documents of a task, and which choice each question got.
    fn documents(&self, task: &str, figures: &[SideFigure]) -> Result<Option<Answered>> {
        let path = self.samples(task);
        if !path.exists() {
            return Ok(None);
        }
        let (mut documents, mut all_chosen) = (BTreeMap::new(), Vec::new());
        for row in rows(&path)? {
            let row = row?;
            let filter = row.fields.get("filter").and_then(Value::as_str).unwrap_or(NO_FILTER);
            let written = written(&row.fields).unwrap_or_default();
            let value = |figure: &SideFigure| match TaskMetric::named(&figure.metric).map(|metric| metric.takes) {
                Some(Takes::Written(of)) => mean(&written, of).map(|mean| (mean, 1.0)),
                _ => pair(row.fields.get(&figure.metric)?).filter(|_| figure.filter == filter),
            };
            let parts: Vec<Option<(f64, f64)>> = figures.iter().map(value).collect();
            let prompt = row.fields.get("prompt_hash").and_then(Value::as_str).unwrap_or_default().to_owned();
            // one line for each filter
            let (_, known) = documents.entry(id(&row)?).or_insert_with(|| (prompt, vec![None; parts.len()]));
            known.iter_mut().zip(parts).for_each(|(known, part)| *known = known.or(part));
            all_chosen.extend(chosen(&row.fields));
        }
        Ok(Some((documents, all_chosen)))
    }

    /// What came out for each document of `part`, read back from the samples of `task`.
    ///
    /// # Errors
    /// Samples that are missing, broken, or of other documents.
    pub(crate) fn outcomes(&self, task: &str, part: &Part) -> Result<Vec<Outcome>> {
        let path = self.samples(task);
        let mut outcomes = Vec::new();
        let mut documents = part.prompts.documents.iter();
        // every filter has its lines, with the same answers
        let first = part.leaf.task.about().filters.first().map_or(NO_FILTER, |filter| filter.name);
        for row in rows(&path)? {
            let row = row?;
            if row.fields.get("filter").and_then(Value::as_str) != Some(first) {
                continue;
            }
            let document = documents.next().filter(|document| id(&row).is_ok_and(|id| id == document.id));
            let document = document.ok_or_else(|| row.fault("is not the document that was asked for"))?;
            let found = answers(&row.fields, &document.requests);
            let found = found.ok_or_else(|| row.fault("holds no answers of this program"))?;
            let passed = passed(&row.fields);
            outcomes.push(judge(part.leaf.task, document, found, passed).context(|| &row.place)?);
        }
        if documents.next().is_some() {
            return Err(Error::work(format!("{}: documents are missing", path.display())));
        }
        Ok(outcomes)
    }
}

fn id(row: &Row) -> Result<usize> {
    usize::try_from(row.integer("doc_id")?).map_err(|_| row.fault("field `doc_id` is negative"))
}

/// Which choice a line of samples says is the likeliest.
fn chosen(line: &Map<String, Value>) -> Option<usize> {
    let responses = line.get("filtered_resps")?.as_array().filter(|responses| responses.len() > 1)?;
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let likelihoods = responses.iter().map(|response| number(response.get(0)?)).collect::<Option<Vec<f64>>>()?;
    first_greatest(&likelihoods)
}

/// Which of a document's programs passed.
fn passed(line: &Map<String, Value>) -> Vec<bool> {
    line.get("passed").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_bool).collect()
}

/// How each of a document's answers was written.
fn written(line: &Map<String, Value>) -> Option<Vec<Written>> {
    serde_json::from_value(line.get(GENERATIONS)?.clone()).ok()
}

/// The answers to a document's requests in its line of samples.
fn answers(line: &Map<String, Value>, requests: &[Request]) -> Option<Vec<Answer>> {
    let written = written(line);
    let written = |place: usize| written.as_ref().and_then(|all| all.get(place).copied());
    let said = |(place, response): (usize, &Value)| {
        Some(Answer::Text(Completion { text: response.as_str()?.to_owned(), written: written(place) }))
    };
    let number = |value: &Value| value.as_str()?.parse::<f64>().ok();
    let answer = |(request, response): (&Request, &Value)| match request {
        Request::LogLikelihood { .. } => {
            let (log_likelihood, greedy) = (number(response.get(0)?)? as f32, response.get(1)?.as_str()? == "True");
            Some(Answer::LogLikelihood { log_likelihood, greedy })
        }
        Request::LogLikelihoodRolling { .. } => {
            let (own, tokens) = pair(line.get(TaskMetric::LOSS.name)?)?;
            Some(Answer::Rolling { log_likelihood: number(response)?, own, tokens: tokens as usize })
        }
        Request::GenerateUntil { .. } => said((0, response)),
    };
    if let ([Request::GenerateUntil { draws: Some(draws), .. }], Some(drawn)) = (requests, line.get("resps")?.get(0)) {
        return drawn.as_array().filter(|all| all.len() == draws.repeats)?.iter().enumerate().map(said).collect();
    }
    let responses = line.get("resps")?.as_array().filter(|responses| responses.len() == requests.len())?;
    requests.iter().zip(responses).map(|(request, response)| answer((request, response.get(0)?))).collect()
}

/// Every figure of a task's entry in results.
fn figures(entry: &Value, higher: Option<&Value>) -> Vec<SideFigure> {
    let entries = entry.as_object().into_iter().flatten();
    let figure = |(key, value): (&String, &Value)| {
        let (metric, filter) = key.split_once(',')?;
        let stderr = entry.get(format!("{metric}_stderr,{filter}")).and_then(Value::as_f64);
        let value = value.as_f64().filter(|_| !metric.ends_with("_stderr"))?;
        let told = higher.and_then(|known| known.get(metric)).and_then(Value::as_bool);
        let higher_is_better = told.or_else(|| TaskMetric::named(metric).map(|metric| metric.higher_is_better))?;
        Some(SideFigure { metric: metric.to_owned(), filter: filter.to_owned(), value, stderr, higher_is_better })
    };
    entries.filter_map(figure).collect()
}

/// Numerator and denominator in a line of samples.
fn pair(value: &Value) -> Option<(f64, f64)> {
    match value {
        Value::Array(pair) => Some((pair.first()?.as_f64()?, pair.get(1)?.as_f64()?)),
        Value::Bool(is_right) => Some((f64::from(u8::from(*is_right)), 1.0)),
        value => Some((value.as_f64()?, 1.0)),
    }
}

/// The results file in `dir` or in one of its folders.
fn only_results(dir: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    let mut look = |dir: &Path| -> std::io::Result<Vec<PathBuf>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if name.starts_with("results") && name.ends_with(".json") {
                found.push(path);
            }
        }
        Ok(folders)
    };
    let folders = look(dir).map_err(|error| Error::io(dir, &error))?;
    for folder in folders {
        look(&folder).map_err(|error| Error::io(&folder, &error))?;
    }
    match found.as_slice() {
        [file] => Ok(file.clone()),
        [] => Err(Error::request("holds no results of an evaluation (results_*.json)")).context(|| dir.display()),
        several => Err(Error::request(format!("{} results files there, name one of them", several.len())))
            .context(|| dir.display()),
    }
}
