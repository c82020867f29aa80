//! Outputs that appear, are refused, and are cleared away.

use super::*;
use crate::checkpoint::mark::{MARK, write_new};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn create(target: &Path, force: bool) -> Result<OutputDir> {
    OutputDir::create(target, force, &Origin::program("test"))
}

fn build(target: &Path, force: bool, text: &str) -> Result<()> {
    let out = create(target, force)?;
    write_new(&out.path().join("file"), text).unwrap();
    out.commit()
}

#[test]
fn appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a/b/out");
    let out = create(&target, false).unwrap();
    write_new(&out.path().join("half"), "x").unwrap();
    assert!(!target.exists());
    drop(out);
    assert!(names(dir.path()).is_empty(), "neither the output nor the parents made for it");

    build(&target, false, "new").unwrap();
    assert_eq!(names(&dir.path().join("a/b")), ["out"]);
    assert_eq!(names(&target), [MARK, "file"]);
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
}

#[test]
fn existing_output_needs_force() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    build(&target, false, "old").unwrap();
    let error = build(&target, false, "new").unwrap_err();
    assert!(matches!(&error, Error::Request(message) if message.contains("--force")), "{error}");
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
    build(&target, true, "new").unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "new");
    assert_eq!(names(dir.path()), ["out"]);

    fs::remove_dir_all(&target).unwrap();
    let out = create(&target, false).unwrap();
    fs::write(&target, "appeared meanwhile").unwrap();
    assert!(out.commit().is_err());
    assert_eq!(fs::read_to_string(&target).unwrap(), "appeared meanwhile");
}

#[test]
fn what_others_put_in_stays() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    build(&target, false, "old").unwrap();
    let refused = |what: &str| {
        let error = build(&target, true, "new").unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(what), "{error}");
        assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
    };
    for what in ["notes.txt", "below/notes.txt"] {
        fs::create_dir_all(target.join(what).parent().unwrap()).unwrap();
        fs::write(target.join(what), "mine").unwrap();
        refused(what.split('/').next().unwrap());
        assert_eq!(fs::read_to_string(target.join(what)).unwrap(), "mine");
        fs::remove_file(target.join(what)).unwrap();
    }
    fs::remove_dir(target.join("below")).unwrap();
    // while the new one is being made
    let out = create(&target, true).unwrap();
    fs::write(target.join("late"), "mine").unwrap();
    assert!(out.commit().unwrap_err().to_string().contains("late"));
    assert_eq!(names(&target), [MARK, "file", "late"]);
    fs::remove_file(target.join("late")).unwrap();
    // into the one that is being made
    let out = create(&target, true).unwrap();
    fs::write(out.path().join("early"), "mine").unwrap();
    out.commit().unwrap();
    refused_with(&target, "early");
    fs::remove_file(target.join("early")).unwrap();
    let out = create(&target, true).unwrap();
    let early = out.path().join("early");
    fs::write(&early, "mine").unwrap();
    drop(out);
    assert_eq!(fs::read_to_string(&early).unwrap(), "mine", "nor when it comes to nothing");
    refused_with(&target, "early");
}

fn refused_with(target: &Path, what: &str) {
    let error = create(target, true).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains(what), "{error}");
}

#[test]
#[cfg(unix)]
fn only_directories_of_this_program_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("theirs")).unwrap();
    fs::write(at("theirs/prune.json"), "{}").unwrap();
    fs::write(at("file"), "mine").unwrap();
    build(&at("ours"), false, "x").unwrap();
    std::os::unix::fs::symlink(at("ours"), at("link")).unwrap();
    std::os::unix::fs::symlink(at("nothing"), at("dangling")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let before = names(dir.path());
    for name in ["theirs", "file", "link", "dangling", "socket"] {
        for force in [false, true] {
            let error = create(&at(name), force).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("exists"), "{name}: {error}");
        }
    }
    for name in ["theirs", "link", "dangling", "socket"] {
        assert_eq!(write_file(&at(name), true, b"x").unwrap_err().exit_code(), 2, "{name}");
    }
    assert_eq!(names(dir.path()), before);
    assert_eq!(names(&at("ours")), [MARK, "file"]);
}

#[test]
fn leftovers_of_killed_runs_are_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let hidden = dir.path().join(".out.prune");
    let killed = |named: &str| {
        build(&target, false, "old").unwrap();
        let out = create(&target, true).unwrap();
        write_new(&out.path().join("half"), "x").unwrap();
        std::mem::forget(out.place.clone());
        if named != "new" {
            fs::rename(&target, hidden.join(named)).unwrap();
        }
        // the lock of a process that is gone
        fs::rename(&hidden, dir.path().join("killed")).unwrap();
        copy(&dir.path().join("killed"), &hidden);
        fs::remove_dir_all(dir.path().join("killed")).unwrap();
    };
    // killed before the exchange: the next run clears it, whatever it then says
    killed("new");
    assert!(create(&target, false).unwrap_err().to_string().contains("--force"));
    assert_eq!(names(dir.path()), ["out"]);
    // where names cannot be exchanged, between moving the old output aside and renaming the new one: it comes back
    fs::remove_dir_all(&target).unwrap();
    killed("old");
    assert!(create(&target, false).unwrap_err().to_string().contains("--force"));
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "old");
    assert_eq!(names(dir.path()), ["out"]);
    // somebody else's directory of that name
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("mine"), "x").unwrap();
    refused_with(&target, ".out.prune");
    assert_eq!(names(&hidden), ["mine"]);
    // killed right after making its own, or while its mark was written
    fs::remove_dir_all(&hidden).unwrap();
    for text in ["", "{\"pru", "{\"prune\":\"0.1.0\",\"comm"] {
        fs::create_dir(&hidden).unwrap();
        fs::write(hidden.join(MARK), text).unwrap();
        build(&target, true, "new").unwrap();
        assert_eq!(names(dir.path()), ["out"], "{text}");
    }
    for text in ["mine", "{\"prune\": 1}", "{\"prune\":1}\n"] {
        fs::create_dir(&hidden).unwrap();
        fs::write(hidden.join(MARK), text).unwrap();
        refused_with(&target, ".out.prune");
        assert_eq!(fs::read_to_string(hidden.join(MARK)).unwrap(), text);
        fs::remove_dir_all(&hidden).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for name in names(from) {
        match from.join(&name).is_dir() {
            true => copy(&from.join(&name), &to.join(&name)),
            false => drop(fs::copy(from.join(&name), to.join(&name)).unwrap()),
        }
    }
}

#[test]
#[cfg(unix)]
fn two_runs_do_not_write_one_output() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let first = create(&target, false).unwrap();
    let error = create(&target, true).unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
    write_new(&first.path().join("file"), "first").unwrap();
    first.commit().unwrap();
    assert!(target.join("file").exists());
}

#[test]
fn sources_are_safe() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("models/source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("config.json"), "{}").unwrap();
    let origin = Origin::of("test", &serde_json::json!({"data": [format!("text:{}", source.display())]})).unwrap();
    for (target, force) in [("models/source/out", false), ("models/source", true), ("models", true)] {
        let error = OutputDir::create(&dir.path().join(target), force, &origin).unwrap_err();
        assert!(matches!(&error, Error::Request(message) if message.contains("source")), "{error}");
    }
    let current = std::env::current_dir().unwrap();
    let error = create(current.parent().unwrap(), true).unwrap_err();
    assert!(error.to_string().contains("the current directory"), "{error}");
    assert!(create(Path::new("/"), true).is_err());
    assert_eq!(names(dir.path()), ["models"]);
    assert_eq!(names(&source), ["config.json"]);
}

#[test]
fn too_little_space_is_said_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let out = create(&dir.path().join("out"), false).unwrap();
    out.require_space(1).unwrap();
    let error = out.require_space(u64::MAX).unwrap_err().to_string();
    assert!(error.contains("16777216.0 TiB needed"), "{error}");
}

#[test]
fn files_appear_whole() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a.json");
    write_file(&target, false, b"one").unwrap();
    assert!(matches!(write_file(&target, false, b"two"), Err(Error::Request(_))));
    write_file(&target, true, b"three").unwrap();
    assert_eq!(fs::read(&target).unwrap(), b"three");
    assert!(write_file(&target.join("below/a/file"), false, b"").is_err());
    assert_eq!(names(dir.path()), ["a.json"]);
    // in a directory of this program's, only its own
    let out = dir.path().join("out");
    build(&out, false, "x").unwrap();
    fs::write(out.join("notes"), "mine").unwrap();
    assert!(write_file(&out.join("notes"), true, b"x").unwrap_err().to_string().contains("notes"));
    write_file(&out.join("more"), false, b"x").unwrap();
    write_file(&out.join("more"), true, b"y").unwrap();
    fs::remove_file(out.join("notes")).unwrap();
    build(&out, true, "y").unwrap();
}

#[test]
fn a_file_that_was_placed_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("a.csv");
    let open = |force| OutputFile::create(&target, force, &Origin::program("test"));
    let mut file = open(false).unwrap();
    file.place(b"one", &dir.path().join("out")).unwrap();
    drop(file);
    assert!(names(dir.path()).is_empty());
    let mut file = open(false).unwrap();
    file.place(b"one", &dir.path().join("out")).unwrap();
    // killed: the next one takes it for what it is
    let hidden = dir.path().join(".a.csv.prune");
    let kept = dir.path().join("kept");
    copy(&hidden, &kept);
    file.commit();
    fs::rename(&kept, &hidden).unwrap();
    drop(open(false).unwrap());
    assert!(names(dir.path()).is_empty());
    // whole it is when what it goes with is there
    let mut file = open(false).unwrap();
    file.place(b"one", dir.path()).unwrap();
    copy(&hidden, &kept);
    file.commit();
    fs::rename(&kept, &hidden).unwrap();
    assert!(open(false).unwrap_err().to_string().contains("exists"));
    assert_eq!(names(dir.path()), ["a.csv"]);
    fs::remove_file(&target).unwrap();
    // but not what somebody else wrote since
    let file = open(false).unwrap();
    file.place.note_placed(b"one", &dir.path().join("out")).unwrap();
    copy(&hidden, &kept);
    drop(file);
    fs::rename(&kept, &hidden).unwrap();
    fs::write(&target, "two").unwrap();
    assert!(open(false).is_err());
    assert_eq!(names(dir.path()), ["a.csv"]);
}
