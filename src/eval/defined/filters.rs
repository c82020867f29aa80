//! Filters of lm-evaluation-harness 0.4.13 (`filters/`): from the responses to a request to what is judged.

mod chosen;

use std::collections::BTreeMap;

use serde_json::Value;

use super::definition::Key;
use super::yaml::{Kind, Node};
use super::{bbh, programs};
use crate::eval::fields::{Fields, texts};
use crate::eval::python::{Found, Pattern, strip};
use crate::{Error, Result};

/// A filter of a task: steps, of which the last takes one response.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) name: String,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Regex(Extract),
    Choice {
        extract: Extract,
        ignore: Ignore,
        in_input: bool,
    },
    Mapped {
        extract: Extract,
        ignore: Ignore,
        values: Vec<(Pattern, String)>,
    },
    Number(Extract),
    SortedWords,
    Strip,
    Lower,
    Upper,
    Map {
        mapping: BTreeMap<String, String>,
        default: String,
    },
    FirstOf(usize),
    Majority,
    First,
    /// A program is the beginning in the field `prompt` and the response.
    Begun {
        block: bool,
    },
    /// A program is the first block of code in the response, which goes on with one.
    Block,
}

/// `regex`: which match of which expression, and what is said where there is none.
#[derive(Debug)]
struct Extract {
    pattern: Pattern,
    select: i64,
    fallback: String,
}

/// What `multi_choice_regex` leaves out where it looks for the text of a choice.
#[derive(Debug)]
struct Ignore {
    case: bool,
    punctuation: Option<Pattern>,
    regexes: Vec<Pattern>,
}

const IGNORING: &[&str] =
    &["regex_pattern", "group_select", "fallback", "ignore_case", "ignore_punctuation", "regexes_to_ignore"];

/// Names of steps, and of their settings.
const STEPS: &[(&str, &[&str])] = &[
    ("regex", &["regex_pattern", "group_select", "fallback"]),
    ("multi_choice_regex", IGNORING),
    ("bbh_multi_choice_regex", IGNORING),
    (
        "bbh_map_regex",
        &[
            "regex_pattern_to_value",
            "group_select",
            "fallback",
            "ignore_case",
            "ignore_punctuation",
            "regexes_to_ignore",
        ],
    ),
    ("bbh_number_regex", &["regex_pattern", "group_select", "fallback"]),
    ("bbh_word_sort", &[]),
    ("remove_whitespace", &[]),
    ("lowercase", &[]),
    ("uppercase", &[]),
    ("map", &["mapping_dict", "default_value"]),
    ("humaneval_predictions", &[]),
    ("humaneval_instruct_predictions", &[]),
    ("mbpp_code_block", &[]),
    ("take_first_k", &["k"]),
    ("majority_vote", &[]),
    ("take_first", &[]),
];

/// What else the harness has, and why it is not here.
const OTHERS: &[(&str, &str)] = &[
    ("custom", "is a function of Python"),
    ("regex_pos", "gives lists, which only metrics of Python take"),
    ("format_span", "is for metrics of Python"),
    ("decontaminate", "needs an index of training data"),
];

/// Filters of `filter_list`, which take one response, or with `takes_all` may take all.
///
/// # Errors
/// Request: a filter or a setting that is not known, an expression that is none, a filter that leaves several
/// responses.
pub(super) fn pipelines(key: &Key, repeats: usize, takes_all: bool) -> Result<Vec<Pipeline>> {
    let list = key.value.list().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| key.fault("expected a list of filters, each with name and filter"))?;
    let mut all: Vec<Pipeline> = Vec::new();
    for node in list {
        let name = node.get("name").and_then(Node::text);
        let name = name.ok_or_else(|| key.fault_at(node.line, "a filter without a name"))?;
        let steps = node.get("filter").and_then(Node::list).filter(|steps| !steps.is_empty());
        let steps =
            steps.ok_or_else(|| key.fault_at(node.line, format!("{name} has no list `filter` of functions")))?;
        let mut built = Vec::new();
        for node in steps {
            if matches!(built.last(), Some(Step::First)) {
                let what =
                    format!("{name}: behind take_first a filter sees single letters; let take_first be the last");
                return Err(key.fault_at(node.line, what));
            }
            built.push(step(key, node, repeats)?);
        }
        if !takes_all && !matches!(built.last(), Some(Step::First)) {
            let what = format!("{name} leaves a list of responses, which no metric takes; let take_first be the last");
            return Err(key.fault_at(node.line, what));
        }
        if all.iter().any(|known| known.name == name) {
            return Err(key.fault_at(node.line, format!("{name} is there twice")));
        }
        all.push(Pipeline { name: name.to_owned(), steps: built });
    }
    Ok(all)
}

fn step(key: &Key, node: &Node, repeats: usize) -> Result<Step> {
    let fault = |what: String| key.fault_at(node.line, what);
    let name = node.get("function").and_then(Node::text);
    let name = name.ok_or_else(|| fault("a step without a function, such as `function: take_first`".to_owned()))?;
    if let Some((_, why)) = OTHERS.iter().find(|(known, _)| *known == name) {
        return Err(fault(format!("filter {name} {why}")));
    }
    let Some((_, settings)) = STEPS.iter().find(|(known, _)| *known == name) else {
        let near = super::read::nearest(name, STEPS.iter().map(|(known, _)| *known));
        return Err(fault(format!("there is no filter {name}; {near}")));
    };
    for entry in node.entries().into_iter().flatten().filter(|entry| entry.key != "function") {
        if !settings.contains(&entry.key.as_str()) {
            let near = super::read::nearest(&entry.key, settings.iter().copied());
            return Err(key.fault_at(entry.line, format!("filter {name} has no setting {}; {near}", entry.key)));
        }
    }
    let text = |name: &str, default: &str| match node.get(name) {
        None => Ok(default.to_owned()),
        Some(node) => {
            node.text().map(str::to_owned).ok_or_else(|| key.fault_at(node.line, format!("{name}: expected a text")))
        }
    };
    let flag = |name: &str| match node.get(name).map(|node| &node.kind) {
        None => Ok(false),
        Some(Kind::Scalar(Value::Bool(flag))) => Ok(*flag),
        Some(_) => Err(fault(format!("{name}: expected true or false"))),
    };
    let whole = |name: &str| match node.get(name).map(|node| &node.kind) {
        None => Ok(None),
        Some(Kind::Scalar(Value::Number(number))) if number.is_i64() => Ok(number.as_i64()),
        Some(_) => Err(fault(format!("{name}: expected a whole number"))),
    };
    let extract = || {
        let source = text("regex_pattern", r"#### (\-?[0-9\.\,]+)")?;
        let pattern = Pattern::new(&source).map_err(|fault| no_expression(key, node.line, &source, &fault))?;
        Ok::<_, Error>(Extract {
            pattern,
            select: whole("group_select")?.unwrap_or(0),
            fallback: text("fallback", "[invalid]")?,
        })
    };
    let ignore = || {
        let punctuation = flag("ignore_punctuation")?.then(|| Pattern::native(r"\p{P}").map_err(fault)).transpose()?;
        let regexes = node.get("regexes_to_ignore").map(|node| expressions(key, node)).transpose()?;
        Ok::<_, Error>(Ignore { case: flag("ignore_case")?, punctuation, regexes: regexes.unwrap_or_default() })
    };
    Ok(match name {
        "regex" => Step::Regex(extract()?),
        "multi_choice_regex" => Step::Choice { extract: extract()?, ignore: ignore()?, in_input: false },
        "bbh_multi_choice_regex" => Step::Choice { extract: extract()?, ignore: ignore()?, in_input: true },
        "bbh_number_regex" => Step::Number(extract()?),
        "bbh_word_sort" => Step::SortedWords,
        "bbh_map_regex" => {
            let entries = node.get("regex_pattern_to_value").and_then(Node::entries).unwrap_or_default();
            let compile =
                |source: &str| Pattern::new(source).map_err(|fault| no_expression(key, node.line, source, &fault));
            let value = |entry: &super::yaml::Entry| {
                let value = entry.value.text().ok_or_else(|| fault("a value is no text".to_owned()))?;
                Ok((compile(&entry.key)?, value.to_owned()))
            };
            let values = entries.iter().map(value).collect::<Result<_>>()?;
            let sources: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
            let pattern = compile(&sources.join("|"))?;
            let (select, fallback) = (whole("group_select")?.unwrap_or(0), text("fallback", "[invalid]")?);
            Step::Mapped { extract: Extract { pattern, select, fallback }, ignore: ignore()?, values }
        }
        "remove_whitespace" => Step::Strip,
        "lowercase" => Step::Lower,
        "uppercase" => Step::Upper,
        "map" => {
            let entries = node.get("mapping_dict").and_then(Node::entries).unwrap_or_default();
            let pair = |entry: &super::yaml::Entry| Some((entry.key.clone(), entry.value.text()?.to_owned()));
            let pairs: Option<BTreeMap<String, String>> =
                entries.iter().filter(|entry| entry.is_text).map(pair).collect();
            let mapping = pairs.ok_or_else(|| fault("mapping_dict: expected texts".to_owned()))?;
            if node.get("default_value").is_none() {
                let what = "map without default_value: the harness stops at a response that is not in mapping_dict";
                return Err(fault(what.to_owned()));
            }
            Step::Map { mapping, default: text("default_value", "")? }
        }
        "take_first_k" => {
            let k = whole("k")?.and_then(|k| usize::try_from(k).ok()).filter(|k| (1..=repeats).contains(k));
            Step::FirstOf(k.ok_or_else(|| fault(format!("k: expected a number from 1 to repeats, {repeats}")))?)
        }
        "humaneval_predictions" => Step::Begun { block: false },
        "humaneval_instruct_predictions" => Step::Begun { block: true },
        "mbpp_code_block" => Step::Block,
        "majority_vote" => Step::Majority,
        _ => Step::First,
    })
}

/// A list of regular expressions.
pub(super) fn expressions(key: &Key, node: &Node) -> Result<Vec<Pattern>> {
    let list = node.list().ok_or_else(|| key.fault_at(node.line, "expected a list of regular expressions"))?;
    let compiled = list.iter().map(|node| {
        let source = node.text().ok_or_else(|| key.fault_at(node.line, "expected a regular expression"))?;
        Pattern::new(source).map_err(|fault| no_expression(key, node.line, source, &fault))
    });
    compiled.collect()
}

fn no_expression(key: &Key, line: usize, source: &str, fault: &str) -> Error {
    let fault = fault.lines().last().unwrap_or_default();
    key.fault_at(line, format!("{source:?} is no regular expression: {fault}"))
}

impl Pipeline {
    /// The filter of tasks that name none.
    pub(super) fn first() -> Self {
        Self { name: crate::eval::metrics::NO_FILTER.to_owned(), steps: vec![Step::First] }
    }

    /// Whether it leaves a response as it is.
    pub(super) fn is_plain(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::First | Step::FirstOf(_) | Step::Majority))
    }

    /// Whether all responses are left.
    pub(super) fn takes_all(&self) -> bool {
        !matches!(self.steps.last(), Some(Step::First))
    }

    /// What it takes of the responses to a document: one, or as many as it leaves.
    ///
    /// # Errors
    /// Work: an expression that takes too many steps; a document without choices.
    pub(super) fn apply(&self, document: &Fields, responses: Vec<String>) -> Result<Vec<String>> {
        let mut responses = responses;
        for step in &self.steps {
            responses =
                step.apply(document, responses).map_err(|fault| Error::work(format!("{}: {fault}", self.name)))?;
        }
        Ok(responses)
    }
}

impl Step {
    fn apply(&self, document: &Fields, mut responses: Vec<String>) -> Result<Vec<String>, String> {
        let input = || document.get("input").and_then(Value::as_str).ok_or("field input is no text");
        let each = |of: &dyn Fn(&str) -> Result<String, String>| responses.iter().map(|text| of(text)).collect();
        match self {
            Self::Regex(extract) => each(&|text| Ok(extract.find(text)?.unwrap_or_else(|| extract.fallback.clone()))),
            Self::Choice { extract, ignore, in_input } => {
                let choices = match in_input {
                    true => bbh::choices(input()?),
                    false => texts(document.get("choices"), "choices").map_err(|error| error.to_string())?,
                };
                each(&|text| chosen::chosen(extract, ignore, &choices, text))
            }
            Self::Mapped { extract, ignore, values } => each(&|text| {
                let found = extract.taken(&ignore.apply(text)?)?.filter(|found| !found.is_empty());
                let found = found.map(|found| ignore.apply(&found)).transpose()?;
                for (pattern, value) in values {
                    if found.as_ref().map_or(Ok(false), |it| pattern.find_all(it).map(|found| !found.is_empty()))? {
                        return Ok(value.clone());
                    }
                }
                Ok(extract.fallback.clone())
            }),
            Self::Number(extract) => each(&|text| {
                let found = extract.taken(text)?.filter(|found| !found.is_empty());
                let words = || bbh::number_in_words(text).map(|it| it.unwrap_or_else(|| extract.fallback.clone()));
                found.map_or_else(words, Ok)
            }),
            Self::SortedWords => each(&|text| bbh::sorted_words(input()?, text)),
            Self::Strip => each(&|text| Ok(strip(text).to_owned())),
            Self::Lower => each(&|text| Ok(text.to_lowercase())),
            Self::Upper => each(&|text| Ok(text.to_uppercase())),
            Self::Map { mapping, default } => each(&|text| Ok(mapping.get(text).unwrap_or(default).clone())),
            Self::Begun { block } => {
                let prompt = document.get("prompt").and_then(Value::as_str).ok_or("field prompt is no text")?;
                each(&|text| Ok(programs::begun(prompt, text, *block)))
            }
            Self::Block => each(&programs::block),
            Self::FirstOf(count) => {
                responses.truncate(*count);
                Ok(responses)
            }
            Self::Majority => Ok(commonest(&responses).into_iter().collect()),
            Self::First => {
                responses.truncate(1);
                Ok(responses)
            }
        }
    }
}

/// The first of those that are there most often.
fn commonest(responses: &[String]) -> Option<String> {
    let count = |text: &String| responses.iter().filter(|other| *other == text).count();
    let most = responses.iter().map(count).max()?;
    responses.iter().find(|text| count(text) == most).cloned()
}

impl Extract {
    /// The selected match; nothing where there is none.
    fn find(&self, text: &str) -> Result<Option<String>, String> {
        Ok(self.select(self.pattern.find_all(text)?).map(|found| match found {
            Found::One(text) => strip(&text).to_owned(),
            Found::Several(groups) => match groups.into_iter().find(|group| !group.is_empty()) {
                Some(group) => strip(&group).to_owned(),
                None => strip(&self.fallback).to_owned(),
            },
        }))
    }

    /// The same, the first of its groups that says something.
    fn taken(&self, text: &str) -> Result<Option<String>, String> {
        Ok(self.select(self.pattern.find_all(text)?).map(|found| strip(found.first()).to_owned()))
    }

    fn select(&self, mut found: Vec<Found>) -> Option<Found> {
        let place = if self.select < 0 { found.len() as i64 + self.select } else { self.select };
        let place = usize::try_from(place).ok().filter(|place| *place < found.len())?;
        Some(found.swap_remove(place))
    }
}

impl Ignore {
    fn apply(&self, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        for regex in &self.regexes {
            text = regex.without(&text)?;
        }
        if self.case {
            text = text.to_lowercase();
        }
        self.punctuation.as_ref().map_or(Ok(text.clone()), |punctuation| punctuation.without(&text))
    }
}

#[cfg(test)]
mod tests;
