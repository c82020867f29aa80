//! A task of a file: prompts, requests and scores as lm-evaluation-harness 0.4.13 has them (`api/task.py`).

use serde_json::Value;

use super::filters::Pipeline;
use super::form::{Form, python_text};
use super::metrics::Exact;
use crate::eval::fields::Fields;
use crate::eval::metrics::{Takes, TaskMetric, TextSums};
use crate::eval::outcome::{Measure, first_greatest};
use crate::eval::python::words;
use crate::eval::request::{Answer, AnswerDraws, Prompt, Request};
use crate::eval::shots::{Example, Shots};
use crate::eval::tasks::{About, Filter, OutputType, Task};
use crate::{Error, Result};

/// How a document becomes a question and its answer.
#[derive(Debug)]
pub(super) struct Asks {
    pub(super) text: Form,
    pub(super) target: Form,
    pub(super) choice: Option<Form>,
    pub(super) prefix: Option<Form>,
}

/// A task that a file defines.
#[derive(Debug)]
pub(super) struct FileTask {
    pub(super) about: About,
    pub(super) asks: Asks,
    /// What examples are asked otherwise.
    pub(super) solved: Option<Asks>,
    pub(super) description: Option<Form>,
    pub(super) until: &'static [&'static str],
    pub(super) max_gen_toks: Option<usize>,
    pub(super) draws: Option<AnswerDraws>,
    pub(super) pipelines: Vec<Pipeline>,
    pub(super) exact: Exact,
}

impl Asks {
    fn choices(&self, document: &Fields) -> Result<Option<Vec<String>>> {
        self.choice.as_ref().map(|choice| choice.choices(document)).transpose()
    }

    fn target(&self, document: &Fields) -> Result<Value> {
        self.target.target(document, self.choice.is_some())
    }

    fn text(&self, document: &Fields) -> Result<Value> {
        self.text.question(document, self.choice.is_some())
    }

    /// A document with its right answer: a choice by its number, the first of several answers.
    fn solved(&self, document: &Fields) -> Result<Example> {
        let choices = self.choices(document)?;
        let (text, target) = (self.text(document)?, self.target(document)?);
        let number = |value: &Value| {
            let number = value.as_u64().or_else(|| value.as_bool().map(u64::from));
            number.map(|number| number as usize)
        };
        let pick = |number: usize| {
            let known = choices.as_ref().and_then(|choices| choices.get(number).cloned());
            known.ok_or_else(|| no_choice(number as i64, choices.as_ref().map_or(0, Vec::len)))
        };
        let (question, whole) = match &text {
            Value::String(text) => (text.clone(), false),
            other => (pick(number(other).unwrap_or(usize::MAX))?, true),
        };
        let answer = match &target {
            Value::String(text) => text.clone(),
            Value::Array(several) => match several.first() {
                Some(Value::String(text)) => text.clone(),
                other => return Err(no_answer(other.unwrap_or(&Value::Null))),
            },
            other if !whole && choices.is_some() && number(other).is_some() => pick(number(other).unwrap_or_default())?,
            other => return Err(no_answer(other)),
        };
        Ok(Example::new(question, answer))
    }
}

fn no_answer(value: &Value) -> Error {
    Error::work(format!("doc_to_target gives {value}, expected a text"))
}

fn no_choice(number: i64, choices: usize) -> Error {
    Error::work(format!("the right answer is number {number} of {choices} choices (has this split no labels?)"))
}

impl FileTask {
    /// The right choices' numbers.
    fn gold_of(&self, document: &Fields, choices: &[String]) -> Result<Vec<usize>> {
        let text = self.asks.text(document)?;
        let value = if text.is_number() { text } else { self.asks.target(document)? };
        let one = |value: &Value| match value {
            Value::Number(number) => {
                let number = number.as_i64().unwrap_or(-1);
                let place = usize::try_from(number).ok().filter(|place| *place < choices.len());
                place.ok_or_else(|| no_choice(number, choices.len()))
            }
            Value::String(text) => choices.iter().position(|choice| choice == text).ok_or_else(|| {
                Error::work(format!("the right answer is {text:?}, the choices are {}", choices.join(", ")))
            }),
            Value::Bool(flag) => Ok(usize::from(*flag)),
            other => Err(Error::work(format!("the right answer is {other}, expected the number or text of a choice"))),
        };
        match &value {
            Value::Array(several) if !several.is_empty() => several.iter().map(one).collect(),
            other => Ok(vec![one(other)?]),
        }
    }

    /// The right answers of a generated one.
    fn right(&self, document: &Fields) -> Result<Vec<String>> {
        let target = self.asks.target(document)?;
        if let Some(choices) = self.asks.choices(document)? {
            let number = target.as_i64().unwrap_or(-1);
            let choice = usize::try_from(number).ok().and_then(|place| choices.get(place));
            return Ok(vec![choice.cloned().ok_or_else(|| no_choice(number, choices.len()))?]);
        }
        Ok(match &target {
            Value::Array(several) => several.iter().map(python_text).collect(),
            other => vec![python_text(other)],
        })
    }

    fn choice_measures(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let choices = self.asks.choices(document)?.unwrap_or_default();
        let gold = self.gold_of(document, &choices)?;
        let likelihoods: Vec<f64> = answers.iter().filter_map(Answer::log_likelihood).collect();
        let best = |length: &dyn Fn(&String) -> usize| {
            let scores =
                likelihoods.iter().zip(&choices).map(|(likelihood, choice)| likelihood / length(choice) as f64);
            first_greatest(&scores.collect::<Vec<_>>())
        };
        let likeliest = first_greatest(&likelihoods);
        let right = |chosen: Option<usize>| chosen.is_some_and(|chosen| gold.contains(&chosen));
        let says = |place: &usize| matches!(answers.get(*place), Some(Answer::LogLikelihood { greedy: true, .. }));
        let measure = |metric: &TaskMetric| match (metric.name, metric.takes) {
            (_, Takes::Class) => Measure { sum: gold[0] as f64, weight: likeliest.unwrap_or(0) as f64, chosen: None },
            ("acc_norm", _) => {
                let chosen = best(&|choice| choice.chars().count());
                Measure { chosen, ..Measure::right(right(chosen)) }
            }
            ("acc_bytes", _) => Measure::right(right(best(&String::len))),
            ("exact_match", _) => Measure::right(gold.iter().any(says)),
            _ => Measure { chosen: likeliest, ..Measure::right(right(likeliest)) },
        };
        Ok(self.about.metrics.iter().map(measure).collect())
    }
}

impl Task for FileTask {
    fn about(&self) -> &About {
        &self.about
    }

    fn description(&self, _subject: &str) -> String {
        self.description.as_ref().map(Form::source).unwrap_or_default()
    }

    fn described(&self, document: &Fields, _subject: &str) -> Result<String> {
        self.description.as_ref().map_or(Ok(String::new()), |description| description.text(document))
    }

    fn prefix(&self, document: &Fields) -> Result<String> {
        self.asks.prefix.as_ref().map_or(Ok(String::new()), |prefix| prefix.text(document))
    }

    fn target(&self, document: &Fields) -> Result<String> {
        Ok(python_text(&self.asks.target(document)?))
    }

    fn example(&self, document: &Fields) -> Result<Example> {
        let asks = self.solved.as_ref().unwrap_or(&self.asks);
        let prefix = asks.prefix.as_ref().map(|prefix| prefix.text(document)).transpose()?;
        Ok(Example { prefix, ..asks.solved(document)? })
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
        let text = self.asks.text(document)?;
        if let (OutputType::MultipleChoice, Some(choices)) = (self.about.output, self.asks.choices(document)?) {
            let gold = self.gold_of(document, &choices)?;
            let classes = self.about.metrics.iter().find(|metric| matches!(metric.takes, Takes::Class));
            if let Some(metric) = classes.filter(|metric| gold.len() > 1 || metric.name == "f1" && choices.len() > 2) {
                return Err(Error::work(format!("{} is for questions with one right choice of two", metric.name)));
            }
            let request = |context: Prompt, answer: &str| Request::LogLikelihood {
                context,
                continuation: format!("{}{answer}", shots.delimiter()),
            };
            let Value::String(text) = text else {
                let ending = self.target(document)?;
                return choices.iter().map(|choice| Ok(request(shots.before_whole(choice)?, &ending))).collect();
            };
            let context = shots.before(&text)?;
            return Ok(choices.iter().map(|choice| request(context.clone(), choice)).collect());
        }
        let Value::String(text) = text else {
            return Err(Error::work(format!("doc_to_text gives {text}, expected a text")));
        };
        let own = || match self.asks.target(document)? {
            Value::String(text) => Ok(text),
            other => Err(no_answer(&other)),
        };
        Ok(vec![match self.about.output {
            OutputType::Rolling => Request::LogLikelihoodRolling { text: own()? },
            OutputType::Generate => {
                // what cannot be judged is told before the work
                self.right(document)?;
                let (until, max_gen_toks, draws) = (self.until, self.max_gen_toks, self.draws);
                Request::GenerateUntil { context: shots.before(&text)?, until, max_gen_toks, draws }
            }
            _ => Request::LogLikelihood { context: shots.before(&text)?, continuation: own()? },
        }])
    }

    fn gold(&self, document: &Fields) -> Result<Option<usize>> {
        if self.about.output != OutputType::MultipleChoice {
            return Ok(None);
        }
        let gold = self.gold_of(document, &self.asks.choices(document)?.unwrap_or_default())?;
        Ok(if let [one] = gold[..] { Some(one) } else { None })
    }

    fn filtered(&self, filter: &Filter, document: &Fields, answers: &[Answer]) -> Result<Vec<Answer>> {
        let Some(pipeline) = self.pipelines.iter().find(|pipeline| pipeline.name == filter.name) else {
            return Ok(answers.to_vec());
        };
        let said = |answer: &Answer| if let Answer::Text(said) = answer { Some(said.text.clone()) } else { None };
        let Some(said) = answers.iter().map(said).collect::<Option<Vec<String>>>() else { return Ok(answers.to_vec()) };
        // the likeliest answer is the same each time
        let responses = if let [one] = said.as_slice() { vec![one.clone(); self.about.repeats] } else { said };
        Ok(pipeline.apply(document, responses)?.into_iter().map(Answer::text).collect())
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let metrics = self.about.metrics.iter();
        match (self.about.output, answers) {
            (OutputType::MultipleChoice, _) => self.choice_measures(document, answers),
            (OutputType::Generate, [Answer::Text(said)]) => {
                let mut is_right = false;
                for right in self.right(document)? {
                    is_right |= self.exact.is_match(&said.text, &right)?;
                }
                Ok(metrics.map(|_| Measure::right(is_right)).collect())
            }
            (OutputType::Rolling, [Answer::Rolling { log_likelihood, own, tokens }]) => {
                let text = self.target(document)?;
                let (log_likelihood, own, tokens) = (*log_likelihood, *own, *tokens);
                let sums = TextSums { log_likelihood, own, tokens, words: words(&text), bytes: text.len() };
                let measure = |metric: &TaskMetric| {
                    let Takes::Text(parts) = metric.takes else { return Err(self.about.misplaced(metric)) };
                    let (sum, weight) = parts(&sums);
                    Ok(Measure { sum, weight, chosen: None })
                };
                metrics.map(measure).collect()
            }
            (OutputType::LogLikelihood, [Answer::LogLikelihood { log_likelihood, greedy }]) => {
                let measure = |metric: &TaskMetric| {
                    let Takes::Continuation(sum) = metric.takes else { return Err(self.about.misplaced(metric)) };
                    Ok(Measure { sum: sum(f64::from(*log_likelihood), *greedy), weight: 1.0, chosen: None })
                };
                metrics.map(measure).collect()
            }
            _ => Err(Error::work(format!("{}: no answer of its kind", self.about.name))),
        }
    }
}
