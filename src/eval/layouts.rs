//! Where the splits of a data set lie in a folder or a hub repository: every layout people have.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::tasks::{About, Config};
use crate::data;

/// Files of one split, in order, and whether they hold other subjects' rows too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) files: Vec<String>,
    /// Rows of other subjects are to be left out.
    pub(super) mixed: bool,
}

/// Finds the files of `split` among `paths` (relative, `/` between parts). `subject` is the family member's.
pub(super) fn find(paths: &[String], task: &About, subject: Option<&str>, split: &str) -> Option<Found> {
    let found = |files: Vec<String>, mixed| (!files.is_empty()).then_some(Found { files, mixed });
    for root in roots(task) {
        let inside: Vec<&str> = paths.iter().filter_map(|path| path.strip_prefix(&root)).collect();
        let full = |files: Vec<&str>| files.into_iter().map(|file| format!("{root}{file}")).collect();
        if let Some(file) = task.file.filter(|file| split == task.split && inside.contains(file)) {
            return found(full(vec![file]), false);
        }
        let part = match task.config {
            Config::None => None,
            Config::Named(name) => Some(name),
            Config::Subject => subject,
        };
        for alias in aliases(task, split) {
            for folder in folders(task, part) {
                let files = split_files(&inside, &folder, alias, part, task.name);
                if !files.is_empty() {
                    return found(full(files), false);
                }
            }
            if subject.is_some() {
                let files = split_files(&inside, "all/", alias, None, task.name);
                if !files.is_empty() {
                    return found(full(files), true);
                }
            }
        }
    }
    None
}

/// Subjects that `paths` hold both splits of, in alphabetical order.
pub(super) fn subjects(paths: &[String], task: &About) -> Vec<String> {
    for root in roots(task) {
        let inside: Vec<&str> = paths.iter().filter_map(|path| path.strip_prefix(&root)).collect();
        let examples = named(&inside, task.shots_split);
        let mut subjects = named(&inside, task.split);
        subjects.retain(|subject| examples.contains(subject));
        if !subjects.is_empty() {
            return subjects.into_iter().map(str::to_owned).collect();
        }
    }
    Vec::new()
}

/// Subjects in `dev/anatomy_dev.csv` or `anatomy_dev.jsonl`, and in `anatomy/dev.jsonl` or `anatomy/dev-00000-of-…`.
fn named<'a>(paths: &[&'a str], split: &str) -> BTreeSet<&'a str> {
    let subject = |path: &&'a str| {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (stem, _) = file.split_once('.')?;
        let whole = stem == split || shard_of(file, split).is_some();
        if whole { folder.rsplit('/').next() } else { stem.strip_suffix(split)?.strip_suffix('_') }
    };
    paths.iter().filter_map(subject).filter(|subject| !matches!(*subject, "" | "all" | "data" | "mmlu")).collect()
}

/// Folders a data set may be in, below the one that was given: the task's own, the hub's names, or that folder itself.
fn roots(task: &About) -> Vec<String> {
    let name = task.dataset.rsplit('/').next().unwrap_or_default();
    let mut roots = vec![format!("{}/", task.name), format!("{}/", task.dataset), format!("{name}/"), String::new()];
    roots.dedup();
    roots
}

/// Names a split goes by.
fn aliases<'a>(task: &About, split: &'a str) -> Vec<&'a str> {
    match split {
        // MMLU's dev split is another one than its validation split
        "validation" if task.config == Config::Subject => vec!["validation", "val"],
        "validation" => vec!["validation", "valid", "val", "dev"],
        other => vec![other],
    }
}

fn folders(task: &About, part: Option<&str>) -> Vec<String> {
    let own = part.into_iter().flat_map(|part| [format!("{part}/"), format!("data/{part}/")]);
    let shared = [String::new(), "data/".to_owned()];
    // a split file at the top is no subject's
    own.chain(shared.into_iter().filter(|_| task.config != Config::Subject)).collect()
}

/// Shards `folder/split-00000-of-00001.parquet`, or one file `folder/split.*`, or one that has the part's or the
/// task's name in front: `split/part_split.*`, `part_split.*`.
fn split_files<'a>(paths: &[&'a str], folder: &str, split: &str, part: Option<&str>, task: &str) -> Vec<&'a str> {
    let mut shards: Vec<&str> = paths
        .iter()
        .copied()
        .filter(|path| path.strip_prefix(folder).is_some_and(|file| shard_of(file, split).is_some()))
        .collect();
    if !shards.is_empty() {
        shards.sort_unstable();
        return shards;
    }
    let mut stems = vec![format!("{folder}{split}")];
    for name in part.into_iter().chain([task]) {
        stems.push(format!("{split}/{name}_{split}"));
        stems.push(format!("data/{split}/{name}_{split}"));
        stems.push(format!("{name}_{split}"));
        stems.push(format!("{name}-{split}"));
    }
    let mut files = stems.iter().flat_map(|stem| ENDINGS.iter().map(move |ending| format!("{stem}.{ending}")));
    files.find_map(|file| paths.iter().copied().find(|path| **path == file)).into_iter().collect()
}

static ENDINGS: LazyLock<Vec<String>> = LazyLock::new(data::endings);

/// The number of a shard: `validation-00000-of-00002.parquet`.
fn shard_of<'a>(file: &'a str, split: &str) -> Option<&'a str> {
    let rest = file.strip_prefix(split)?.strip_prefix('-')?;
    let (number, rest) = rest.split_once("-of-")?;
    let (count, ending) = rest.split_once('.')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(number) && digits(count) && ENDINGS.iter().any(|known| known == ending)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::tasks::named as task_named;

    fn task(name: &str) -> &'static About {
        task_named(name).unwrap().about()
    }

    fn first(paths: &[&str], name: &str, subject: Option<&str>, split: &str) -> Option<String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        find(&paths, task(name), subject, split)
            .map(|found| found.files.join(" ") + if found.mixed { " mixed" } else { "" })
    }

    #[test]
    fn every_layout_of_mmlu() {
        for (path, split) in [
            ("anatomy/test-00000-of-00001.parquet", "test"),
            ("mmlu/anatomy/dev-00000-of-00001.parquet", "dev"),
            ("test/anatomy_test.csv", "test"),
            ("data/dev/anatomy_dev.csv", "dev"),
            ("val/anatomy_val.csv", "validation"),
            ("anatomy/dev.jsonl", "dev"),
            ("mmlu/anatomy_test.jsonl", "test"),
            ("cais/mmlu/anatomy/validation.json", "validation"),
        ] {
            assert_eq!(first(&[path, "test/other_test.csv"], "mmlu", Some("anatomy"), split).as_deref(), Some(path));
        }
        let all = first(&["all/test-00000-of-00001.parquet"], "mmlu", Some("anatomy"), "test");
        assert_eq!(all.as_deref(), Some("all/test-00000-of-00001.parquet mixed"));
        assert_eq!(first(&["test.jsonl", "val/anatomy_val.csv"], "mmlu", Some("anatomy"), "test"), None);
        assert_eq!(first(&["anatomy/dev.jsonl"], "mmlu", Some("anatomy"), "validation"), None);
    }

    #[test]
    fn layouts_of_the_others() {
        for (path, name) in [
            ("boolq/validation.jsonl", "boolq"),
            ("boolq/validation-00000-of-00001.parquet", "boolq"),
            ("val.jsonl", "boolq"),
            ("dev.jsonl", "boolq"),
            ("boolq_validation.jsonl", "boolq"),
            ("data/validation-00000-of-00001.parquet", "hellaswag"),
            ("hellaswag_val.jsonl", "hellaswag"),
            ("hellaswag_val.jsonl.zst", "hellaswag"),
            ("data/validation-00000-of-00002.json.xz", "hellaswag"),
            ("boolq/dev.jsonl.bz2", "boolq"),
            ("ai2_arc/ARC-Easy/validation-00000-of-00001.parquet", "arc_easy"),
            ("winogrande_xl/validation.csv", "winogrande"),
            ("en/c4-validation.00000-of-00008.json.gz", "c4"),
            ("c4/validation.jsonl", "c4"),
        ] {
            assert_eq!(first(&[path], name, None, "validation").as_deref(), Some(path), "{name}");
        }
        let shards = ["data/validation-00001-of-00002.parquet", "data/validation-00000-of-00002.parquet"];
        let found = first(&shards, "piqa", None, "validation").unwrap();
        assert_eq!(found, "data/validation-00000-of-00002.parquet data/validation-00001-of-00002.parquet");
        assert_eq!(first(&["piqa/validation.jsonl"], "hellaswag", None, "validation"), None);
    }

    #[test]
    fn subjects_that_are_there() {
        let check = |paths: &[&str], expected: &[&str]| {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(subjects(&paths, task("mmlu")), expected);
        };
        let csv = ["test/music_test.csv", "dev/music_dev.csv", "test/art_test.csv", "dev/art_dev.csv", "dev/x_dev.csv"];
        check(&csv, &["art", "music"]);
        check(&["mmlu/a/test-00000-of-00001.parquet", "mmlu/a/dev.jsonl", "boolq/test.jsonl"], &["a"]);
        check(&["arc/test.jsonl", "mmlu/all/test-00000-of-00001.parquet"], &[]);
    }
}
