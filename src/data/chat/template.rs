//! A model's chat template: where it stands, and what it makes of messages.

use std::path::Path;

use minijinja::Environment;
use minijinja::value::Serde;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::environment::{MARKS, NAME, environment, has_generation};
use super::stack::on_deep_stack;
use crate::checkpoint::read_json;
use crate::data::Tokenizer;
use crate::files::{self, Bound};
use crate::shown::shown_message;
use crate::{Error, Result};

/// The file that has the template.
const FILE: &str = "chat_template.jinja";

/// Files that have others, by name.
const OTHERS: &str = "additional_chat_templates";

/// The template that is taken where a row names tools, if there is one of that name.
const FOR_TOOLS: &str = "tool_use";

/// Bytes of a template: those of models have some thousands.
const LONGEST: usize = 64 << 10;

/// A chat template as `apply_chat_template` of transformers uses it.
#[derive(Debug)]
pub struct Template {
    plain: Environment<'static>,
    for_tools: Option<Environment<'static>>,
    says_answers: bool,
    special: Map<String, Value>,
    name: String,
    source: String,
    sha256: String,
}

impl Template {
    /// The template in `file`, or that of the checkpoint in `directory`: `chat_template.jinja` (and
    /// `additional_chat_templates`), or else `chat_template` of `tokenizer_config.json`, one or several with names.
    /// `None` where there is none.
    ///
    /// # Errors
    /// Request: several and none called `default`. Work: a template that is not Jinja, a file that cannot be read.
    pub fn open(directory: &Path, file: Option<&Path>, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let (name, sources) = match file {
            Some(file) => (file.display().to_string(), vec![("default".to_owned(), read(file)?)]),
            None => match found(directory)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let of = |wanted: &str| sources.iter().find(|(name, _)| name == wanted).map(|(_, source)| source);
        let Some(default) = of("default") else {
            let fault = format!("{name}: chat templates {}, none of them `default`", listed(&sources));
            return Err(Error::request(format!("{fault}: name a file with one by --chat-template")));
        };
        Self::build(&name, default, of(FOR_TOOLS), tokenizer).map(Some)
    }

    /// The template called `wanted` of the checkpoint in `directory`, else its only one or its `default`, for
    /// conversations without tools. `None` where there is none at all.
    ///
    /// # Errors
    /// Request: none of that name, or several and none called `default`; the names there are. Work: as
    /// [`open`](Self::open).
    pub fn named(directory: &Path, wanted: Option<&str>, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some((name, sources)) = found(directory)? else { return Ok(None) };
        let sought = wanted.unwrap_or("default");
        let Some((_, source)) = sources.iter().find(|(name, _)| name == sought) else {
            return Err(Error::request(format!(
                "{name}: chat templates {}, none of them `{sought}`",
                listed(&sources)
            )));
        };
        Self::build(&name, source, None, tokenizer).map(Some)
    }

    fn build(name: &str, default: &String, for_tools: Option<&String>, tokenizer: &Tokenizer) -> Result<Self> {
        let build = |source: &String| {
            if source.len() > LONGEST {
                let (length, most) = (source.len() >> 10, LONGEST >> 10);
                return Err(Error::work(format!("{name}: a chat template of {length} KiB, expected at most {most}")));
            }
            let fault = |error| Error::work(format!("{name}: no chat template: {}", said(&error)));
            on_deep_stack(|| environment(source))?.map_err(fault)
        };
        let mut hash = Sha256::new();
        for source in [Some(default), for_tools].into_iter().flatten() {
            hash.update((source.len() as u64).to_le_bytes());
            hash.update(source);
        }
        Ok(Self {
            for_tools: for_tools.map(build).transpose()?,
            plain: build(default)?,
            says_answers: has_generation(default),
            special: tokenizer.special_tokens().clone(),
            name: name.to_owned(),
            source: default.clone(),
            sha256: format!("{:x}", hash.finalize()),
        })
    }

    /// The file it stands in.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// SHA-256 of its text.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Whether `{% generation %}` says which parts are the assistant's.
    #[must_use]
    pub fn says_answers(&self) -> bool {
        self.says_answers
    }

    /// The text of `messages`, with what the assistant says first if `add_generation_prompt`; and the parts that
    /// `{% generation %}` says are the assistant's, at bytes of the text. `more` are further names of the template.
    ///
    /// # Errors
    /// Work: what the template says is wrong.
    pub fn render(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        more: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Result<(String, Vec<std::ops::Range<usize>>)> {
        let mut names = self.special.clone();
        names.extend([
            ("messages".to_owned(), json!(messages)),
            ("tools".to_owned(), tools.cloned().unwrap_or_default()),
            ("documents".to_owned(), Value::Null),
            ("add_generation_prompt".to_owned(), json!(add_generation_prompt)),
        ]);
        names.extend(more.clone());
        let environment = self.for_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.plain);
        let rendered = on_deep_stack(|| {
            let names = minijinja::Value::from(Serde(&names));
            environment.get_template(NAME).and_then(|template| template.render(names))
        })?;
        let marked = rendered.map_err(|error| Error::work(format!("the chat template says: {}", said(&error))))?;
        if self.says_answers { unmarked(&marked) } else { Ok((marked, Vec::new())) }
    }
}

/// The names of templates.
fn listed(sources: &[(String, String)]) -> String {
    sources.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The text without its marks, and what stood between them.
fn unmarked(marked: &str) -> Result<(String, Vec<std::ops::Range<usize>>)> {
    let fault = || Error::work("the chat template has one `generation` block in another");
    let (mut text, mut parts, mut begun) = (String::with_capacity(marked.len()), Vec::new(), None);
    for part in marked.split_inclusive(MARKS) {
        text.push_str(part.trim_end_matches(MARKS));
        match part.chars().next_back() {
            Some(mark) if mark == MARKS[0] && begun.replace(text.len()).is_some() => return Err(fault()),
            Some(mark) if mark == MARKS[1] => parts.push(begun.take().ok_or_else(fault)?..text.len()),
            _ => {}
        }
    }
    Ok((text, parts))
}

/// Name of the file and the templates in it, by name.
type Found = (String, Vec<(String, String)>);

fn found(directory: &Path) -> Result<Option<Found>> {
    let path = directory.join(FILE);
    let mut sources = Vec::new();
    if path.exists() {
        sources.push(("default".to_owned(), read(&path)?));
    }
    let others = std::fs::read_dir(directory.join(OTHERS)).into_iter().flatten().flatten();
    let mut others: Vec<_> = others.map(|entry| entry.path()).collect();
    others.sort();
    for path in others.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jinja")) {
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        sources.push((name, read(path)?));
    }
    if !sources.is_empty() {
        return Ok(Some((FILE.to_owned(), sources)));
    }
    let (name, path) = ("tokenizer_config.json", directory.join("tokenizer_config.json"));
    if !path.exists() {
        return Ok(None);
    }
    let mut config: Map<String, Value> = read_json(&path)?;
    let fault = || Error::work(format!("{}: chat_template is no template and no list of them", path.display()));
    let sources = match config.remove("chat_template") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => vec![("default".to_owned(), source)],
        Some(Value::Array(list)) => {
            let text = |item: &Value, key| Some(item.get(key)?.as_str()?.to_owned());
            let named = list.iter().map(|item| Some((text(item, "name")?, text(item, "template")?)));
            named.collect::<Option<Vec<_>>>().ok_or_else(fault)?
        }
        Some(_) => return Err(fault()),
    };
    Ok(Some((name.to_owned(), sources)))
}

/// As Python reads a text.
fn read(path: &Path) -> Result<String> {
    Ok(files::read_text(path, Bound::CONFIG.bytes)?.replace("\r\n", "\n").replace('\r', "\n"))
}

/// What is wrong, in one line.
pub(super) fn said(error: &minijinja::Error) -> String {
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error.line().map(|line| format!(" (line {line} of it)")).unwrap_or_default();
    let detail: String = detail.lines().next().unwrap_or_default().chars().take(200).collect();
    format!("{}{line}", shown_message(&detail))
}
