//! Names of the user's own texts: as short as tells them apart.

use std::path::{Component, Path, PathBuf};

/// Endings that say how a file is stored, not what it is.
const STORED: [&str; 13] =
    ["jsonl", "ndjson", "json", "parquet", "csv", "tsv", "txt", "raw", "gz", "zst", "bz2", "xz", "lz4"];

/// A name for each of `files`, which are different ones: `text_wiki`, or where two would be called that
/// `text_wiki-test`, `text_wiki-json`, `text_b-wiki`, with as many directories as it takes.
pub(super) fn names(files: &[&Path]) -> Vec<String> {
    let mut levels = vec![0; files.len()];
    loop {
        let names: Vec<String> = files.iter().zip(&levels).map(|(file, level)| name(file, *level)).collect();
        let is_taken = |index: usize| names.iter().filter(|other| **other == names[index]).count() > 1;
        let taken: Vec<usize> = (0..files.len()).filter(|index| is_taken(*index)).collect();
        if taken.is_empty() {
            return names;
        }
        if taken.iter().all(|index| levels[*index] > deepest(files[*index])) {
            return numbered(names);
        }
        taken.into_iter().for_each(|index| levels[index] += 1);
    }
}

/// What is left of equal names differs in signs that names do not have.
fn numbered(names: Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in &names {
        let ways = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
        let is_free = |way: &String| !all.contains(way) && (way == name || !names.contains(way));
        all.extend(ways.into_iter().find(is_free));
    }
    all
}

/// Directories above a file.
fn above(file: &Path) -> Vec<String> {
    let parent = file.parent().into_iter().flat_map(Path::components);
    let named = parent.filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    named.collect()
}

/// Level beyond which a name grows no longer.
fn deepest(file: &Path) -> usize {
    2 + above(file).len()
}

/// The name of `file` at a level: up to its first dot, without its endings, with them, and then with one directory more
/// each time.
fn name(file: &Path, level: usize) -> String {
    let whole = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut bare = whole.as_str();
    while let Some((rest, ending)) = bare.rsplit_once('.')
        && !rest.is_empty()
        && STORED.contains(&ending.to_lowercase().as_str())
    {
        bare = rest;
    }
    let own = match level {
        0 => whole.split('.').next().unwrap_or_default(),
        2 => whole.as_str(),
        _ => bare,
    };
    let above = above(file);
    let mut parts = above[above.len().saturating_sub(level.saturating_sub(2))..].to_vec();
    parts.push(own.to_owned());
    let plain: String = parts.join("-").chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    format!("text_{plain}")
}

/// What tells a file from others, however its path is written.
pub(super) fn identity(file: &Path) -> PathBuf {
    file.canonicalize().or_else(|_| std::path::absolute(file)).unwrap_or_else(|_| file.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(files: &[&str]) -> Vec<String> {
        names(&files.iter().map(Path::new).collect::<Vec<_>>())
    }

    #[test]
    fn as_short_as_tells_them_apart() {
        assert_eq!(named(&["/d/my notes.jsonl.gz"]), ["text_my-notes"]);
        assert_eq!(named(&["/a/validation.jsonl", "/b/validation.jsonl"]), ["text_a-validation", "text_b-validation"]);
        assert_eq!(named(&["/d/wiki.test.raw", "/d/wiki.valid.raw"]), ["text_wiki-test", "text_wiki-valid"]);
        assert_eq!(named(&["/d/wiki.jsonl", "/d/wiki.txt"]), ["text_wiki-jsonl", "text_wiki-txt"]);
        // only those that need it are longer
        assert_eq!(named(&["/x/a/t.txt", "/y/a/t.txt", "/y/other.txt"]), ["text_x-a-t", "text_y-a-t", "text_other"]);
        // a longer name may be another's short one
        let all = named(&["/a/t.txt", "/b/t.txt", "/c/a-t.txt"]);
        assert_eq!(all[1], "text_b-t");
        assert!(all[0] != all[2], "{all:?}");
        // names have no signs to tell these apart
        assert_eq!(named(&["/d/a b.txt", "/d/a-b.txt", "/d/a_b.txt"]), ["text_d-a-b", "text_d-a-b-2", "text_d-a-b-3"]);
    }

    #[test]
    fn one_file_by_two_paths() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("t.txt"), "t").unwrap();
        assert_eq!(identity(&dir.path().join("a/../t.txt")), identity(&dir.path().join("t.txt")));
    }
}
