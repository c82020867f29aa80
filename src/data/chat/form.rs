//! What rows hold: plain text, or conversations in one of the forms that people write them in.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::data::rows::{kind, shortened};

/// The form of rows (`--form`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Told by the rows.
    #[default]
    Auto,
    /// A text in one field.
    Text,
    /// `messages`, each with `role` and `content` (OpenAI, TRL).
    Messages,
    /// `conversations`, each with `from` and `value`.
    Sharegpt,
    /// `instruction`, `input` and `output`; `system` and `history` where they are there.
    Alpaca,
    /// `prompt` and `completion`, texts or messages.
    PromptCompletion,
}

impl Form {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Messages => "messages",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
        }
    }

    /// The form of a row that holds a conversation, told by its fields.
    pub(super) fn of(fields: &Map<String, Value>) -> Option<Self> {
        let has = |names: [&str; 2]| names.iter().all(|name| fields.contains_key(*name));
        let turn = |list: &str, key: &str| fields.get(list).and_then(|list| list.get(0)?.get(key)).is_some();
        match () {
            () if turn("messages", "role") || turn("conversations", "role") => Some(Self::Messages),
            () if turn("conversations", "from") => Some(Self::Sharegpt),
            () if has(["prompt", "completion"]) => Some(Self::PromptCompletion),
            () if has(["instruction", "output"]) => Some(Self::Alpaca),
            () => None,
        }
    }

    /// The form of a row that asks something, answered or not.
    pub(super) fn of_prompt(fields: &Map<String, Value>) -> Option<Self> {
        Self::of(fields).or_else(|| match () {
            () if fields.contains_key("prompt") => Some(Self::PromptCompletion),
            () if fields.contains_key("instruction") => Some(Self::Alpaca),
            () => None,
        })
    }

    /// The fields that are read.
    pub(in crate::data) fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Auto | Self::Text => &[],
            Self::Messages => &["messages", "conversations", "tools", "chat_template_kwargs"],
            Self::Sharegpt => &["conversations", "system", "tools", "chat_template_kwargs"],
            Self::Alpaca => &["instruction", "input", "output", "system", "history"],
            Self::PromptCompletion => &["prompt", "completion", "tools", "chat_template_kwargs"],
        }
    }
}

/// What one row holds.
#[derive(Debug, PartialEq)]
pub(super) enum Talk {
    /// Messages; the answers are the assistant's among them, or, given `answer`, all from that one on.
    Messages { messages: Vec<Value>, answer: Option<usize>, tools: Option<Value>, more: Map<String, Value> },
    /// A text, and the one that is to follow.
    Texts { prompt: String, completion: String },
}

/// Roles of messages; a template may take fewer.
const ROLES: [&str; 7] = ["system", "developer", "user", "assistant", "tool", "function", "ipython"];

/// Who speaks in ShareGPT, and in messages.
const SPEAKERS: [(&str, &str); 13] = [
    ("system", "system"),
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("function_call", "assistant"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function", "tool"),
];

/// What the fields of a row of `form` hold; in words, what is wrong with them.
pub(super) fn read(form: Form, fields: &mut Map<String, Value>) -> Result<Talk, String> {
    let tools = match fields.remove("tools").filter(|tools| !tools.is_null()) {
        Some(Value::String(text)) => {
            Some(serde_json::from_str(&text).map_err(|error| format!("field `tools` is no JSON: {error}"))?)
        }
        tools => tools,
    };
    let more = match fields.remove("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(more)) => more,
        Some(other) => return Err(wrong("chat_template_kwargs", "an object", &other)),
    };
    let (messages, answer) = match form {
        Form::Auto | Form::Text => return Err("a text is no conversation".to_owned()),
        Form::Messages => {
            let name = if fields.contains_key("conversations") { "conversations" } else { "messages" };
            (messages(name, fields.remove(name))?, None)
        }
        Form::Sharegpt => (sharegpt(fields)?, None),
        Form::Alpaca => {
            let messages = alpaca(fields)?;
            let answer = messages.len() - 1;
            (messages, Some(answer))
        }
        Form::PromptCompletion => match (fields.remove("prompt"), fields.remove("completion")) {
            (Some(Value::String(prompt)), Some(Value::String(completion))) => {
                return Ok(Talk::Texts { prompt, completion });
            }
            (prompt, completion) => {
                let mut all = messages("prompt", prompt)?;
                let answer = all.len();
                all.extend(messages("completion", completion)?);
                (all, Some(answer))
            }
        },
    };
    Ok(Talk::Messages { messages, answer, tools, more })
}

/// What the fields of a row of `form` ask, without the answer that they may end with.
pub(super) fn read_prompt(form: Form, fields: &mut Map<String, Value>) -> Result<Talk, String> {
    let is_text = fields.get("prompt").is_some_and(Value::is_string);
    match form {
        Form::Alpaca => drop(fields.insert("output".to_owned(), json!(""))),
        Form::PromptCompletion if is_text => drop(fields.insert("completion".to_owned(), json!(""))),
        Form::PromptCompletion => {
            // to be asked by is what messages are
            let prompt = fields.remove("prompt").ok_or("no field `prompt`")?;
            fields.remove("conversations");
            fields.insert("messages".to_owned(), prompt);
        }
        Form::Auto | Form::Text | Form::Messages | Form::Sharegpt => {}
    }
    let read_as = if form == Form::PromptCompletion && !is_text { Form::Messages } else { form };
    let (mut messages, tools, more) = match read(read_as, fields)? {
        Talk::Messages { messages, tools, more, .. } => (messages, tools, more),
        texts @ Talk::Texts { .. } => return Ok(texts),
    };
    let is_answer = |message: &Value| message.get("role").and_then(Value::as_str) == Some("assistant");
    while messages.last().is_some_and(is_answer) {
        messages.pop();
    }
    match messages.len() {
        0 => Err("no message to be answered".to_owned()),
        len => Ok(Talk::Messages { messages, answer: Some(len), tools, more }),
    }
}

fn wrong(field: &str, expected: &str, found: &Value) -> String {
    format!("field `{field}` is {}, expected {expected}", kind(found))
}

/// A text of an optional field.
fn text(fields: &mut Map<String, Value>, name: &str) -> Result<String, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(name, "a string", &other)),
    }
}

fn list(name: &str, value: Option<Value>) -> Result<Vec<Value>, String> {
    match value {
        Some(Value::Array(list)) if !list.is_empty() => Ok(list),
        Some(Value::Array(_)) => Err(format!("field `{name}` has no message")),
        Some(other) => Err(wrong(name, "a list of messages", &other)),
        None => Err(format!("no field `{name}`")),
    }
}

/// Messages with what is null left out, as transformers leaves it out.
fn messages(name: &str, value: Option<Value>) -> Result<Vec<Value>, String> {
    let turn = |(at, value): (usize, Value)| {
        let Value::Object(mut turn) = value else {
            return Err(format!("message {} of `{name}` is {}, expected an object", at + 1, kind(&value)));
        };
        turn.retain(|_, value| !value.is_null());
        match turn.get("role").and_then(Value::as_str) {
            Some(role) if ROLES.contains(&role) => Ok(Value::Object(turn)),
            Some(role) => Err(unknown(at, name, role, &ROLES)),
            None => Err(format!("message {} of `{name}` has no `role`", at + 1)),
        }
    };
    list(name, value)?.into_iter().enumerate().map(turn).collect()
}

fn unknown(at: usize, name: &str, role: &str, known: &[&str]) -> String {
    let role = shortened(role, 60);
    format!("message {} of `{name}` has the unknown role {role:?}, expected one of {}", at + 1, known.join(", "))
}

fn sharegpt(fields: &mut Map<String, Value>) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    let system = text(fields, "system")?;
    if !system.is_empty() {
        all.push(json!({"role": "system", "content": system}));
    }
    let name = "conversations";
    for (at, turn) in list(name, fields.remove(name))?.into_iter().enumerate() {
        let (from, value) = (turn.get("from").and_then(Value::as_str), turn.get("value").and_then(Value::as_str));
        let (Some(from), Some(value)) = (from, value) else {
            return Err(format!("message {} of `{name}` lacks `from` or `value`, two strings", at + 1));
        };
        let role = SPEAKERS.iter().find(|(speaker, _)| *speaker == from).map(|(_, role)| role);
        let role = role.ok_or_else(|| unknown(at, name, from, &SPEAKERS.map(|(speaker, _)| speaker)))?;
        all.push(json!({"role": role, "content": value}));
    }
    Ok(all)
}

fn alpaca(fields: &mut Map<String, Value>) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    let system = text(fields, "system")?;
    if !system.is_empty() {
        all.push(json!({"role": "system", "content": system}));
    }
    let mut exchange = |asked: &str, answer: &str| {
        all.push(json!({"role": "user", "content": asked}));
        all.push(json!({"role": "assistant", "content": answer}));
    };
    match fields.remove("history") {
        None | Some(Value::Null) => {}
        Some(Value::Array(history)) => {
            for pair in &history {
                let part = |at: usize| pair.get(at).and_then(Value::as_str);
                let (Some(asked), Some(answer)) = (part(0), part(1)) else {
                    return Err("field `history` has something else than pairs of strings".to_owned());
                };
                exchange(asked, answer);
            }
        }
        Some(other) => return Err(wrong("history", "a list of pairs", &other)),
    }
    let (mut asked, input) = (text(fields, "instruction")?, text(fields, "input")?);
    if !input.is_empty() {
        asked.push('\n');
        asked.push_str(&input);
    }
    if !fields.contains_key("output") {
        return Err("no field `output`".to_owned());
    }
    exchange(&asked, &text(fields, "output")?);
    Ok(all)
}
