//! A directory as text: which of its files are data, and which of those are meant. The rules are those of Hugging
//! Face's `datasets` (`data_files.py`, `load.py`), so that a clone of a hub data set gives what `load_dataset` gives.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::find::Purpose;
use super::rows::{self, format_rank};
use crate::{Error, Result, interrupt};

/// Levels of folders that are looked into.
const DEPTH: usize = 8;

/// Files that a folder of data has at most.
const MANY: usize = 100_000;

/// Files that describe data, named like data.
const DESCRIPTIONS: [&str; 6] =
    ["config.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json", "metadata.json", "state.json"];

/// Part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Split {
    Train,
    Validation,
    Test,
}

/// The words in names that tell a split.
const WORDS: [(Split, &[&str]); 3] = [
    (Split::Train, &["train", "training"]),
    (Split::Validation, &["validation", "valid", "dev", "val"]),
    (Split::Test, &["test", "testing", "eval", "evaluation"]),
];

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// The split that a path (`/` between parts) names: in the file's name, or else in that of a folder.
    fn of(path: &str) -> Option<Self> {
        path.rsplit('/').find_map(|part| {
            let part = part.to_ascii_lowercase();
            let mut words = part.split(|c: char| !c.is_alphabetic());
            words.find_map(|word| WORDS.iter().find(|(_, words)| words.contains(&word)).map(|(split, _)| *split))
        })
    }

    /// Which splits serve a purpose, the best first; `None` are files whose names tell none.
    fn wanted(purpose: Purpose) -> [Option<Self>; 4] {
        let (train, validation, test) = (Some(Self::Train), Some(Self::Validation), Some(Self::Test));
        match purpose {
            Purpose::Train => [train, None, validation, test],
            Purpose::Measure => [validation, test, None, train],
        }
    }
}

/// Names of the files below `root`, sorted, `/` between folders; what begins with a dot or two underscores is left out.
///
/// # Errors
/// A folder that cannot be read, or one with too many files to be one of data.
pub(crate) fn names_below(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut above = Vec::new();
    walk(root, "", &mut above, &mut names)?;
    names.sort();
    Ok(names)
}

fn walk(root: &Path, below: &str, above: &mut Vec<PathBuf>, names: &mut Vec<String>) -> Result<()> {
    let folder = if below.is_empty() { root.to_owned() } else { root.join(below) };
    let io = |error: std::io::Error| Error::io(&folder, &error);
    // a link counts as what it points to, but not if that is where one came from
    let real = folder.canonicalize().map_err(io)?;
    if above.contains(&real) || above.len() > DEPTH {
        return Ok(());
    }
    above.push(real);
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        interrupt::check()?;
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name.starts_with("__") {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.path().is_dir() {
            walk(root, &path, above, names)?;
        } else {
            names.push(path);
        }
        if names.len() > MANY {
            let root = root.display();
            return Err(Error::request(format!("{root}: more than {MANY} files, is it the right folder?")));
        }
    }
    above.pop();
    Ok(())
}

/// Files of a directory.
#[derive(Debug)]
pub(super) struct Chosen {
    /// In the order in which they are read.
    pub(super) files: Vec<PathBuf>,
    /// Which they are, if not all of the data.
    pub(super) note: Option<String>,
}

/// The data in `directory` for `purpose`: of the split that its files' or folders' names tell, and of these the format
/// that most of them have.
///
/// # Errors
/// [`Error::Request`] for a directory without data.
pub(super) fn choose(directory: &Path, purpose: Purpose) -> Result<Chosen> {
    let names = names_below(directory)?;
    // its configuration would be read as text
    if names.iter().any(|name| name == "config.json") && names.iter().any(|name| name.ends_with(".safetensors")) {
        let directory = directory.display();
        return Err(Error::request(format!("{directory}: holds a model, expected text: a file, or a folder of such")));
    }
    let described = |name: &&String| DESCRIPTIONS.contains(&name.rsplit('/').next().unwrap_or_default());
    let data: Vec<&String> =
        names.iter().filter(|name| rows::is_data_file(Path::new(name)) && !described(name)).collect();
    let splits: Vec<Option<Split>> = data.iter().map(|name| Split::of(name)).collect();
    let Some(split) = Split::wanted(purpose).into_iter().find(|split| splits.contains(split)) else {
        return Err(nothing(directory, &names));
    };
    let of_split: Vec<&String> =
        data.iter().zip(&splits).filter(|(_, own)| **own == split).map(|(name, _)| *name).collect();
    let mut formats: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for name in &of_split {
        formats.entry(format_rank(Path::new(name))).or_default().push(name);
    }
    // of formats with equally many files the first of the table
    let most = formats.values().rev().max_by_key(|names| names.len()).cloned().unwrap_or_default();
    let note = (most.len() < data.len()).then(|| {
        let which = match split {
            Some(split) if of_split.len() < data.len() => format!("the {} split", split.name()),
            None if of_split.len() < data.len() => "those whose names tell no split".to_owned(),
            _ => "those of the format that most have".to_owned(),
        };
        let (read, all, first) = (most.len(), data.len(), most.first().map_or("", |name| name.as_str()));
        let more = if read > 1 { " ..." } else { "" };
        format!("{}: {read} of {all} data files are read, {which}: {first}{more}", directory.display())
    });
    Ok(Chosen { files: most.into_iter().map(|name| directory.join(name)).collect(), note })
}

fn nothing(directory: &Path, names: &[String]) -> Error {
    let place = directory.display();
    let arrow = names.iter().find(|name| name.ends_with(".arrow"));
    Error::request(match arrow {
        Some(arrow) => {
            format!("{place}: {arrow} is an Arrow file, which is not read; Dataset.to_parquet writes one that is")
        }
        None => format!("{place}: no data file in this directory, expected {}", rows::known_endings()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        directory
    }

    /// The files chosen, relative to the directory, and whether something is said.
    fn chosen(names: &[&str], purpose: Purpose) -> (Vec<String>, bool) {
        let directory = directory(names);
        let chosen = choose(directory.path(), purpose).unwrap();
        let relative = |path: &PathBuf| path.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_owned();
        (chosen.files.iter().map(relative).collect(), chosen.note.is_some())
    }

    #[test]
    fn a_clone_of_a_hub_data_set() {
        let clone = [
            "README.md",
            ".gitattributes",
            ".git/objects/pack/x.json",
            ".cache/huggingface/download/data/train.jsonl",
            "__pycache__/x.json",
            "dataset_infos.json",
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/validation-00000-of-00001.parquet",
        ];
        let train = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
        assert_eq!(chosen(&clone, Purpose::Train), (train.map(str::to_owned).to_vec(), true));
        assert_eq!(chosen(&clone, Purpose::Measure), (vec!["data/validation-00000-of-00001.parquet".to_owned()], true));
        assert_eq!(chosen(&["en/x/train.jsonl", "dataset_info.json"], Purpose::Train).0, ["en/x/train.jsonl"]);
    }

    #[test]
    fn splits_by_the_names_of_files_and_folders() {
        let splits = |path: &str| Split::of(path);
        for name in
            ["train.json", "c4-train.00000-of-01024.json.gz", "wiki.train.raw", "my_TRAIN2.jsonl", "train/a.txt"]
        {
            assert_eq!(splits(name), Some(Split::Train), "{name}");
        }
        for name in ["dev-v2.0.json", "val.jsonl", "x/valid/000.parquet", "squad/validation.csv"] {
            assert_eq!(splits(name), Some(Split::Validation), "{name}");
        }
        for name in ["strain.json", "latest.jsonl", "contest.txt", "trains.json", "a/b.jsonl"] {
            assert_eq!(splits(name), None, "{name}");
        }
        assert_eq!(splits("train/test.jsonl"), Some(Split::Test));
    }

    #[test]
    fn what_stands_in_for_a_split_that_is_not_there() {
        let all = |names: &[&str], purpose| chosen(names, purpose).0;
        assert_eq!(all(&["a.jsonl", "test.jsonl"], Purpose::Train), ["a.jsonl"]);
        assert_eq!(all(&["a.jsonl", "test.jsonl"], Purpose::Measure), ["test.jsonl"]);
        assert_eq!(all(&["test.jsonl"], Purpose::Train), ["test.jsonl"]);
        assert_eq!(
            chosen(&["b/train.jsonl", "a.d/train.jsonl"], Purpose::Measure).0,
            ["a.d/train.jsonl", "b/train.jsonl"]
        );
        assert!(!chosen(&["b.jsonl", "a.json", "c.jsonl.zst"], Purpose::Measure).1);
    }

    #[test]
    fn of_several_formats_the_one_that_most_files_have() {
        let all = |names: &[&str]| chosen(names, Purpose::Train);
        assert_eq!(all(&["a.txt", "b.jsonl", "c.txt"]), (vec!["a.txt".to_owned(), "c.txt".to_owned()], true));
        assert_eq!(all(&["a.txt", "b.jsonl"]).0, ["b.jsonl"]);
        assert_eq!(all(&["a.jsonl", "b.parquet", "requirements.txt"]).0, ["b.parquet"]);
        assert_eq!(all(&["data/train-0.parquet", "a.txt", "b.txt"]).0, ["data/train-0.parquet"]);
    }

    #[test]
    fn a_directory_without_data_says_so() {
        let error = |names: &[&str]| choose(directory(names).path(), Purpose::Train).unwrap_err();
        assert!(error(&["README.md", "dataset_info.json"]).to_string().contains("no data file"));
        assert!(error(&["data-00000-of-00001.arrow", "state.json"]).to_string().contains("to_parquet"));
        assert_eq!(error(&[]).exit_code(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_folder_above_is_not_followed_round() {
        let directory = directory(&["a/x.jsonl"]);
        std::os::unix::fs::symlink(directory.path(), directory.path().join("a/up")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("a"), directory.path().join("b")).unwrap();
        assert_eq!(names_below(directory.path()).unwrap(), ["a/x.jsonl", "b/x.jsonl"]);
    }
}
