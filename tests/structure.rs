//! The shape of the house: which room may use which, that every file says what it is, where the GPU may be named.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is not a module and used everywhere; `material` and `reference` are the tests'.
const COMMON: &[&str] = &["Context", "Error", "Result", "material", "reference"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The floor plan in the documentation of `src/lib.rs`: rooms with what they may use, and what any may use.
fn floor_plan() -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let (_, table) = text.split_once("//! room         uses\n").unwrap();
    let (table, _) = table.split_once("//! ```").unwrap();
    let lines = table.lines().map(|line| line.trim_start_matches("//!").split_whitespace().map(str::to_owned));
    let mut rooms: BTreeMap<String, Vec<String>> =
        lines.filter_map(|mut words| Some((words.next()?, words.collect()))).collect();
    let foundations = rooms.remove("foundations").unwrap();
    (rooms, foundations)
}

/// Every module that `src/lib.rs` declares is in the floor plan or above it, and every name there is a module.
#[test]
fn the_floor_plan_is_whole() {
    let (rooms, foundations) = floor_plan();
    assert!(rooms.len() > 10, "{rooms:?}");
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let declared: BTreeSet<&str> = declared.filter(|module| *module != "commands").collect();
    let drawn: BTreeSet<&str> = rooms.keys().chain(&foundations).map(String::as_str).collect();
    assert_eq!(declared, drawn);
    let used = rooms.values().flatten().find(|used| !rooms.contains_key(*used));
    assert_eq!(used, None, "no such room");
}

fn sources() -> Vec<(PathBuf, String)> {
    files_in(&["src"])
}

/// Files of Rust below these folders, and their text.
fn files_in(folders: &[&str]) -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    folders.iter().for_each(|folder| walk(&root().join(folder), &mut found));
    found.sort();
    found
}

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Names right after `crate::`, grouped imports included.
fn uses(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ if depth > 0 => {}
                    ',' => names.push(std::mem::take(&mut name)),
                    _ => name.push(c),
                }
            }
            names.push(name);
        } else {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    let first = |name: &String| name.trim().split("::").next().unwrap_or_default().to_owned();
    names.iter().map(first).filter(|name| !name.is_empty() && name != "self").collect()
}

#[test]
fn arrows_go_down() {
    let (rooms, foundations) = floor_plan();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let here = room(&path);
        let Some(allowed) = rooms.get(&here) else { continue };
        for used in uses(&text) {
            let is_common = foundations.contains(&used) || COMMON.contains(&used.as_str());
            if used != here && !allowed.contains(&used) && !is_common {
                wrong.push(format!("{} uses crate::{used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that make and remove entries themselves: of the hub's cache, and in a directory whose entries are listed; and
/// tests.
const OWN_FILES: &[&str] = &["src/checkpoint/", "src/heal/state.rs", "src/model/peak.rs", "src/cli/numbers.rs"];

/// What is made elsewhere is listed in the mark of its directory, or it would be taken for somebody else's.
#[test]
fn outputs_are_written_by_their_room() {
    for (path, text) in sources() {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        if OWN_FILES.iter().any(|own| name.starts_with(own)) || name.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for word in [
            "fs::write(",
            " File::create",
            "(File::create",
            "fs::create_dir",
            "fs::remove_",
            "fs::rename(",
            "fs::copy(",
        ] {
            assert!(
                !code.contains(word),
                "{name} says {word}..): checkpoint::write_new, create_file, create_dir and Workplace::discard do it"
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (path, text) in files_in(EVERYWHERE) {
        assert!(text.starts_with("//! "), "{} does not start with a module comment", path.display());
    }
}

const EVERYWHERE: &[&str] = &["src", "tests", "benches"];

/// The formatter leaves comments as long as they are.
#[test]
fn lines_and_files_are_short() {
    let mut long = Vec::new();
    for (path, text) in files_in(EVERYWHERE) {
        let path = path.display();
        let is_long = |line: &str| line.trim_start().starts_with("//") && line.chars().count() > 120;
        let lines = text.lines().enumerate().filter(|(_, line)| is_long(line));
        long.extend(lines.map(|(at, line)| format!("{path}:{}: {} columns", at + 1, line.chars().count())));
        let count = text.lines().count();
        if count > 400 {
            long.push(format!("{path}: {count} lines"));
        }
    }
    assert!(long.is_empty(), "comments of at most 120 columns, files of at most 400 lines:\n{}", long.join("\n"));
}

/// Public types whose name several rooms have for the same thing: a log that answers or steps are added to, and how
/// passes run.
const SHARED: &[&str] = &["Journal", "PassReport"];

/// A word means one thing: no two public types have one name.
#[test]
fn public_types_have_names_of_their_own() {
    let mut known: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (path, text) in sources() {
        let kinds = ["pub struct ", "pub enum ", "pub trait ", "pub type "];
        for line in text.lines() {
            let Some(rest) = kinds.iter().find_map(|kind| line.strip_prefix(kind)) else { continue };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let before = known.insert(name.clone(), path.clone());
            assert!(before.is_none() || SHARED.contains(&&name[..]), "{name}: {before:?} and {path:?}");
        }
    }
    assert!(known.len() > 300 && SHARED.iter().all(|name| known.contains_key(*name)), "{}", known.len());
}

#[test]
fn the_command_line_stays_in_its_room() {
    for (path, text) in sources() {
        if !["cli", "main"].contains(&room(&path).as_str()) {
            for word in ["clap::", "indicatif::"] {
                assert!(!text.contains(word), "{} uses {word}", path.display());
            }
        }
    }
}

#[test]
fn the_gpu_is_named_in_one_room() {
    for (path, text) in sources() {
        if room(&path) != "ops" {
            assert!(!text.contains("feature = \"cuda\""), "{} knows about the cuda feature", path.display());
        }
    }
}
