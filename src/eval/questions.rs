//! From a row of a data set to a question: one function a task, the prompts of lm-evaluation-harness 0.4.13.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::python::{capitalize, is_space, strip};
use super::source::Fields;
use crate::{Error, Result};

/// A question with choices, before any examples are put in front of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// What comes before the answer: one text, or one a choice where the choices fill a gap.
    pub contexts: Vec<String>,
    /// The answers, or the one ending that follows every filled gap.
    pub answers: Vec<String>,
    /// Length of each choice in characters, what `acc_norm` divides by.
    pub lengths: Vec<usize>,
    /// The right choice.
    pub gold: usize,
    /// The reference's `str(target)`, part of its hashes.
    pub target: String,
}

impl Question {
    /// One context, several answers; the target is the right one's number.
    fn new(context: String, answers: Vec<String>, gold: usize, target: &Value) -> Result<Self> {
        if gold >= answers.len() {
            return Err(Error::work(format!("the right answer is number {gold} of {} choices", answers.len())));
        }
        let target = match target {
            Value::String(text) => text.clone(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            other => other.to_string(),
        };
        let lengths = answers.iter().map(|answer| answer.chars().count()).collect();
        Ok(Self { contexts: vec![context], answers, lengths, gold, target })
    }

    /// Number of choices.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.lengths.len()
    }

    /// Text before choice `index`.
    #[must_use]
    pub fn context(&self, index: usize) -> &str {
        &self.contexts[index.min(self.contexts.len() - 1)]
    }

    /// Text of choice `index`, without the space that joins it to its context.
    #[must_use]
    pub fn answer(&self, index: usize) -> &str {
        &self.answers[index.min(self.answers.len() - 1)]
    }

    /// The question with its right answer, as an example for another one.
    #[must_use]
    pub fn solved(&self) -> String {
        let (context, answer) = (self.context(self.gold), self.answer(self.gold));
        // the reference leaves out delimiters where there is no answer
        if answer.is_empty() { context.to_owned() } else { format!("{context} {answer}\n\n") }
    }
}

/// MMLU's description.
pub(super) fn about(subject: &str) -> String {
    let subject = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
}

/// The CSV layout has letters, the hub has numbers.
pub(super) fn prepare_mmlu(mut row: Fields) -> Result<Fields> {
    if let Some(Value::String(letter)) = row.get("answer") {
        let Some(number) = "ABCD".find(letter.as_str()).filter(|_| letter.len() == 1) else {
            return Err(Error::work(format!("field answer is {letter:?}, expected A, B, C or D")));
        };
        row.insert("answer".to_owned(), json!(number));
    }
    Ok(row)
}

pub(super) fn mmlu(row: &Fields) -> Result<Question> {
    let choices = texts(row.get("choices"), "choices")?;
    let [a, b, c, d] = choices.as_slice() else {
        return Err(Error::work(format!("field choices has {} entries, expected 4", choices.len())));
    };
    let context = format!("{}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:", strip(text(row, "question")?));
    let letters = ["A", "B", "C", "D"].map(str::to_owned).to_vec();
    Question::new(context, letters, number(row, "answer")?, value(row, "answer")?)
}

/// The original release keeps the title apart and says `answer`; SuperGLUE, whose text the reference uses, has it in
/// the passage and says `label`.
pub(super) fn prepare_boolq(mut row: Fields) -> Result<Fields> {
    if row.contains_key("label") {
        return Ok(row);
    }
    let Some(title) = row.get("title").and_then(Value::as_str) else {
        return Err(Error::work(
            "field label is missing, and there is no title to make SuperGLUE's passage from: \
             google/boolq gives other prompts than the reference, take aps/super_glue (boolq)",
        ));
    };
    let passage = format!("{title} -- {}", text(&row, "passage")?);
    let label = usize::from(value(&row, "answer")?.as_bool().ok_or_else(|| wrong("answer", "true or false"))?);
    row.insert("passage".to_owned(), json!(passage));
    row.insert("label".to_owned(), json!(label));
    Ok(row)
}

pub(super) fn boolq(row: &Fields) -> Result<Question> {
    let context = format!("{}\nQuestion: {}?\nAnswer:", text(row, "passage")?, text(row, "question")?);
    let label = value(row, "label")?;
    let gold = label.as_bool().map_or_else(|| number(row, "label"), |yes| Ok(usize::from(yes)))?;
    Question::new(context, vec!["no".to_owned(), "yes".to_owned()], gold, label)
}

/// Adds `query`, `choices` and `gold`.
pub(super) fn prepare_hellaswag(mut row: Fields) -> Result<Fields> {
    let context = format!("{} {}", text(&row, "ctx_a")?, capitalize(text(&row, "ctx_b")?));
    let query = tidy(&format!("{}: {context}", text(&row, "activity_label")?));
    let choices: Vec<String> = texts(row.get("endings"), "endings")?.iter().map(|ending| tidy(ending)).collect();
    let gold = number(&row, "label")?;
    row.insert("query".to_owned(), json!(query));
    row.insert("choices".to_owned(), json!(choices));
    row.insert("gold".to_owned(), json!(gold));
    Ok(row)
}

pub(super) fn hellaswag(row: &Fields) -> Result<Question> {
    let choices = texts(row.get("choices"), "choices")?;
    Question::new(text(row, "query")?.to_owned(), choices, number(row, "label")?, value(row, "label")?)
}

/// Brackets are left over from WikiHow.
fn tidy(text: &str) -> String {
    static BRACKETS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[.*?\]").ok());
    let text = strip(text).replace(" [title]", ". ");
    let text = BRACKETS.as_ref().map_or(text.as_str().into(), |brackets| brackets.replace_all(&text, ""));
    text.replace("  ", " ")
}

pub(super) fn arc(row: &Fields) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", text(row, "question")?);
    labelled(context, row, text(row, "answerKey")?)
}

pub(super) fn openbookqa(row: &Fields) -> Result<Question> {
    labelled(text(row, "question_stem")?.to_owned(), row, text(row, "answerKey")?.trim_start_matches(is_space))
}

/// Choices in a struct of texts and labels; the key is a label.
fn labelled(context: String, row: &Fields, key: &str) -> Result<Question> {
    let choices = value(row, "choices")?;
    let labels = texts(choices.get("label"), "choices.label")?;
    let Some(gold) = labels.iter().position(|label| label == key) else {
        return Err(Error::work(format!("field answerKey is {key:?}, the labels are {labels:?}")));
    };
    Question::new(context, texts(choices.get("text"), "choices.text")?, gold, &json!(gold))
}

pub(super) fn piqa(row: &Fields) -> Result<Question> {
    let context = format!("Question: {}\nAnswer:", text(row, "goal")?);
    let choices = vec![text(row, "sol1")?.to_owned(), text(row, "sol2")?.to_owned()];
    Question::new(context, choices, number(row, "label")?, value(row, "label")?)
}

/// Partial evaluation (arXiv 1806.02847): the options fill the gap, what follows the gap is scored.
pub(super) fn winogrande(row: &Fields) -> Result<Question> {
    let sentence = text(row, "sentence")?;
    let (before, after) = sentence.split_once('_').ok_or_else(|| wrong("sentence", "a text with a gap, _"))?;
    let gold = match text(row, "answer")? {
        "1" => 0,
        "2" => 1,
        other => return Err(Error::work(format!("field answer is {other:?}, expected \"1\" or \"2\""))),
    };
    let contexts = vec![format!("{before}{}", text(row, "option1")?), format!("{before}{}", text(row, "option2")?)];
    let ending = strip(after).to_owned();
    let lengths = contexts.iter().map(|context| context.chars().count()).collect();
    Ok(Question { contexts, answers: vec![ending.clone()], lengths, gold, target: ending })
}

fn wrong(field: &str, expected: &str) -> Error {
    Error::work(format!("field {field} is not {expected}"))
}

fn value<'a>(row: &'a Fields, field: &str) -> Result<&'a Value> {
    row.get(field).ok_or_else(|| {
        let fields: Vec<&str> = row.keys().map(String::as_str).collect();
        Error::work(format!("field {field} is missing, there are {}", fields.join(", ")))
    })
}

/// A field with text.
pub(super) fn text<'a>(row: &'a Fields, field: &str) -> Result<&'a str> {
    value(row, field)?.as_str().ok_or_else(|| wrong(field, "a text"))
}

/// A field with a number of a choice, perhaps in quotes.
fn number(row: &Fields, field: &str) -> Result<usize> {
    let value = value(row, field)?;
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
        Error::work(format!("field {field} is {value}, expected the number of a choice (has this split no labels?)"))
    })
}

fn texts(value: Option<&Value>, field: &str) -> Result<Vec<String>> {
    let list = value.and_then(Value::as_array).ok_or_else(|| wrong(field, "a list of texts"))?;
    list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong(field, "a list of texts"))).collect()
}
