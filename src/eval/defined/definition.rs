//! The keys of a task file, with those of the files that it includes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::yaml::{Kind, Node, parse};
use crate::{Error, Result, files};

/// Bytes of a task file.
const LONGEST: u64 = 4 << 20;
/// Files that include each other.
const DEEPEST: usize = 32;

/// A key, its value, and where that stands.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) file: Arc<Path>,
    pub(super) line: usize,
    pub(super) value: Node,
}

impl Key {
    /// `file line n: key: what`.
    pub(super) fn fault(&self, what: impl std::fmt::Display) -> Error {
        self.fault_at(self.line, what)
    }

    pub(super) fn fault_at(&self, line: usize, what: impl std::fmt::Display) -> Error {
        Error::request(format!("{} line {line}: {}: {what}", self.file.display(), self.name))
    }

    /// A text.
    pub(super) fn text(&self) -> Result<&str> {
        self.value.text().ok_or_else(|| self.fault("expected a text"))
    }

    /// A number of things.
    pub(super) fn count(&self) -> Result<usize> {
        let number = match &self.value.kind {
            Kind::Scalar(Value::Number(number)) => number.as_u64(),
            _ => None,
        };
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| self.fault(format!("is {}, expected a whole number", self.value.json())))
    }
}

/// A task or group as files say it.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    pub(super) file: Arc<Path>,
    pub(super) keys: Vec<Key>,
}

impl Definition {
    /// The key of that name; one that is null counts as nothing.
    pub(super) fn get(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name).filter(|key| !key.value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.get(name).map(Key::text).transpose()
    }

    /// A fault of no key.
    pub(super) fn fault(&self, what: impl std::fmt::Display) -> Error {
        Error::request(format!("{}: {what}", self.file.display()))
    }

    /// Sets a key over what it was.
    pub(super) fn set(&mut self, key: Key) {
        match self.keys.iter_mut().find(|known| known.name == key.name) {
            Some(known) => *known = key,
            None => self.keys.push(key),
        }
    }

    /// Without lines.
    pub(super) fn json(&self) -> Map<String, Value> {
        self.keys.iter().map(|key| (key.name.clone(), key.value.json())).collect()
    }
}

/// Files that were read, which many others may include.
pub(super) type Known = BTreeMap<PathBuf, Definition>;

/// The keys of `file`, those of its includes beneath.
///
/// # Errors
/// Request: a file that is missing, too long or no YAML, files that include each other in a circle.
pub(super) fn load(file: &Path, known: &mut Known) -> Result<Definition> {
    descend(file, known, &mut Vec::new())
}

fn descend(file: &Path, known: &mut Known, above: &mut Vec<PathBuf>) -> Result<Definition> {
    let real = file.canonicalize().map_err(|error| Error::io(file, &error))?;
    if let Some(definition) = known.get(&real) {
        return Ok(definition.clone());
    }
    let own = read(file)?;
    above.push(real.clone());
    let mut merged = Definition { file: own.file.clone(), keys: Vec::new() };
    if let Some(include) = own.get("include") {
        for node in include.value.list().unwrap_or(std::slice::from_ref(&include.value)) {
            let name = node.text().ok_or_else(|| include.fault("expected names of files"))?;
            let path = file.parent().unwrap_or(Path::new("")).join(name);
            let target = path.canonicalize();
            let target = target.map_err(|_| include.fault(format!("there is no {}", path.display())))?;
            if above.contains(&target) || above.len() > DEEPEST {
                return Err(include.fault(format!("{} includes this file in turn", path.display())));
            }
            let below = descend(&path, known, above)?;
            below.keys.into_iter().filter(|key| key.name != "task_list").for_each(|key| merged.set(key));
        }
    }
    above.pop();
    own.keys.into_iter().filter(|key| key.name != "include").for_each(|key| merged.set(key));
    known.insert(real, merged.clone());
    Ok(merged)
}

/// The keys of one file.
fn read(file: &Path) -> Result<Definition> {
    let path: Arc<Path> = Arc::from(file);
    let wrong = |line: usize, what: &str| Error::request(format!("{} line {line}: {what}", file.display()));
    let text = files::read_text(file, LONGEST).map_err(|error| match error {
        Error::Work(fault) => Error::Request(fault),
        other => other,
    })?;
    let node = parse(text.trim_start_matches('\u{feff}')).map_err(|(line, what)| wrong(line, &what))?;
    let line = node.line;
    let Kind::Map(entries) = node.kind else { return Err(wrong(line, "expected keys, such as `task: NAME`")) };
    let keys = entries.into_iter().map(|entry| Key {
        name: entry.key,
        file: path.clone(),
        line: entry.line,
        value: entry.value,
    });
    Ok(Definition { keys: keys.collect(), file: path })
}
