//! The shape of the house: which room may use which, that every file says what it is, where the GPU may be named.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms from the ground up, and what each may use besides the foundations.
const ROOMS: &[(&str, &[&str])] = &[
    ("checkpoint", &[]),
    ("ops", &[]),
    ("arch", &["checkpoint"]),
    ("data", &["checkpoint"]),
    ("model", &["arch", "checkpoint", "data", "ops"]),
    ("importance", &["arch", "checkpoint", "data", "model", "ops"]),
    ("methods", &["importance"]),
    ("surgery", &["arch", "checkpoint", "model"]),
    ("heal", &["arch", "checkpoint", "data", "model", "ops"]),
    ("eval", &["arch", "checkpoint", "data", "model", "ops"]),
    ("report", &["checkpoint"]),
    ("demo", &["checkpoint"]),
];

/// What any room may use.
const FOUNDATIONS: &[&str] = &[
    "card",
    "error",
    "files",
    "interrupt",
    "plan",
    "progress",
    "provenance",
    "settings",
    "shown",
    "Context",
    "Error",
    "Result",
];

fn sources() -> Vec<(PathBuf, String)> {
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
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found.sort();
    found
}

fn room(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
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
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let here = room(&path);
        let Some(allowed) = rooms.get(here.as_str()) else { continue };
        for used in uses(&text) {
            if used != here && !allowed.contains(&used.as_str()) && !FOUNDATIONS.contains(&used.as_str()) {
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (path, text) in sources() {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
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
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not start with a module comment", path.display());
    }
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
