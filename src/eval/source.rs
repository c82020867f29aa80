//! The rows of a task's splits: from a folder or file of the user's, or from the hub.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::defined::{Columns, TaskFiles, data_files};
use super::layouts;
use super::select::{Leaf, select_with};
use super::tasks::{About, Config, Release, TASKS};
use crate::checkpoint::{Dataset, Hub};
use crate::data::{ReadOptions, Row, TextSplit, is_of_format, names_below, rows_with};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Where data come from.
#[derive(Debug)]
pub enum TaskSource {
    /// A folder: its files, relative to it.
    Folder(PathBuf, Vec<String>),
    /// One file: the split that is scored.
    File(PathBuf),
    /// Each task's data set on the hub, or what the hub's cache has of it; those that were asked for are remembered.
    Hub(Box<Hub>, RefCell<BTreeMap<&'static str, Dataset>>),
}

/// Takes a row; whether it wants another one.
pub type Take<'a> = &'a mut dyn FnMut(Row) -> Result<bool>;

/// Bytes of files that are read to the end whatever the limit, so that it is known how many rows they have.
const SMALL: u64 = 64 << 20;

impl TaskSource {
    /// Data sets of `hub`.
    #[must_use]
    pub fn hub(hub: Hub) -> Self {
        Self::Hub(Box::new(hub), RefCell::default())
    }

    /// Data in `path`, a folder or a file.
    ///
    /// # Errors
    /// A path that is not there, or a folder with too many files to be one of data.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Ok(Self::File(path.to_owned()));
        }
        Ok(Self::Folder(path.to_owned(), names_below(path).context(|| "--data-dir")?))
    }

    /// Subjects of the families of tasks that are here.
    #[must_use]
    pub fn subjects(&self) -> Vec<String> {
        let Self::Folder(_, files) = self else { return Vec::new() };
        let families = TASKS.iter().map(|task| task.about()).filter(|about| about.config == Config::Subject);
        families.flat_map(|about| layouts::subjects(files, about)).collect()
    }

    /// Hands the rows of one split of `leaf` to `take`, one at a time, until that says that it has enough; `how` they
    /// are read: a text of the user's is cut into documents as that says.
    ///
    /// # Errors
    /// No such split (the subject named), a broken file, those of `take`.
    pub fn split(
        &self,
        leaf: &Leaf,
        split: &str,
        how: &ReadOptions,
        progress: &dyn Progress,
        take: Take<'_>,
    ) -> Result<()> {
        let (files, mixed) = self.files(leaf, split, progress)?;
        let subject = leaf.subject.as_deref().filter(|_| mixed);
        let only = leaf.task.about().only;
        let is_of_task =
            |row: &Row| only.is_none_or(|(field, text)| row.fields.get(field).and_then(Value::as_str) == Some(text));
        let is_asked = |row: &Row| {
            subject.is_none_or(|subject| row.fields.get("subject").and_then(Value::as_str) == Some(subject))
        };
        let typed = match leaf.task.about().local.is_empty() {
            true => Columns::default(),
            false => Columns::of(&files, how)?,
        };
        let mut is_empty = true;
        for file in &files {
            let more = read(leaf, file, how, &mut |mut row| {
                typed.typed(&mut row.fields);
                if !is_asked(&row) || !is_of_task(&row) {
                    return Ok(true);
                }
                is_empty = false;
                take(row)
            })?;
            if !more {
                return Ok(());
            }
        }
        if is_empty {
            let shown: Vec<String> = files.iter().take(3).map(|file| file.display().to_string()).collect();
            let more = if files.len() > 3 { ", ..." } else { "" };
            return Err(Error::work(format!("{}{more}: no rows for {}", shown.join(", "), leaf.name)));
        }
        Ok(())
    }

    /// Whether the files of one split of `leaf` are so small that their rows are counted in no time.
    ///
    /// # Errors
    /// No such split (the subject named).
    pub(crate) fn is_small(&self, leaf: &Leaf, split: &str, progress: &dyn Progress) -> Result<bool> {
        let (files, _) = self.files(leaf, split, progress)?;
        let length = |file: &PathBuf| std::fs::metadata(file).map_or(u64::MAX, |metadata| metadata.len());
        Ok(files.iter().map(length).fold(0, u64::saturating_add) <= SMALL)
    }

    fn files(&self, leaf: &Leaf, split: &str, progress: &dyn Progress) -> Result<(Vec<PathBuf>, bool)> {
        if let Some(file) = &leaf.file {
            return Ok((vec![file.clone()], false));
        }
        let local = leaf.task.about().local;
        if let Some(files) = local.iter().find(|files| files.split == split).filter(|_| !matches!(self, Self::File(_)))
        {
            let folder = if let Self::Folder(folder, _) = self { Some(folder.as_path()) } else { None };
            return Ok((data_files(files, folder).context(|| leaf.name.clone())?, false));
        }
        match self {
            Self::File(_) | Self::Hub(..) if !local.is_empty() && split != leaf.task.about().split => {
                Err(Error::request(format!("{}: its data_files have no split {split}", leaf.name)))
            }
            Self::Folder(folder, files) => {
                let subject = leaf.subject.as_deref();
                let found = layouts::find(files, leaf.task.about(), subject, split);
                let found = found.ok_or_else(|| missing(leaf, split, &folder.display().to_string()))?;
                Ok((found.files.iter().map(|file| folder.join(file)).collect(), found.mixed))
            }
            Self::File(file) if split == leaf.task.about().split => Ok((vec![file.clone()], false)),
            Self::File(file) => Err(missing(leaf, split, &file.display().to_string())),
            Self::Hub(hub, known) => {
                let folder = |fault| format!("{fault}; --data-dir names a folder here that has the tasks' data");
                let found = on_hub(hub, known, leaf, split, progress).map_err(|error| error.reworded(folder));
                let (dataset, found) = found?;
                let found = found.ok_or_else(|| missing(leaf, split, leaf.task.about().dataset))?;
                Ok((hub.dataset_files(&dataset, &found.files, progress)?, found.mixed))
            }
        }
    }
}

/// The data set of `leaf`, asked for once, and the files of its split, if it has that.
fn on_hub(
    hub: &Hub,
    known: &RefCell<BTreeMap<&'static str, Dataset>>,
    leaf: &Leaf,
    split: &str,
    progress: &dyn Progress,
) -> Result<(Dataset, Option<layouts::Found>)> {
    let id = leaf.task.about().dataset;
    if !known.borrow().contains_key(id) {
        let dataset = hub.dataset(id, progress)?;
        known.borrow_mut().insert(id, dataset);
    }
    let dataset = known.borrow()[id].clone();
    let found = layouts::find(dataset.names(), leaf.task.about(), leaf.subject.as_deref(), split);
    Ok((dataset, found))
}

/// What the tasks called `names`, of `include_path` too, need of the hub to be scored there, with examples or without:
/// data sets and names of their files.
///
/// # Errors
/// Request: a name that is no task; a split that the data set does not have. Those of [`Hub::dataset`].
pub(crate) fn hub_files(
    hub: &Hub,
    names: &[String],
    include_path: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Vec<(Dataset, Vec<String>)>> {
    let known = RefCell::default();
    let mut all: BTreeMap<&'static str, (Dataset, Vec<String>)> = BTreeMap::new();
    let files = TaskFiles::open(include_path, names)?;
    for leaf in select_with(names, &[], &files)?.leaves {
        if !leaf.task.about().local.is_empty() {
            // its definition names files that are here
            continue;
        }
        if leaf.file.is_some() {
            return Err(Error::request(format!("{}: a text of one's own is not on the hub", leaf.name)));
        }
        let about = leaf.task.about();
        let About { dataset, split, shots_split, shots, .. } = *about;
        let has_examples = about.reads_examples();
        for (split, is_needed) in [(split, true), (shots_split, has_examples && shots > 0)] {
            let (files, found) = match on_hub(hub, &known, &leaf, split, progress)? {
                (files, Some(found)) if is_needed || has_examples => (files, found.files),
                (_, None) if is_needed => return Err(missing(&leaf, split, dataset)),
                _ => continue,
            };
            let (_, names) = all.entry(dataset).or_insert_with(|| (files, Vec::new()));
            names.extend(found);
        }
    }
    for (_, names) in all.values_mut() {
        names.sort();
        names.dedup();
    }
    Ok(all.into_values().collect())
}

fn missing(leaf: &Leaf, split: &str, place: &str) -> Error {
    let what = match &leaf.subject {
        Some(subject) => format!("the {split} split of subject {subject} ({})", leaf.name),
        None => format!("the {split} split of {}", leaf.name),
    };
    let looked = match &leaf.subject {
        Some(subject) => format!(
            "{subject}/{split}-00000-of-00001.parquet, {subject}/{split}.jsonl, {split}/{subject}_{split}.csv and the like"
        ),
        None => format!(
            "{split}-00000-of-00001.parquet, {split}.jsonl, {}_{split}.jsonl and the like",
            leaf.task.about().name
        ),
    };
    Error::request(format!("{place}: {what} is not there; looked for {looked}"))
}

/// Hands the rows of `file` to `take`, in the columns of the hub's data set; whether it wants more.
fn read(leaf: &Leaf, file: &Path, how: &ReadOptions, take: Take<'_>) -> Result<bool> {
    if let (Some(subject), Release::Columns(columns, hub_row), true) =
        (&leaf.subject, leaf.task.about().release, is_of_format(file, "csv"))
    {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        let options = ReadOptions { columns: Some(columns), ..how.clone() };
        for row in rows_with(file, &options)? {
            let mut row = row?;
            let header = row.fields.iter().all(|(name, value)| value.as_str() == Some(name));
            if !header {
                row.fields = hub_row(&row.fields, subject);
                if !take(row)? {
                    return Ok(false);
                }
            }
        }
        return Ok(true);
    }
    // the files of the hub's tasks are cut as the tasks say
    let split = if leaf.file.is_some() { how.split } else { TextSplit::default() };
    let has_blank_lines = split == TextSplit::Lines && is_of_format(file, "txt");
    for row in rows_with(file, &ReadOptions { split, ..how.clone() })? {
        let row = row?;
        if has_blank_lines && row.fields.values().all(|value| value.as_str().is_some_and(is_blank)) {
            continue;
        }
        let documents = match leaf.task.about().release {
            Release::Documents(documents) => documents(&row.fields),
            Release::Hub | Release::Columns(..) => None,
        };
        let Some(documents) = documents else {
            if !take(row)? {
                return Ok(false);
            }
            continue;
        };
        for fields in documents {
            if !take(Row { fields, place: row.place.clone() })? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}
