//! The same questions in other ways: the likeliest choice, one token that names it, a chain of thought that ends in it.
//!
//! A damaged model may still rank the choices well and not be able to write the one that it ranks first. What a task
//! with choices asks is put into words here, so that all three are known of the same questions.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::metrics::TaskMetric;
use super::outcome::Measure;
use super::request::{Answer, Completion, Request};
use super::select::{Aggregate, Group, Leaf, Selection};
use super::shots::{Example, Shots};
use super::tasks::{About, Filter, OutputType, Task};
use crate::{Error, Result};

/// How a question with choices is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerWay {
    /// The likeliest of the choices is taken, as the task says.
    Ranked,
    /// The model says a token, which is to name the right choice.
    Token,
    /// The model thinks aloud, and then names a choice.
    Chain,
}

impl fmt::Display for AnswerWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ranked => "ranked",
            Self::Token => "token",
            Self::Chain => "chain",
        })
    }
}

impl FromStr for AnswerWay {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = [Self::Ranked, Self::Token, Self::Chain];
        all.into_iter().find(|way| way.to_string() == text).ok_or_else(|| {
            Error::request(format!("--ways: {text:?} is none of {}", all.map(|way| way.to_string()).join(", ")))
        })
    }
}

impl Selection {
    /// The same tasks, those with choices in each of `ways`: `boolq`, `boolq_token`, `boolq_chain`. All others stay.
    ///
    /// # Errors
    /// Request: no task has choices.
    pub(super) fn in_ways(self, ways: &[AnswerWay]) -> Result<Self> {
        if ways.is_empty() || ways == [AnswerWay::Ranked] {
            return Ok(self);
        }
        let has_choices = |leaf: &Leaf| leaf.task.about().output == OutputType::MultipleChoice;
        if !self.leaves.iter().any(has_choices) {
            return Err(Error::request("--ways: none of the tasks has choices"));
        }
        let mut new = Self { repeated: self.repeated, replaced: self.replaced, ..Self::default() };
        // where each leaf is in each way
        let mut places = Vec::new();
        for leaf in &self.leaves {
            let place = |way: &AnswerWay| match (has_choices(leaf), way) {
                (true, way) => Some(new.leaf(asked(leaf, *way))),
                (false, AnswerWay::Ranked) => Some(new.leaf(leaf.clone())),
                (false, _) => None,
            };
            let own: Vec<Option<usize>> = ways.iter().map(place).collect();
            if own.iter().all(Option::is_none) {
                new.leaf(leaf.clone());
            }
            places.push(own);
        }
        for (index, way) in ways.iter().enumerate() {
            for group in &self.groups {
                let leaves: Option<Vec<usize>> = group.leaves.iter().map(|leaf| places[*leaf][index]).collect();
                if let Some(leaves) = leaves {
                    new.group(grouped(group, *way, leaves));
                }
            }
        }
        Ok(new)
    }
}

/// `boolq` in a way.
fn asked(leaf: &Leaf, way: AnswerWay) -> Leaf {
    if way == AnswerWay::Ranked {
        return leaf.clone();
    }
    let task: &'static InWords = Box::leak(Box::new(InWords::new(leaf.task, way)));
    Leaf { name: named(&leaf.name, way), task, ..leaf.clone() }
}

fn named(name: &str, way: AnswerWay) -> String {
    if way == AnswerWay::Ranked { name.to_owned() } else { format!("{name}_{way}") }
}

/// A group of tasks that are asked in a way.
fn grouped(group: &Group, way: AnswerWay, leaves: Vec<usize>) -> Group {
    let group = Group { leaves, ..group.clone() };
    if way == AnswerWay::Ranked {
        return group;
    }
    let exact = Aggregate { metric: TaskMetric::EXACT_MATCH.name.to_owned(), filters: None, weight_by_size: true };
    let is_averaged = !group.aggregates.is_empty();
    Group {
        name: named(&group.name, way),
        alias: named(&group.alias, way),
        children: group.children.iter().map(|child| named(child, way)).collect(),
        aggregates: is_averaged.then_some(exact).into_iter().collect(),
        ..group
    }
}

/// What is taken of an answer of one token: its word.
const WORD: &[Filter] = &[Filter { name: "none", extract: first_word, takes_all: false }];
/// What is taken of a chain: what it says is the answer; or else the last choice that it names.
const CONCLUSION: &[Filter] = &[
    Filter { name: "strict-match", extract: concluded, takes_all: false },
    Filter { name: "flexible-extract", extract: last_named, takes_all: false },
];
/// What the reference has for an answer in which nothing is found.
const INVALID: &str = "[invalid]";

fn first_word(said: &str) -> String {
    let said = said.trim_start_matches(|c: char| !c.is_alphanumeric());
    said.chars().take_while(|c| c.is_alphanumeric()).collect()
}

fn concluded(said: &str) -> String {
    static ANSWER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?i:answer is)[:\s]*[(\*\x22']*([A-Za-z]+)").ok());
    last(ANSWER.as_ref(), said)
}

fn last_named(said: &str) -> String {
    static NAMED: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\b([A-Z]|(?i:yes|no|true|false|neither))\b").ok());
    last(NAMED.as_ref(), said)
}

fn last(pattern: Option<&Regex>, said: &str) -> String {
    let found = pattern.and_then(|pattern| pattern.captures_iter(said).last());
    found.map_or_else(|| INVALID.to_owned(), |found| found[1].to_owned())
}

/// Words that are answers and labels at once.
const LABELS: [&str; 5] = ["yes", "no", "true", "false", "neither"];

/// A question in words.
struct InFull {
    /// All up to where the answer begins, without the word that says so.
    text: String,
    /// What names the choices: letters, or the choices themselves where they are such.
    labels: Vec<String>,
    gold: usize,
}

/// A task with choices, answered in the model's own words.
#[derive(Debug)]
struct InWords {
    inner: &'static dyn Task,
    about: About,
    way: AnswerWay,
}

impl InWords {
    fn new(inner: &'static dyn Task, way: AnswerWay) -> Self {
        let about = About {
            output: OutputType::Generate,
            metrics: &[TaskMetric::EXACT_MATCH],
            filters: if way == AnswerWay::Token { WORD } else { CONCLUSION },
            // examples show answers, not how one comes to them
            is_zero_shot: way == AnswerWay::Chain || inner.about().is_zero_shot,
            gen_prefix: "",
            repeats: 1,
            longest_answer: (way == AnswerWay::Token).then_some(1),
            version: 1.0,
            definition: "{}",
            ..*inner.about()
        };
        Self { inner, about, way }
    }

    fn in_full(&self, document: &Fields) -> Result<InFull> {
        let about = self.inner.about();
        let shots = Shots::text(about, "");
        let (mut contexts, mut choices) = (Vec::new(), Vec::new());
        for request in self.inner.requests(document, &shots)? {
            let Request::LogLikelihood { context, continuation } = request else {
                return Err(self.refused("asks for something else than the likeliest choice"));
            };
            contexts.push(context.own);
            choices.push(continuation.strip_prefix(shots.delimiter()).unwrap_or(&continuation).to_owned());
        }
        let Some(context) = contexts.first().filter(|first| contexts.iter().all(|context| context == *first)) else {
            return Err(self.refused("puts its choices into the question"));
        };
        let Some(gold) = self.inner.gold(document)?.filter(|gold| *gold < choices.len()) else {
            return Err(self.refused("has questions with several right choices"));
        };
        if choices.len() > 26 {
            return Err(self.refused("has questions with more choices than letters"));
        }
        let question = context.trim_end();
        let question = question.strip_suffix("Answer:").unwrap_or(question).trim_end();
        if choices.iter().all(|choice| is_label(choice.trim())) {
            let labels = choices.iter().map(|choice| choice.trim().to_owned()).collect();
            return Ok(InFull { text: question.to_owned(), labels, gold });
        }
        let labels: Vec<String> = ('A'..='Z').take(choices.len()).map(String::from).collect();
        let lines = labels.iter().zip(&choices).map(|(label, choice)| format!("\n{label}. {}", choice.trim()));
        Ok(InFull { text: format!("{question}{}", lines.collect::<String>()), labels, gold })
    }

    fn refused(&self, why: &str) -> Error {
        Error::request(format!("--ways {}: {} {why}; leave it out", self.way, self.inner.about().name))
    }

    /// The question as the model reads it.
    fn question(&self, full: &InFull) -> String {
        match self.way {
            AnswerWay::Chain => format!(
                "{}\nThink step by step. End with \"The answer is X.\", where X is one of {}.\n",
                full.text,
                full.labels.join(", ")
            ),
            AnswerWay::Token | AnswerWay::Ranked => format!("{}\nAnswer:", full.text),
        }
    }
}

fn is_label(choice: &str) -> bool {
    let is_letter = choice.len() == 1 && choice.bytes().all(|byte| byte.is_ascii_uppercase());
    is_letter || LABELS.iter().any(|label| choice.eq_ignore_ascii_case(label))
}

/// Whether what was said names a choice: letters as they are, words in any case.
fn names(said: &str, label: &str) -> bool {
    said == label || (label.len() > 1 && said.eq_ignore_ascii_case(label))
}

impl Task for InWords {
    fn about(&self) -> &About {
        &self.about
    }

    fn prepare(&self, row: Fields) -> Result<Fields> {
        self.inner.prepare(row)
    }

    fn description(&self, subject: &str) -> String {
        self.inner.description(subject)
    }

    fn described(&self, document: &Fields, subject: &str) -> Result<String> {
        self.inner.described(document, subject)
    }

    fn target(&self, document: &Fields) -> Result<String> {
        let full = self.in_full(document)?;
        Ok(full.labels[full.gold].clone())
    }

    fn example(&self, document: &Fields) -> Result<Example> {
        let full = self.in_full(document)?;
        Ok(Example::new(self.question(&full), full.labels[full.gold].as_str()))
    }

    fn requests(&self, document: &Fields, shots: &Shots<'_>) -> Result<Vec<Request>> {
        let context = shots.before(&self.question(&self.in_full(document)?))?;
        let max_gen_toks = self.about.longest_answer;
        Ok(vec![Request::GenerateUntil { context, until: &[], max_gen_toks, draws: None }])
    }

    fn judge(&self, document: &Fields, answers: &[Answer]) -> Result<Vec<Measure>> {
        let Some(Answer::Text(Completion { text, .. })) = answers.first() else {
            return Err(Error::work(format!("{}: nothing was said", self.about.name)));
        };
        let full = self.in_full(document)?;
        let chosen = full.labels.iter().position(|label| names(text, label));
        Ok(vec![Measure { chosen, ..Measure::right(chosen == Some(full.gold)) }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::select::select;

    fn task(name: &str, way: AnswerWay) -> &'static dyn Task {
        let selection = select(&[name.to_owned()], &[]).unwrap().in_ways(&[way]).unwrap();
        selection.leaves[0].task
    }

    fn row(text: &str) -> Fields {
        serde_json::from_str(text).unwrap()
    }

    /// What is asked, the right answer, and which of `said` are right by each filter.
    fn asked(name: &str, way: AnswerWay, document: &str, said: &[&str]) -> (String, String, Vec<Vec<bool>>) {
        let task = task(name, way);
        let document = task.prepare(row(document)).unwrap();
        let shots = Shots::text(task.about(), "");
        let requests = task.requests(&document, &shots).unwrap();
        let [Request::GenerateUntil { context, .. }] = &requests[..] else { panic!("{requests:?}") };
        let judged = |said: &&str| {
            let judge = |filter: &Filter| {
                let taken = filter.apply(&Answer::text((*said).to_owned()));
                task.judge(&document, &[taken]).unwrap()[0].sum == 1.0
            };
            task.about().filters.iter().map(judge).collect()
        };
        (context.text(), task.target(&document).unwrap(), said.iter().map(judged).collect())
    }

    const BOOLQ: &str = r#"{"question": "is it", "passage": "P.", "label": 1}"#;
    const MMLU: &str = r#"{"question": "q", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}"#;
    const PIQA: &str = r#"{"goal": "boil", "sol1": "ice", "sol2": "fire", "label": 1}"#;

    #[test]
    fn a_token_names_the_choice() {
        let (text, target, right) = asked("boolq", AnswerWay::Token, BOOLQ, &[" yes", "Yes", "no", "", " the"]);
        assert_eq!((text.as_str(), target.as_str()), ("P.\nQuestion: is it?\nAnswer:", "yes"));
        assert_eq!(right.concat(), [true, true, false, false, false]);
        let (text, target, right) = asked("mmlu_anatomy", AnswerWay::Token, MMLU, &[" C", "c", "(C", " Cat", "D"]);
        assert_eq!((text.as_str(), target.as_str()), ("q\nA. a\nB. b\nC. c\nD. d\nAnswer:", "C"));
        assert_eq!(right.concat(), [true, false, true, false, false]);
        let (text, target, _) = asked("piqa", AnswerWay::Token, PIQA, &[]);
        assert_eq!((text.as_str(), target.as_str()), ("Question: boil\nA. ice\nB. fire\nAnswer:", "B"));
    }

    #[test]
    fn a_chain_ends_in_the_choice() {
        let said = [
            "Ice is cold. The answer is B.",
            "The answer is A. No, the answer is: (B)",
            "So it is B",
            "B, or rather A.",
            "I do not know.",
        ];
        let (text, _, right) = asked("piqa", AnswerWay::Chain, PIQA, &said);
        assert_eq!(
            text,
            "Question: boil\nA. ice\nB. fire\nThink step by step. End with \"The answer is X.\", where X is one of A, \
             B.\n"
        );
        // by what it says is the answer, and by the last that is named
        let expected = [[true, true], [true, true], [false, true], [false, false], [false, false]];
        assert_eq!(right, expected.map(Vec::from));
        assert_eq!(last_named("I said nothing"), "I", "a letter is a letter");
    }

    #[test]
    fn tasks_and_groups_in_all_ways() {
        let names = ["mmlu_stem".to_owned(), "c4".to_owned()];
        let selection =
            select(&names, &[]).unwrap().in_ways(&[AnswerWay::Ranked, AnswerWay::Token, AnswerWay::Chain]).unwrap();
        assert_eq!(selection.leaves.len(), 3 * 19 + 1);
        let first: Vec<&str> = selection.leaves.iter().take(3).map(|leaf| leaf.name.as_str()).collect();
        assert_eq!(first[1..], [format!("{}_token", first[0]), format!("{}_chain", first[0])]);
        let groups: Vec<&str> = selection.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(groups, ["mmlu_stem", "mmlu_stem_token", "mmlu_stem_chain"]);
        for group in &selection.groups {
            let leaves: Vec<&str> = group.leaves.iter().map(|leaf| selection.leaves[*leaf].name.as_str()).collect();
            assert_eq!(group.children, leaves);
        }
        let only = select(&names, &[]).unwrap().in_ways(&[AnswerWay::Token]).unwrap();
        assert_eq!((only.leaves.len(), only.leaves.last().unwrap().name.as_str()), (20, "c4"));
        let error = select(&["c4".to_owned()], &[]).unwrap().in_ways(&[AnswerWay::Token]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn what_is_no_question_is_refused() {
        let document = r#"{"sentence": "The _ is wet.", "option1": "a", "option2": "b", "answer": "1"}"#;
        let error = task("winogrande", AnswerWay::Token).target(&row(document)).unwrap_err();
        assert!(error.to_string().contains("--ways token: winogrande puts its choices into the question"), "{error}");
        assert_eq!("ranks".parse::<AnswerWay>().unwrap_err().exit_code(), 2);
    }
}
