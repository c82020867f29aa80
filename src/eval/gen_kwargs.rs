//! How answers are generated: what a task's `generation_kwargs` and `--gen-kwargs` say, in the rules of
//! lm-evaluation-harness 0.4.13 (`normalize_gen_kwargs`).

use serde_json::{Map, Value, json};

use super::defined::kept;
use super::request::{AnswerDraws, Request};
use super::settings::EvalSettings;
use super::tasks::{About, OutputType};
use crate::{Error, Result};

/// Names of the number of new tokens at most, the first of which counts.
const MOST: [&str; 4] = ["max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"];
/// All others.
const OTHERS: [&str; 6] = ["until", "do_sample", "temperature", "top_p", "top_k", "num_beams"];

/// Settings of generation, each once, in the order in which they were said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenKwargs(Map<String, Value>);

impl GenKwargs {
    /// Of `--gen-kwargs`: `temperature=0.8,do_sample=true`, or an object of JSON.
    ///
    /// # Errors
    /// Request: a name or value that is not known.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |fault: &str| Error::request(format!("--gen-kwargs {text}: {fault}"));
        let mut kwargs = Self::default();
        if text.trim_start().starts_with('{') {
            let entries: Map<String, Value> =
                serde_json::from_str(text).map_err(|error| refuse(&format!("no object of JSON: {error}")))?;
            for (name, value) in &entries {
                kwargs.set(name, value).map_err(|fault| refuse(&fault))?;
            }
        } else {
            for part in text.split(',').filter(|part| !part.trim().is_empty()) {
                let pair = part.split_once('=');
                let (name, value) = pair.ok_or_else(|| refuse("expected name=value, such as temperature=0.8"))?;
                kwargs.set(name.trim(), &word(value)).map_err(|fault| refuse(&fault))?;
            }
        }
        if kwargs.0.is_empty() {
            return Err(refuse("expected name=value, such as temperature=0.8"));
        }
        Ok(kwargs)
    }

    /// Of a definition in JSON, as results have it.
    pub(super) fn of_definition(definition: &str) -> Option<Self> {
        let definition: Value = serde_json::from_str(definition).ok()?;
        definition.get("generation_kwargs")?.as_object().map(|entries| Self(entries.clone()))
    }

    /// Sets one of them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{name} is {value}, expected {what}"));
        let number = value.as_f64();
        let count = || value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0);
        match name {
            "until" if texts(value).is_none() => return wrong("texts"),
            "do_sample" if !value.is_boolean() => return wrong("true or false"),
            "temperature" if !number.is_some_and(|number| number >= 0.0) => return wrong("a number, not below 0"),
            "top_p" if !number.is_some_and(|p| p > 0.0 && p <= 1.0) => {
                return wrong("a probability above 0, at most 1");
            }
            "top_k" if value.as_u64() != Some(0) && count().is_none() => return wrong("a whole number"),
            "num_beams" if *value != json!(1) => return wrong("1: there is no beam search here"),
            _ if MOST.contains(&name) && count().is_none() => return wrong("a number of tokens"),
            _ if !MOST.contains(&name) && !OTHERS.contains(&name) => {
                let known = MOST.into_iter().chain(OTHERS);
                return Err(format!("{name} is not known here; {}", super::defined::nearest(name, known)));
            }
            _ => {}
        }
        let value = if name == "temperature" { json!(number) } else { value.clone() };
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// These where they say something, else `under`.
    pub(super) fn over(&self, under: &Self) -> Self {
        let mut all = under.0.clone();
        all.extend(self.0.clone());
        Self(all)
    }

    /// As they were said.
    pub(super) fn written(&self) -> &Map<String, Value> {
        &self.0
    }

    /// Adds what is not there.
    pub(super) fn or(&mut self, name: &str, value: Value) {
        self.0.entry(name).or_insert(value);
    }

    /// Texts before the first of which an answer ends.
    pub(super) fn until(&self) -> Option<Vec<String>> {
        texts(self.0.get("until")?)
    }

    /// New tokens at most.
    pub(super) fn most(&self) -> Option<usize> {
        MOST.iter().find_map(|name| self.0.get(*name)).and_then(Value::as_u64).map(|number| number as usize)
    }

    /// How answers are drawn, `repeats` of each question; nothing where they are made of the likeliest tokens.
    ///
    /// # Errors
    /// AnswerDraws at a temperature of nothing.
    pub(super) fn draws(&self, repeats: usize) -> Result<Option<AnswerDraws>, String> {
        let number = |name: &str| self.0.get(name).and_then(Value::as_f64);
        let temperature = number("temperature").unwrap_or(0.0);
        match self.0.get("do_sample").and_then(Value::as_bool) {
            Some(false) => Ok(None),
            None if temperature == 0.0 => Ok(None),
            _ if temperature == 0.0 => {
                Err("do_sample is true, and temperature is 0, or not there: draws need one above 0".to_owned())
            }
            _ => {
                let top_k = self.0.get("top_k").and_then(Value::as_u64).filter(|k| *k > 0);
                Ok(Some(AnswerDraws::new(temperature, number("top_p"), top_k.map(|k| k as usize), repeats)))
            }
        }
    }
}

/// How answers to a task's documents are generated.
pub(super) struct Told {
    until: Option<&'static [&'static str]>,
    most: Option<usize>,
    draws: Option<AnswerDraws>,
}

impl Told {
    /// What `settings` say over the definition of `task`, if they say anything.
    pub(super) fn of(task: &About, settings: &EvalSettings) -> Result<Option<Self>> {
        let Some(kwargs) = settings.kwargs()?.filter(|_| task.output == OutputType::Generate) else { return Ok(None) };
        let is_asked = kwargs.draws(task.repeats).is_ok_and(|draws| draws.is_some());
        let kwargs = GenKwargs::of_definition(task.definition).map_or(kwargs.clone(), |own| kwargs.over(&own));
        let refuse = |fault: String| Error::request(format!("--gen-kwargs: {}: {fault}", task.name));
        let draws = kwargs.draws(task.repeats).map_err(&refuse)?;
        if is_asked && draws.is_none() {
            let what = format!("{} says do_sample false: draws need do_sample=true beside the temperature", task.name);
            return Err(Error::request(format!("--gen-kwargs: {what}")));
        }
        let texts = |texts: Vec<String>| &*texts.iter().map(|text| kept(text)).collect::<Vec<_>>().leak();
        let most = kwargs.most().map(|most| task.longest_answer.map_or(most, |longest| most.min(longest)));
        Ok(Some(Self { until: kwargs.until().map(texts), most, draws }))
    }

    /// Makes a request as the user wants it.
    pub(super) fn put(told: Option<&Self>, request: &mut Request, seed: u64) {
        let Request::GenerateUntil { until, max_gen_toks, draws, .. } = request else { return };
        if let Some(told) = told {
            (*until, *max_gen_toks) = (told.until.unwrap_or(until), told.most.or(*max_gen_toks));
            *draws = told.draws;
        }
        if let Some(draws) = draws {
            draws.seed = seed;
        }
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A word of the command line, as the harness reads it.
fn word(text: &str) -> Value {
    let text = text.trim();
    let quoted = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    match (quoted, text.to_lowercase().as_str()) {
        (Some(inner), _) => json!(inner),
        (_, "true") => json!(true),
        (_, "false") => json!(false),
        (_, "none") => Value::Null,
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(number), _) => json!(number),
            (_, Ok(number)) if number.is_finite() => json!(number),
            _ => json!(text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_asked_for_as_in_the_harness() {
        let draws = |text: &str| GenKwargs::parse(text).unwrap().draws(3);
        let drawn = AnswerDraws::new(0.8, None, None, 3);
        assert_eq!(draws("temperature=0.8"), Ok(Some(drawn)));
        assert_eq!(draws("temperature=0.8,do_sample=True,top_k=0"), Ok(Some(drawn)));
        assert_eq!(draws("temperature=0.8,do_sample=false,top_p=0.5"), Ok(None));
        assert_eq!(draws("max_gen_toks=9"), Ok(None));
        assert!(draws("do_sample=true").unwrap_err().contains("above 0"));
        let drawn = draws("{\"temperature\": 1, \"top_p\": 0.95, \"top_k\": 40}").unwrap().unwrap();
        let params = drawn.params(7);
        assert_eq!((params.temperature, params.top_p, params.top_k, params.seed), (Some(1.0), Some(0.95), Some(40), 7));
    }

    #[test]
    fn later_settings_stand_over_earlier_ones() {
        let own = r#"{"generation_kwargs": {"until": ["a"], "max_gen_toks": 5, "do_sample": false}}"#;
        let own = GenKwargs::of_definition(own).unwrap();
        let kwargs = GenKwargs::parse("max_tokens=7,until='b'").unwrap().over(&own);
        assert_eq!((kwargs.until(), kwargs.most()), (Some(vec!["b".to_owned()]), Some(5)), "the first name counts");
        let kwargs = GenKwargs::parse("{\"max_gen_toks\": 9, \"until\": [\"c\", \"d\"]}").unwrap().over(&own);
        assert_eq!((kwargs.until().unwrap().len(), kwargs.most()), (2, Some(9)));
        assert_eq!(GenKwargs::of_definition("{}"), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "name=value"),
            ("temperature", "name=value"),
            ("temprature=1", "did you mean temperature"),
            ("temperature=-1", "not below 0"),
            ("temperature=warm", "a number"),
            ("top_p=1.5", "a probability"),
            ("top_k=x", "a whole number"),
            ("do_sample=maybe", "true or false"),
            ("max_gen_toks=0", "a number of tokens"),
            ("num_beams=4", "no beam search"),
            ("{\"until\": [1]}", "texts"),
            ("{until", "JSON"),
        ] {
            let error = GenKwargs::parse(text).unwrap_err();
            assert!(error.to_string().contains(part) && error.to_string().contains("--gen-kwargs"), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
