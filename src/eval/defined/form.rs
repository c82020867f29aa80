//! What a task says of a document: the name of a field, or a template over all fields.

use serde_json::{Map, Value};

use super::definition::Key;
use super::yaml::{Kind, Node};
use crate::data::PromptTemplate;
use crate::eval::fields::Fields;
use crate::eval::python::{literal, repr};
use crate::{Error, Result};

/// The value of a key such as `doc_to_text`.
#[derive(Debug)]
pub(super) enum Form {
    /// The same for every document: a number, a list.
    Constant(Value),
    /// A field, where the document has one of that name, else a template.
    Text { key: Key, text: String, template: Box<PromptTemplate> },
}

impl Form {
    /// Of a key that may hold a text, a whole number or a list of texts.
    pub(super) fn new(key: &Key) -> Result<Self> {
        match &key.value.kind {
            Kind::Scalar(Value::String(text)) => Self::template(key, text),
            Kind::Scalar(Value::Number(number)) if number.is_i64() => Ok(Self::Constant(number.clone().into())),
            Kind::List(_) => Ok(Self::Constant(key.value.json())),
            _ => Err(key.fault(format!("is {}, expected a text", key.value.json()))),
        }
    }

    /// Of a key that holds the choices: a text, a list of texts, or a mapping whose values are them.
    pub(super) fn of_choices(key: &Key) -> Result<Self> {
        let nodes: Vec<&Node> = match &key.value.kind {
            Kind::Scalar(Value::String(text)) => return Self::template(key, text),
            Kind::List(items) => items.iter().collect(),
            Kind::Map(entries) => entries.iter().map(|entry| &entry.value).collect(),
            _ => return Err(key.fault("expected a template, the name of a field or a list of texts")),
        };
        for node in &nodes {
            if node.text().is_none() {
                let what =
                    format!("the choice {} is no text; put it in quotes (YAML takes no, yes for a truth)", node.json());
                return Err(key.fault_at(node.line, what));
            }
        }
        Ok(Self::Constant(nodes.into_iter().map(Node::json).collect()))
    }

    /// As the file has it.
    pub(super) fn source(&self) -> String {
        match self {
            Self::Constant(value) => value.to_string(),
            Self::Text { text, .. } => text.clone(),
        }
    }

    fn template(key: &Key, text: &str) -> Result<Self> {
        let template = PromptTemplate::new(text).map_err(|fault| key.fault(format!("no template: {fault}")))?;
        Ok(Self::Text { key: key.clone(), text: text.to_owned(), template: Box::new(template) })
    }

    /// What it says of a document: a field's value or the text of the template.
    fn of(&self, document: &Fields) -> Result<Value> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Text { key, text, template } => match document.get(text.as_str()) {
                Some(value) => Ok(value.clone()),
                None => {
                    let made = template.render(document);
                    made.map(Value::String).map_err(|fault| at_document(key, &fault, document))
                }
            },
        }
    }

    /// The place of a fault.
    fn wrong(&self, what: &str, document: &Fields) -> Error {
        match self {
            Self::Constant(value) => Error::work(format!("{value} {what}")),
            Self::Text { key, .. } => at_document(key, what, document),
        }
    }

    /// A text: of `description` and `gen_prefix`.
    pub(super) fn text(&self, document: &Fields) -> Result<String> {
        match self.of(document)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(&format!("is {other}, expected a text"), document)),
        }
    }

    /// `doc_to_text`: a text, or the number of a choice where the choices are whole texts.
    pub(super) fn question(&self, document: &Fields, has_choices: bool) -> Result<Value> {
        let value = self.of(document)?;
        match (&value, self) {
            (Value::String(text), Self::Text { text: source, .. }) if !document.contains_key(source.as_str()) => {
                let is_plain = !source.contains("{{") && !source.contains("{%");
                if is_plain && is_name(source) {
                    let what = format!("there is no field {source}; there are {}", names(document));
                    return Err(self.wrong(&what, document));
                }
                Ok(digits(text).filter(|_| has_choices).unwrap_or(value))
            }
            (Value::String(_), _) => Ok(value),
            (Value::Number(number), _) if has_choices && number.is_u64() => Ok(value),
            _ => Err(self.wrong(&format!("is {value}, expected a text"), document)),
        }
    }

    /// `doc_to_target`: a text, the number of a choice, or several of those.
    pub(super) fn target(&self, document: &Fields, has_choices: bool) -> Result<Value> {
        let value = self.of(document)?;
        match (&value, self) {
            (Value::String(text), Self::Text { text: source, .. }) if !document.contains_key(source.as_str()) => {
                let number = digits(text).filter(|_| has_choices);
                let list = || literal(text).filter(|_| text.len() > 1 && text.starts_with('[') && text.ends_with(']'));
                Ok(number.or_else(list).unwrap_or(value))
            }
            _ => Ok(value),
        }
    }

    /// `doc_to_choice`: texts.
    pub(super) fn choices(&self, document: &Fields) -> Result<Vec<String>> {
        let value = match (self.of(document)?, self) {
            (Value::String(text), Self::Text { text: source, .. }) if !document.contains_key(source.as_str()) => {
                let what = || match is_name(source) {
                    true => format!("there is no field {source}; there are {}", names(document)),
                    false => format!("the template gives {text:?}, expected a list of texts as Python writes it"),
                };
                literal(&text).ok_or_else(|| self.wrong(&what(), document))?
            }
            (value, _) => value,
        };
        let list = value.as_array().filter(|list| !list.is_empty());
        let texts: Option<Vec<String>> =
            list.and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
        texts.ok_or_else(|| self.wrong(&format!("gives {value}, expected a list of texts"), document))
    }
}

fn at_document(key: &Key, what: &str, document: &Fields) -> Error {
    let what = if what.contains("is missing") { format!("{what}; there are {}", names(document)) } else { what.into() };
    Error::work(format!("{} line {}: {}: {what}", key.file.display(), key.line, key.name))
}

/// The fields of a document.
fn names(document: &Map<String, Value>) -> String {
    document.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether a text may be meant as a field's name.
fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
}

/// The number that a text of digits writes.
fn digits(text: &str) -> Option<Value> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u64>().ok().filter(|_| is_number).map(Value::from)
}

/// `str(value)`.
pub(super) fn python_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => python_repr(other),
    }
}

fn python_repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) if number.is_f64() => number.as_f64().map(repr).unwrap_or_default(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => crate::data::python_quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(python_repr).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let entry = |(key, value): (&String, &Value)| {
                format!("{}: {}", crate::data::python_quoted(key), python_repr(value))
            };
            format!("{{{}}}", fields.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}
