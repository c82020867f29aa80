//! The checks of IFEval's instructions (lm-evaluation-harness 0.4.13, `tasks/ifeval/instructions.py`).

use serde_json::Value;

use super::given;
use crate::eval::fields::Fields;
use crate::eval::python::{Pattern, strip};
use crate::{Error, Result};

/// An instruction and what it is to be checked with.
#[derive(Debug)]
pub(super) enum Instruction {
    Keywords(Vec<Pattern>),
    Frequency(Pattern, Relation),
    Forbidden(Vec<Pattern>),
    Letter(char, Relation),
    Paragraphs(u64),
    Words(Pattern, Relation),
    FirstWord { paragraphs: u64, nth: u64, word: String },
    Placeholders(Pattern, u64),
    Postscript(Pattern),
    Bullets([Pattern; 2], u64),
    Constrained,
    Highlights([Pattern; 2], u64),
    Sections(Pattern, u64),
    Json,
    Title(Pattern),
    TwoResponses,
    RepeatsPrompt(String),
    Ends(String),
    NoComma,
    Quoted,
}

/// `less than` or `at least` so many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Relation {
    less: bool,
    than: f64,
}

impl Relation {
    fn holds(self, count: usize) -> bool {
        if self.less { (count as f64) < self.than } else { count as f64 >= self.than }
    }
}

/// What is checked with tools outside of a program's own.
const APART: [&str; 5] = [
    "language:response_language",
    "length_constraints:number_sentences",
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
];

/// Answers of which `constrained_response` wants one.
const OPTIONS: [&str; 3] = ["My answer is yes.", "My answer is no.", "My answer is maybe."];

impl Instruction {
    /// The instruction called `name`; nothing for one that is kept apart: a kind that needs other tools, or settings
    /// that the harness draws.
    ///
    /// # Errors
    /// Work: a kind or a relation that is not known, an expression that is none.
    pub(super) fn new(name: &str, settings: &Fields) -> Result<Option<Self>> {
        if APART.contains(&name) {
            return Ok(None);
        }
        let text = |name: &str| given(settings, name).and_then(Value::as_str).map(str::to_owned);
        let stripped = |name: &str| text(name).map(|text| strip(&text).to_owned());
        let count = |name: &str| given(settings, name).and_then(Value::as_f64).filter(|count| *count >= 0.0);
        let whole = |name: &str| count(name).map(|count| count as u64);
        let list = |name: &str| -> Option<Vec<String>> {
            given(settings, name)?.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let relation = |relation: &str, than: &str| -> Result<Option<Relation>> {
            let less = match text(relation).as_deref() {
                Some("less than") => true,
                Some("at least") => false,
                None => return Ok(None),
                Some(other) => return Err(Error::work(format!("{name}: the relation {other:?} is not known"))),
            };
            Ok(count(than).map(|than| Relation { less, than }))
        };
        let pattern = |source: &str| {
            Pattern::new(source).map_err(|fault| Error::work(format!("{name}: {source:?} is no expression: {fault}")))
        };
        let any_case = |word: &String| pattern(&format!("(?i){word}"));
        let whole_word = |word: &String| pattern(&format!(r"(?i)\b{word}\b"));
        let of_count = |name: &str, source: &str| Ok::<_, Error>(whole(name).map(|count| (pattern(source), count)));
        Ok(match name {
            "keywords:existence" => {
                let words = list("keywords").map(|words| words.iter().map(any_case).collect::<Result<_>>());
                words.transpose()?.map(Self::Keywords)
            }
            "keywords:frequency" => match (stripped("keyword"), relation("relation", "frequency")?) {
                (Some(word), Some(relation)) => Some(Self::Frequency(any_case(&word)?, relation)),
                _ => None,
            },
            "keywords:forbidden_words" => {
                let words = list("forbidden_words").map(|words| words.iter().map(whole_word).collect::<Result<_>>());
                words.transpose()?.map(Self::Forbidden)
            }
            "keywords:letter_frequency" => {
                let letter = text("letter").filter(|letter| letter.len() == 1).and_then(|letter| letter.chars().next());
                let letter = letter.map(|letter| letter.to_ascii_lowercase()).filter(char::is_ascii_lowercase);
                letter.zip(relation("let_relation", "let_frequency")?).map(|(letter, it)| Self::Letter(letter, it))
            }
            "length_constraints:number_paragraphs" => whole("num_paragraphs").map(Self::Paragraphs),
            "length_constraints:number_words" => {
                let relation = relation("relation", "num_words")?;
                let words = Pattern::native(r"[\p{L}\p{N}_]+").map_err(Error::work)?;
                relation.map(|relation| Self::Words(words, relation))
            }
            "length_constraints:nth_paragraph_first_word" => {
                let numbers = whole("num_paragraphs").zip(whole("nth_paragraph"));
                let numbers = numbers.filter(|(paragraphs, nth)| (1..=*paragraphs).contains(nth));
                numbers.zip(text("first_word")).map(|((paragraphs, nth), word)| Self::FirstWord {
                    paragraphs,
                    nth,
                    word: word.to_lowercase(),
                })
            }
            "detectable_content:number_placeholders" => match of_count("num_placeholders", r"\[.*?\]")? {
                Some((pattern, count)) => Some(Self::Placeholders(pattern?, count)),
                None => None,
            },
            "detectable_content:postscript" => match stripped("postscript_marker").as_deref() {
                Some("P.P.S") => Some(Self::Postscript(pattern(r"p\.\s?p\.\s?s")?)),
                Some("P.S.") => Some(Self::Postscript(pattern(r"p\.\s?s\.")?)),
                Some(marker) => Some(Self::Postscript(pattern(&marker.to_lowercase())?)),
                None => None,
            },
            "detectable_format:number_bullet_lists" => {
                let lists = [pattern(r"(?m)^\s*\*[^\*].*$")?, pattern(r"(?m)^\s*-.*$")?];
                whole("num_bullets").map(|count| Self::Bullets(lists, count))
            }
            "detectable_format:constrained_response" => Some(Self::Constrained),
            "detectable_format:number_highlighted_sections" => {
                let marks = [pattern(r"\*[^\n\*]*\*")?, pattern(r"\*\*[^\n\*]*\*\*")?];
                whole("num_highlights").map(|count| Self::Highlights(marks, count))
            }
            "detectable_format:multiple_sections" => match (stripped("section_spliter"), whole("num_sections")) {
                (Some(word), Some(count)) => Some(Self::Sections(pattern(&format!(r"\s?{word}\s?\d+\s?"))?, count)),
                _ => None,
            },
            "detectable_format:json_format" => Some(Self::Json),
            "detectable_format:title" => Some(Self::Title(pattern(r"<<[^\n]+>>")?)),
            "combination:two_responses" => Some(Self::TwoResponses),
            "combination:repeat_prompt" => match text("prompt_to_repeat") {
                Some(prompt) => Some(Self::RepeatsPrompt(strip(&prompt).to_lowercase())),
                None => return Err(Error::work(format!("{name}: prompt_to_repeat is missing"))),
            },
            "startend:end_checker" => stripped("end_phrase").map(|phrase| Self::Ends(phrase.to_lowercase())),
            "punctuation:no_comma" => Some(Self::NoComma),
            "startend:quotation" => Some(Self::Quoted),
            _ => return Err(Error::work(format!("the instruction {name:?} is not known"))),
        })
    }

    /// Whether `response`, which says something, follows it.
    ///
    /// # Errors
    /// Work: an expression that takes too many steps.
    pub(super) fn is_followed(&self, response: &str) -> Result<bool> {
        self.check(response).map_err(|fault| Error::work(format!("ifeval: {fault}")))
    }

    fn check(&self, response: &str) -> Result<bool, String> {
        let count = |pattern: &Pattern, text: &str| pattern.find_all(text).map(|found| found.len());
        Ok(match self {
            Self::Keywords(words) => {
                let mut all = true;
                for word in words {
                    all = all && count(word, response)? > 0;
                }
                all
            }
            Self::Frequency(word, relation) => relation.holds(count(word, response)?),
            Self::Forbidden(words) => {
                let mut none = true;
                for word in words {
                    none = none && count(word, response)? == 0;
                }
                none
            }
            Self::Letter(letter, relation) => {
                relation.holds(response.to_lowercase().chars().filter(|other| other == letter).count())
            }
            Self::Paragraphs(wanted) => paragraphs(response)? == Some(*wanted),
            Self::Words(word, relation) => relation.holds(count(word, response)?),
            Self::FirstWord { paragraphs, nth, word } => {
                first_word(response, *paragraphs, *nth).as_deref() == Some(word)
            }
            Self::Placeholders(place, wanted) => count(place, response)? as u64 >= *wanted,
            Self::Postscript(mark) => count(mark, &response.to_lowercase())? > 0,
            Self::Bullets([stars, dashes], wanted) => {
                (count(stars, response)? + count(dashes, response)?) as u64 == *wanted
            }
            Self::Constrained => OPTIONS.iter().any(|option| strip(response).contains(option)),
            Self::Highlights([one, two], wanted) => {
                let (one, two) = (one.find_all(response)?, two.find_all(response)?);
                let ones = one.iter().filter(|found| !strip(found.first().trim_matches('*')).is_empty()).count();
                let inside = |text: &str| {
                    let text = text.strip_prefix("**").unwrap_or(text);
                    !strip(text.strip_suffix("**").unwrap_or(text)).is_empty()
                };
                (ones + two.iter().filter(|found| inside(found.first())).count()) as u64 >= *wanted
            }
            Self::Sections(mark, wanted) => count(mark, response)? as u64 >= *wanted,
            Self::Json => is_json(response),
            Self::Title(title) => {
                let named = |text: &str| !strip(text.trim_start_matches('<').trim_end_matches('>')).is_empty();
                title.find_all(response)?.iter().any(|found| named(found.first()))
            }
            Self::TwoResponses => two_responses(response),
            Self::RepeatsPrompt(prompt) => strip(response).to_lowercase().starts_with(prompt.as_str()),
            Self::Ends(phrase) => strip(response).trim_matches('"').to_lowercase().ends_with(phrase.as_str()),
            Self::NoComma => !response.contains(','),
            Self::Quoted => {
                let text = strip(response);
                text.chars().nth(1).is_some() && text.starts_with('"') && text.ends_with('"')
            }
        })
    }
}

/// Paragraphs divided by three asterisks; nothing where one within is empty.
fn paragraphs(response: &str) -> Result<Option<u64>, String> {
    let parts = Pattern::new(r"\s?\*\*\*\s?")?.split(response)?;
    let last = parts.len() - 1;
    let mut count = parts.len() as u64;
    for (place, part) in parts.iter().enumerate() {
        if strip(part).is_empty() {
            if place != 0 && place != last {
                return Ok(None);
            }
            count = count.saturating_sub(1);
        }
    }
    Ok(Some(count))
}

/// The first word of the nth paragraph, in lower case, where there are as many paragraphs as wanted.
fn first_word(response: &str, wanted: u64, nth: u64) -> Option<String> {
    let parts: Vec<&str> = response.split("\n\n").collect();
    let count = parts.iter().filter(|part| !strip(part).is_empty()).count() as u64;
    if nth > count || count != wanted {
        return None;
    }
    let word = strip(parts.get(usize::try_from(nth).ok()? - 1)?).split_whitespace().next()?;
    let word = word.trim_start_matches('\'').trim_start_matches('"');
    let letters: String = word.chars().take_while(|letter| !".,?!'\"".contains(*letter)).collect();
    Some(letters.to_lowercase())
}

fn is_json(response: &str) -> bool {
    let mut text = strip(response);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = strip(text.strip_suffix("```").unwrap_or(text));
    matches!(text, "NaN" | "Infinity" | "-Infinity") || serde_json::from_str::<Value>(text).is_ok()
}

fn two_responses(response: &str) -> bool {
    let parts: Vec<&str> = response.split("******").collect();
    let last = parts.len() - 1;
    let is_hole = |(place, part): (usize, &&str)| strip(part).is_empty() && place != 0 && place != last;
    let said: Vec<&str> = parts.iter().map(|part| strip(part)).filter(|part| !part.is_empty()).collect();
    !parts.iter().enumerate().any(is_hole) && matches!(said[..], [one, other] if one != other)
}
