//! A property over the table of commands: whatever the command, the flags and the way it fails, what others have put
//! where its output, its work and its temporary files go stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::fixture::desk::Desk;
use crate::outputs::commands::{COMMANDS, Making, READING, Thing, copy, desk, strangers_beside, tree};
use crate::outputs::full::limited;

/// Puts somebody's files around the output, or into what is already there.
type Put = fn(&Desk);

fn file(desk: &Desk, name: &str) {
    let path = desk.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("somebody's {name}")).unwrap();
}

fn link(desk: &Desk, to: &str, name: &str) {
    symlink(desk.path(to), desk.path(name)).unwrap();
}

/// Where nothing of prune's stands before.
const AROUND: &[(&str, Put)] = &[
    ("a directory", |desk| file(desk, "out/thesis.tex")),
    ("an empty directory in it", |desk| fs::create_dir_all(desk.path("out/empty")).unwrap()),
    ("a file", |desk| file(desk, "out")),
    ("a link to a directory", |desk| {
        file(desk, "theirs/a");
        link(desk, "theirs", "out");
    }),
    ("a link to a file", |desk| {
        file(desk, "theirs");
        link(desk, "theirs", "out");
    }),
    ("a link to nothing", |desk| link(desk, "nothing", "out")),
    ("a FIFO", |desk| assert!(Command::new("mkfifo").arg(desk.path("out")).status().unwrap().success())),
    ("a journal", |desk| file(desk, "out/journal.jsonl")),
    ("a linked journal", |desk| {
        file(desk, "important");
        fs::create_dir(desk.path("out")).unwrap();
        link(desk, "important", "out/journal.jsonl");
    }),
    ("records that are none", |desk| {
        for name in ["run.json", "prune.json", "heal.json", "analysis.json", "settings.json", "recipe.toml"] {
            file(desk, &format!("out/{name}"));
        }
    }),
    ("JSON that is no record", |desk| {
        fs::create_dir(desk.path("out")).unwrap();
        for name in ["run.json", "prune.json", "heal.json", "analysis.json", ".prune"] {
            fs::write(desk.path("out").join(name), "{}").unwrap();
        }
    }),
    ("work beside it", |desk| file(desk, "out.healing/photos/a")),
    ("a search's work beside it", |desk| file(desk, "out.analyzing/settings.json")),
    ("a file for work beside it", |desk| file(desk, "out.healing")),
    ("files called as work is", |desk| {
        for name in ["settings.json", "best.safetensors", "log.jsonl", "state.safetensors"] {
            file(desk, &format!("out.healing/{name}"));
        }
    }),
    ("linked work", |desk| {
        file(desk, "theirs/log.jsonl");
        link(desk, "theirs", "out.healing");
    }),
    ("a hidden directory", |desk| file(desk, ".out.prune/mine")),
    ("a hidden file", |desk| file(desk, ".out.prune")),
    ("hidden names", |desk| {
        file(desk, ".out.prune/new/mine");
        file(desk, ".out.prune/old/mine");
        file(desk, ".out.csv.prune/new");
        file(desk, ".out.prune-old/mine");
        file(desk, ".out.prune-Ab12Cd/mine");
        file(desk, ".out.csv.prune-Ab12Cd");
    }),
    ("a linked hidden directory", |desk| {
        file(desk, "theirs/new/a");
        link(desk, "theirs", ".out.prune");
    }),
];

/// Where the command has done its work before.
const INSIDE: &[(&str, Put)] = &[
    ("a file", |desk| file(desk, "out/notes.txt")),
    ("a hidden file", |desk| file(desk, "out/.notes")),
    ("an empty directory", |desk| fs::create_dir_all(desk.path("out/empty")).unwrap()),
    ("names of files it might write", |desk| {
        for name in
            ["modeling_mine.py", "tokenizer.model", "figures/mine.svg", "model-x.safetensors", "journal.jsonl.bak"]
        {
            file(desk, &format!("out/{name}"));
        }
    }),
    ("a link", |desk| {
        file(desk, "theirs/a");
        link(desk, "theirs", "out/link");
    }),
    ("work beside it", |desk| file(desk, "out.healing/photos/a")),
    ("a hidden directory beside it", |desk| file(desk, ".out.prune/mine")),
];

/// Runs every form of the command with somebody's files there.
fn untouched(making: &Making, desk: &Desk, theirs: &BTreeMap<String, Thing>, case: &str) {
    let most = making.forces.last().unwrap_or(&"");
    let failing = making.failing.iter().map(|fail| format!("{most} {fail}"));
    let forms = [String::new(), format!("{most} --dry-run")].into_iter().chain(failing);
    for form in forms.chain(making.forces.iter().map(ToString::to_string)) {
        let line = format!("{} {form}", making.line);
        let output = desk.run(&format!("{line} --quiet"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0..=2)), "{line}: {case}: {:?} {said}", output.status);
        stands(desk, theirs, &format!("{line}: {case}: {said}"));
    }
    let line = format!("{} {most} --quiet", making.line);
    // a full disk
    for bytes in [30, 2_000] {
        let said = String::from_utf8_lossy(&limited(desk, &line, bytes).stderr).into_owned();
        stands(desk, theirs, &format!("{line}: {case}: {bytes} bytes a file at most: {said}"));
    }
    // Ctrl-C
    let child = desk.command(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(u64::from(child.id() % 40)));
    drop(Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status());
    let output = child.wait_with_output().unwrap();
    // before the program listens, the signal ends it
    assert!(matches!(output.status.code(), Some(0..=2 | 130) | None), "{line}: {case}: {:?}", output.status);
    stands(desk, theirs, &format!("{line}: {case}: interrupted"));
}

fn stands(desk: &Desk, theirs: &BTreeMap<String, Thing>, at: &str) {
    let now = tree(&desk.path(""));
    for (name, thing) in theirs {
        assert_eq!(now.get(name), Some(thing), "{name} changed: {at}");
    }
}

/// What is there now and was not before: somebody else's.
fn put(desk: &Desk, put: Put) -> BTreeMap<String, Thing> {
    let before = tree(&desk.path(""));
    put(desk);
    tree(&desk.path("")).into_iter().filter(|(name, _)| !before.contains_key(name)).collect()
}

fn remove(desk: &Desk, but: &BTreeMap<String, Thing>) {
    for name in tree(&desk.path("")).keys().rev().filter(|name| !but.contains_key(*name)) {
        let path = desk.path(name);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
            Ok(_) => fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }
}

#[test]
fn around_an_output() {
    let desk = desk();
    let empty = tree(&desk.path(""));
    for making in COMMANDS {
        for (case, theirs) in AROUND {
            let theirs = put(&desk, *theirs);
            untouched(making, &desk, &theirs, case);
            remove(&desk, &empty);
        }
    }
    assert_eq!(tree(&desk.path("")), empty, "inputs are as they were");
}

#[test]
fn inside_an_output() {
    let desk = desk();
    let empty = tree(&desk.path(""));
    for making in COMMANDS {
        for (case, theirs) in INSIDE {
            assert!(desk.run(&format!("{} --quiet", making.line)).status.success(), "{}", making.line);
            let theirs = put(&desk, *theirs);
            untouched(making, &desk, &theirs, case);
            remove(&desk, &empty);
        }
    }
    assert_eq!(tree(&desk.path("")), empty, "inputs are as they were");
}

/// Names of everybody's all around, and none in the way: each command does its work, and no name changes.
#[test]
fn beside_an_output() {
    let desk = desk();
    let theirs = put(&desk, strangers_beside);
    let all = tree(&desk.path(""));
    for line in READING {
        let said = desk.run(line);
        assert_eq!(tree(&desk.path("")), all, "{line}: {}", String::from_utf8_lossy(&said.stderr));
    }
    for making in COMMANDS {
        let done = desk.run(&format!("{} --quiet", making.line));
        assert!(done.status.success(), "{}: {}", making.line, String::from_utf8_lossy(&done.stderr));
        untouched(making, &desk, &theirs, "beside");
        remove(&desk, &all);
    }
    assert_eq!(tree(&desk.path("")), all);
}

/// What a command reads may lie where it writes: then nothing happens.
#[test]
fn inputs_in_an_output() {
    let desk = desk();
    for making in COMMANDS {
        for input in ["model", "text.jsonl", "text.txt", "adapter", "recipe.toml"] {
            if !making.line.contains(input) || !making.line.contains("-o out") {
                continue;
            }
            // the output is the input, or what holds it
            let home = tempfile::tempdir_in(desk.path("")).unwrap();
            let inside = home.path().join(input);
            copy(&desk.path(input), &inside);
            let name = inside.strip_prefix(desk.path("")).unwrap().display().to_string();
            let holder = home.path().file_name().unwrap().to_str().unwrap().to_owned();
            for (out, force) in [(&holder, ""), (&holder, "--force"), (&name, "--force")] {
                if making.name == "run" && !force.is_empty() {
                    continue;
                }
                let line = making.line.replace("-o out", &format!("-o {out}"));
                let words = line.split(' ').map(|word| match word.strip_prefix("text:") {
                    Some(path) if path == input => format!("text:{name}"),
                    None if word == input => name.clone(),
                    _ => word.to_owned(),
                });
                let line = format!("{} {force}", words.collect::<Vec<_>>().join(" "));
                let before = tree(home.path());
                let output = desk.run(&line);
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{line}: {said}");
                assert_eq!(tree(home.path()), before, "{line}: {said}");
            }
        }
    }
}

/// A demo that is asked to begin anew leaves a running one, and files that are not its own.
#[test]
fn the_demo_replaces_its_own_alone() {
    let desk = desk();
    file(&desk, "d/run/notes.txt");
    file(&desk, "d/atlas/notes.txt");
    let theirs = tree(&desk.path("d"));
    for line in ["demo -o d --force", "demo -o d"] {
        desk.refused(line, 2, &["notes.txt"]);
        assert_eq!(tree(&desk.path("d")), theirs, "{line}");
    }
}
