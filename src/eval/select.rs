//! From the names on the command line to the tasks that are run and the groups they are averaged in.

use std::path::PathBuf;

use super::defined::{Adder, OWN, TaskFiles};
use super::subjects::{self, Category, SUBJECTS};
use super::tasks::{Config, TASKS, TEXT, Task, named};
use super::text_names;
use crate::{Error, Result};

/// One task that is run: a row of the table, a subject of a family, or a text of the user's.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Name in results: `boolq`, `mmlu_anatomy`, `text_notes`.
    pub name: String,
    /// The row of the table.
    pub task: &'static dyn Task,
    /// Member of the family.
    pub subject: Option<String>,
    /// The user's text.
    pub file: Option<PathBuf>,
}

impl Leaf {
    /// Name in tables.
    #[must_use]
    pub fn alias(&self) -> &str {
        let own = Some(self.task.about().alias).filter(|alias| !alias.is_empty());
        self.subject.as_deref().or(own).unwrap_or(&self.name)
    }
}

/// Tasks that are averaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Name in results.
    pub name: String,
    /// Name in tables.
    pub alias: String,
    /// Names of its groups or tasks.
    pub children: Vec<String>,
    /// Positions of all its tasks among the leaves.
    pub leaves: Vec<usize>,
    /// What is averaged.
    pub aggregates: Vec<Aggregate>,
    /// Version of its definition.
    pub version: String,
}

/// A metric that is averaged over the tasks of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Name of the metric.
    pub metric: String,
    /// Filters, each of which is averaged by itself; those that the tasks have when absent.
    pub filters: Option<Vec<String>>,
    /// Whether a task counts by its questions, or as one.
    pub weight_by_size: bool,
}

/// What is to be run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Tasks, each once, in the order they were asked for.
    pub leaves: Vec<Leaf>,
    /// Groups, children before their parents.
    pub groups: Vec<Group>,
    /// Texts that were asked for more than once and are run once, as they were written.
    pub repeated: Vec<PathBuf>,
    /// Names of the table that files of the user's define otherwise.
    pub replaced: Vec<String>,
}

/// Every name there is, for help and completions.
#[must_use]
pub(crate) fn task_names() -> Vec<String> {
    let groups = Category::ALL.iter().map(|category| category.group().to_owned());
    let subjects = SUBJECTS.iter().map(|(subject, _)| format!("mmlu_{subject}"));
    let own = OWN.names().map(str::to_owned);
    TASKS.iter().map(|task| task.about().name.to_owned()).chain(groups).chain(subjects).chain(own).collect()
}

/// Resolves `names`. `local` are the subjects a local folder has: with subjects of the user's own there, `mmlu` means
/// all of those; otherwise it means the 57.
///
/// # Errors
/// A name that is no task, or none at all.
pub fn select(names: &[String], local: &[String]) -> Result<Selection> {
    select_with(names, local, &TaskFiles::default())
}

/// The same with names that `files` define, which stand before those of the table.
///
/// # Errors
/// As [`select`]; Request: what is wrong with a file that is asked for.
pub fn select_with(names: &[String], local: &[String], files: &TaskFiles) -> Result<Selection> {
    let mut selection = Selection::default();
    for name in names.iter().map(|name| name.trim()) {
        let mut adder =
            Adder { files, selection: &mut selection, other: &|selection, name| selection.any(name, local) };
        if !adder.knows(name) {
            selection.any(name, local).map_err(|error| with_files(error, name, files))?;
            continue;
        }
        adder.add(name)?;
        if task_names().iter().any(|known| known == name) {
            selection.replaced.push(name.to_owned());
        }
    }
    selection.name_texts();
    if selection.leaves.is_empty() {
        return Err(Error::request("--tasks: name at least one task, such as mmlu or boolq"));
    }
    Ok(selection)
}

impl Selection {
    /// One task, in the table or not.
    #[must_use]
    pub fn of(task: &'static dyn Task) -> Self {
        let mut selection = Self::default();
        selection.task(task);
        selection
    }

    /// Adds a name of prune's own.
    fn any(&mut self, name: &str, local: &[String]) -> Result<()> {
        let mut adder = Adder { files: &OWN, selection: self, other: &|selection, name| selection.add(name, local) };
        if adder.knows(name) { adder.add(name) } else { self.add(name, local) }
    }

    fn add(&mut self, name: &str, local: &[String]) -> Result<()> {
        if let Some(path) = name.strip_prefix("text:") {
            let path = PathBuf::from(path);
            // the file's identity is a name that no other has until all texts are known
            let name = format!("text:{}", text_names::identity(&path).display());
            match self.leaves.iter().any(|known| known.name == name) {
                true => self.repeated.push(path),
                false => drop(self.leaf(Leaf { name, task: TEXT, subject: None, file: Some(path) })),
            }
            return Ok(());
        }
        let is_of = |task: &&&dyn Task| task.about().config == Config::Subject && in_family(name, task.about().name);
        if let Some(task) = TASKS.iter().find(is_of) {
            return self.family(*task, name, local);
        }
        self.task(named(name).ok_or_else(|| unknown(name))?);
        Ok(())
    }

    /// Adds a task that is no family.
    fn task(&mut self, task: &'static dyn Task) {
        self.leaf(Leaf { name: task.about().name.to_owned(), task, subject: None, file: None });
    }

    fn name_texts(&mut self) {
        let mut texts: Vec<&mut Leaf> = self.leaves.iter_mut().filter(|leaf| leaf.file.is_some()).collect();
        let files: Vec<PathBuf> =
            texts.iter().flat_map(|leaf| &leaf.file).map(|file| text_names::identity(file)).collect();
        let names = text_names::names(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        texts.iter_mut().zip(names).for_each(|(leaf, name)| leaf.name = name);
    }

    fn family(&mut self, task: &'static dyn Task, name: &str, local: &[String]) -> Result<()> {
        let own = local.iter().any(|subject| subjects::category(subject).is_none());
        let family = task.about().name;
        if name == family && own {
            let leaves: Vec<usize> = local.iter().map(|subject| self.subject(task, subject)).collect();
            self.of_family(name, name, leaves.iter().map(|leaf| self.leaves[*leaf].name.clone()).collect(), leaves);
        } else if name == family {
            let groups = Category::ALL.map(|category| self.category(task, category));
            let leaves = groups.iter().flatten().copied().collect();
            self.of_family(name, name, Category::ALL.map(|category| category.group().to_owned()).to_vec(), leaves);
        } else if let Some(category) = Category::ALL.iter().find(|category| category.group() == name) {
            self.category(task, *category);
        } else {
            let subject = &name[family.len() + 1..];
            if subjects::category(subject).is_none() && !local.iter().any(|known| known == subject) {
                return Err(unknown(name));
            }
            self.subject(task, subject);
        }
        Ok(())
    }

    fn category(&mut self, task: &'static dyn Task, category: Category) -> Vec<usize> {
        let members = SUBJECTS.iter().filter(|(_, of)| *of == category);
        let leaves: Vec<usize> = members.map(|(subject, _)| self.subject(task, subject)).collect();
        let children = leaves.iter().map(|leaf| self.leaves[*leaf].name.clone()).collect();
        self.of_family(category.group(), category.alias(), children, leaves.clone());
        leaves
    }

    fn subject(&mut self, task: &'static dyn Task, subject: &str) -> usize {
        let name = format!("{}_{subject}", task.about().name);
        self.leaf(Leaf { name, task, subject: Some(subject.to_owned()), file: None })
    }

    pub(super) fn leaf(&mut self, leaf: Leaf) -> usize {
        if let Some(index) = self.leaves.iter().position(|known| known.name == leaf.name) {
            return index;
        }
        self.leaves.push(leaf);
        self.leaves.len() - 1
    }

    /// A group of a family, whose accuracy is averaged.
    fn of_family(&mut self, name: &str, alias: &str, children: Vec<String>, leaves: Vec<usize>) {
        let aggregate = Aggregate { metric: "acc".to_owned(), filters: None, weight_by_size: true };
        let (name, alias, version) = (name.to_owned(), alias.to_owned(), "2".to_owned());
        self.group(Group { name, alias, children, leaves, aggregates: vec![aggregate], version });
    }

    pub(super) fn group(&mut self, group: Group) {
        if !self.groups.iter().any(|known| known.name == group.name) {
            self.groups.push(group);
        }
    }
}

/// What is wrong with a name that is neither in the table nor in a file that could be read.
fn with_files(error: Error, name: &str, files: &TaskFiles) -> Error {
    let near: Vec<&str> = files.names().filter(|known| strsim::levenshtein(name, known) <= 2).collect();
    error.reworded(|fault| match (near.is_empty(), files.broken()) {
        (false, _) => format!("--tasks: there is no task {name:?}; did you mean {}?", near.join(" or ")),
        (true, Some(broken)) => format!("{fault}; a file of --include-path could not be read: {broken}"),
        (true, None) if files.names().next().is_some() => {
            format!("{fault}; --include-path has {}", files.names().take(20).collect::<Vec<_>>().join(", "))
        }
        _ => fault,
    })
}

fn in_family(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || (rest.starts_with('_') && rest.len() > 1))
}

fn unknown(name: &str) -> Error {
    let near = task_names().into_iter().filter(|known| strsim::levenshtein(name, known) <= 2).collect::<Vec<_>>();
    let hint = if near.is_empty() {
        let names: Vec<&str> = TASKS.iter().map(|task| task.about().name).collect();
        let groups = "mmlu_pro, bbh_fewshot, bbh_zeroshot, bbh_cot_fewshot, bbh_cot_zeroshot, nq_open, triviaqa";
        format!("there are {}, {groups}, mmlu_<subject> and text:FILE", names.join(", "))
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    Error::request(format!("--tasks: there is no task {name:?}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn mmlu_is_57_subjects_in_four_groups() {
        let selection = select(&names(&["mmlu", "boolq", "mmlu_anatomy"]), &[]).unwrap();
        assert_eq!(selection.leaves.len(), 58);
        let groups: Vec<_> = selection.groups.iter().map(|group| (group.name.as_str(), group.leaves.len())).collect();
        let expected = [
            ("mmlu_stem", 19),
            ("mmlu_other", 13),
            ("mmlu_social_sciences", 12),
            ("mmlu_humanities", 13),
            ("mmlu", 57),
        ];
        assert_eq!(groups, expected);
        assert_eq!(selection.leaves[0].name, "mmlu_abstract_algebra");
        assert_eq!(selection.leaves[0].alias(), "abstract_algebra");
    }

    #[test]
    fn subjects_of_ones_own() {
        let local = names(&["astronomy", "queens"]);
        let selection = select(&names(&["mmlu"]), &local).unwrap();
        assert_eq!(selection.groups[0].children, ["mmlu_astronomy", "mmlu_queens"]);
        assert_eq!(select(&names(&["mmlu_queens"]), &local).unwrap().leaves.len(), 1);
        assert_eq!(select(&names(&["mmlu"]), &names(&["astronomy"])).unwrap().leaves.len(), 57);
    }

    #[test]
    fn texts_are_named_after_their_files() {
        let selection = select(&names(&["text:a/my notes.jsonl.gz"]), &[]).unwrap();
        assert_eq!(selection.leaves[0].name, "text_my-notes");
        let selection =
            select(&names(&["text:a/v.jsonl", "boolq", "text:b/v.jsonl", "text:./a/v.jsonl"]), &[]).unwrap();
        let found: Vec<&str> = selection.leaves.iter().map(|leaf| leaf.name.as_str()).collect();
        assert_eq!(found, ["text_a-v", "boolq", "text_b-v"]);
        assert_eq!(selection.repeated, [PathBuf::from("./a/v.jsonl")]);
    }

    #[test]
    fn unknown_names_are_refused() {
        let error = |name: &str| select(&names(&[name]), &[]).unwrap_err();
        assert!(error("bolq").to_string().contains("did you mean boolq?"));
        assert!(error("mmlu_anatomi").to_string().contains("mmlu_anatomy"));
        assert!(error("lambada").to_string().contains("hellaswag"));
        assert_eq!(select(&[], &[]).unwrap_err().exit_code(), 2);
    }
}
