//! Which file defines which name: tasks, groups, tags.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::definition::{Definition, Known, load};
use super::yaml::{Kind, Node};
use crate::data::names_below;
use crate::{Context, Error, Result, interrupt};

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Named {
    Task(Definition),
    Group(Definition),
    /// Tasks that have it as a tag.
    Tag(BTreeSet<String>),
}

/// Task files that can be asked for by name.
#[derive(Clone, Debug, Default)]
pub struct TaskFiles {
    pub(super) names: BTreeMap<String, Named>,
    /// Names that a second file has, and that one.
    pub(super) twice: BTreeMap<String, PathBuf>,
    /// What is wrong with files that nobody may have asked for.
    broken: Vec<String>,
}

impl TaskFiles {
    /// The files below `folder`, and those that `tasks` name by their paths.
    ///
    /// # Errors
    /// Request: a folder that is not there, a file named in `tasks` that cannot be read.
    pub fn open(folder: Option<&Path>, tasks: &[String]) -> Result<Self> {
        let (mut files, mut known) = (Self::default(), Known::new());
        if let Some(folder) = folder {
            files.folder(folder, &mut known).context(|| "--include-path")?;
        }
        for name in tasks.iter().filter(|name| is_file(name)) {
            let definition = load(Path::new(name), &mut known).context(|| "--tasks")?;
            if !files.names.contains_key(name) {
                let named = named(definition)?.1;
                files.names.insert(name.clone(), named);
            }
        }
        Ok(files)
    }

    fn folder(&mut self, folder: &Path, known: &mut Known) -> Result<()> {
        let paths = match folder.is_file() {
            true => vec![folder.to_owned()],
            false => names_below(folder)?.iter().map(|name| folder.join(name)).collect(),
        };
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")) {
            interrupt::check()?;
            let found = load(path, known).and_then(named);
            match found {
                Ok((name, _)) if self.names.get(&name).is_some_and(|known| !matches!(known, Named::Tag(_))) => {
                    self.twice.insert(name, path.clone());
                }
                Ok((name, entry)) => {
                    if let Named::Task(definition) = &entry {
                        self.tag(&name, definition);
                    }
                    self.names.insert(name, entry);
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => self.broken.push(error.to_string()),
            }
        }
        Ok(())
    }

    fn tag(&mut self, task: &str, definition: &Definition) {
        let Some(key) = definition.get("tag") else { return };
        for tag in key.value.list().unwrap_or(std::slice::from_ref(&key.value)).iter().filter_map(Node::text) {
            let entry = self.names.entry(tag.to_owned()).or_insert_with(|| Named::Tag(BTreeSet::new()));
            if let Named::Tag(tasks) = entry {
                tasks.insert(task.to_owned());
            }
        }
    }

    /// Names of tasks, groups and tags.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// What is wrong with the first file that could not be read, if there is one.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.first().map(String::as_str)
    }
}

/// Whether a name of `--tasks` is the path of a file.
pub(super) fn is_file(name: &str) -> bool {
    name.ends_with(".yaml")
}

/// The name of a definition, and what it is.
fn named(definition: Definition) -> Result<(String, Named)> {
    let name = |key: &str| definition.text(key).map(|name| name.map(str::to_owned));
    if let Some(name) = name("group")? {
        return Ok((name, Named::Group(definition)));
    }
    match definition.get("task").map(|key| (&key.value.kind, key)) {
        Some((Kind::List(_), key)) => Err(key.fault("a list of tasks belongs to a group, which has `group: NAME`")),
        Some((_, key)) => Ok((key.text()?.to_owned(), Named::Task(definition))),
        None => Err(definition.fault("neither task nor group is there")),
    }
}
