//! Where the rows of a task that a file defines lie.

use std::path::{Path, PathBuf};

use super::definition::{Definition, Key};
use super::read::{kept, name_of, nearest};
use super::yaml::Node;
use crate::data::names_below;
use crate::eval::layouts;
use crate::eval::tasks::{About, Config, LocalSplit};
use crate::{Error, Result};

/// Builders of `datasets` that read files.
const BUILDERS: [&str; 3] = ["json", "csv", "parquet"];

/// Splits that a task names, and its data set.
pub(super) struct Splits {
    pub(super) dataset: String,
    pub(super) name: Option<String>,
    /// The split that is scored.
    pub(super) scored: String,
    /// The test split, if there is one.
    pub(super) test: Option<String>,
    /// The split of the examples, if it is named.
    pub(super) examples_named: Option<String>,
    /// The split of the examples, named or not.
    pub(super) examples: String,
}

impl Splits {
    pub(super) fn new(definition: &Definition) -> Result<Self> {
        let text = |name: &str| definition.get(name).map(name_of).transpose();
        let (test, validation) = (text("test_split")?, text("validation_split")?);
        let training = text("training_split")?;
        let scored = test.clone().or_else(|| validation.clone());
        let scored = scored.ok_or_else(|| {
            definition.fault("neither test_split nor validation_split is there: which rows are scored?")
        })?;
        let of_shots = definition.get("fewshot_config").and_then(|key| key.value.get("split")).and_then(Node::text);
        let examples_named =
            of_shots.map(str::to_owned).map_or_else(|| text("fewshot_split"), |split| Ok(Some(split)))?;
        let fallback = training.or(validation).unwrap_or_else(|| scored.clone());
        let dataset = definition.get("dataset_path").map(name_of).transpose()?;
        Ok(Self {
            dataset: dataset.ok_or_else(|| definition.fault("dataset_path is missing: where are the rows?"))?,
            name: text("dataset_name")?,
            scored,
            test,
            examples: examples_named.clone().unwrap_or(fallback),
            examples_named,
        })
    }

    /// Files here that the splits are in; none where the data set is on the hub.
    pub(super) fn local(&self, definition: &Definition) -> Result<&'static [LocalSplit]> {
        let folder = definition.file.parent().unwrap_or(Path::new(""));
        let beside = kept(&folder.display().to_string());
        let settings = definition.get("dataset_kwargs");
        let mut files = None;
        for entry in settings.iter().flat_map(|key| key.value.entries().into_iter().flatten().map(move |it| (key, it)))
        {
            let (key, entry) = entry;
            match entry.key.as_str() {
                "data_files" => files = Some((*key, &entry.value)),
                // prune runs no code of data sets
                "trust_remote_code" => {}
                other => {
                    let near = nearest(other, ["data_files"].into_iter());
                    return Err(key.fault_at(entry.line, format!("{other} is not known here; {near}")));
                }
            }
        }
        let is_builder = BUILDERS.contains(&self.dataset.as_str());
        let Some((key, node)) = files else {
            if is_builder {
                return Err(definition.fault(format!(
                    "dataset_path {}: dataset_kwargs names no data_files, such as {{data_files: {{test: FILE}}}}",
                    self.dataset
                )));
            }
            return self.folder(folder, beside);
        };
        if !is_builder {
            let what = format!("data_files go with dataset_path {}, here it is {}", BUILDERS.join(", "), self.dataset);
            return Err(key.fault_at(node.line, what));
        }
        let mut all = Vec::new();
        match node.entries() {
            Some(entries) => {
                for entry in entries {
                    all.push(LocalSplit { split: kept(&entry.key), files: paths(key, &entry.value)?, beside });
                }
            }
            None => all.push(LocalSplit { split: "train", files: paths(key, node)?, beside }),
        }
        if !all.iter().any(|local| local.split == self.scored) {
            let known: Vec<&str> = all.iter().map(|local| local.split).collect();
            let what =
                format!("data_files have no split {}, which is scored; there are {}", self.scored, known.join(", "));
            return Err(key.fault_at(node.line, what));
        }
        Ok(all.leak())
    }

    /// `dataset_path` may be a folder here.
    fn folder(&self, folder: &Path, beside: &'static str) -> Result<&'static [LocalSplit]> {
        let places = [PathBuf::from(&self.dataset), folder.join(&self.dataset)];
        let Some(place) = places.iter().find(|place| place.is_dir()) else { return Ok(&[]) };
        let names = names_below(place)?;
        let config = self.name.as_deref().map_or(Config::None, |name| Config::Named(kept(name)));
        let about = About { name: kept(&self.dataset), config, ..About::CHOICE };
        let split = |split: &String| {
            let found = layouts::find(&names, &about, None, split)?;
            let files = found.files.iter().map(|file| kept(&place.join(file).display().to_string()));
            Some(LocalSplit { split: kept(split), files: files.collect::<Vec<_>>().leak(), beside })
        };
        let mut all: Vec<LocalSplit> = split(&self.scored).into_iter().collect();
        if all.is_empty() {
            let what = format!("dataset_path: {} has no files of the split {}", place.display(), self.scored);
            return Err(Error::request(what));
        }
        all.extend(split(&self.examples));
        Ok(all.leak())
    }
}

fn paths(key: &Key, node: &Node) -> Result<&'static [&'static str]> {
    let nodes = node.list().unwrap_or(std::slice::from_ref(node));
    let mut all = Vec::new();
    for node in nodes {
        let path = node.text().ok_or_else(|| key.fault_at(node.line, "data_files: expected paths of files"))?;
        if path.contains("://") {
            return Err(key.fault_at(node.line, format!("data_files: {path}: fetch the file and name its copy")));
        }
        all.push(kept(path));
    }
    Ok(all.leak())
}

/// The files of a split: each where the harness looks, in the working directory, or else in `folder`, or else beside
/// the definition.
///
/// # Errors
/// Request: one that is nowhere.
pub(in crate::eval) fn files(local: &LocalSplit, folder: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for file in local.files {
        let mut places = vec![PathBuf::from(file)];
        places.extend(folder.map(|folder| folder.join(file)));
        places.push(Path::new(local.beside).join(file));
        let found = places.iter().map(|place| matching(place)).find(|found| !found.is_empty());
        all.extend(found.ok_or_else(|| {
            let beside = if local.beside.is_empty() { "." } else { local.beside };
            Error::request(format!("data_files: there is no {file}, neither here nor in {beside}"))
        })?);
    }
    Ok(all)
}

/// The file, or those whose names a pattern matches, in order.
fn matching(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((before, rest)) = name.split_once('*') else {
        return Some(path.to_owned()).into_iter().filter(|path| path.is_file()).collect();
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let after = rest.trim_start_matches('*');
    let fits =
        |name: &str| name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after);
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| fits(name));
    let mut all: Vec<PathBuf> = named.map(|name| parent.join(name)).filter(|path| path.is_file()).collect();
    all.sort();
    all
}
