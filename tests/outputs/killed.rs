//! Killed at any call that writes, the same command finishes: with the same bytes, and nothing beside them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::commands::{COMMANDS, Making, desk, timeless};
use crate::fixture::desk::Desk;

/// The calls that change what is on the disk.
const CALLS: &str = "mkdir,mkdirat,openat,rename,renameat,renameat2,unlink,unlinkat,rmdir,write,pwrite64,writev,fsync,\
                     fdatasync,fallocate,ftruncate,copy_file_range,sendfile";

/// Moments of each command: in a test run, and by hand all there are.
const MOMENTS: usize = 24;

fn traced(desk: &Desk, log: &Path, inject: Option<usize>, line: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(log).arg("-e").arg(format!("trace={CALLS}"));
    if let Some(when) = inject {
        command.arg("-e").arg(format!("inject={CALLS}:signal=KILL:when={when}"));
    }
    command.arg(env!("CARGO_BIN_EXE_prune")).args(line.split_whitespace()).args(["--threads", "1", "--quiet"]);
    command.current_dir(desk.path("")).env("HF_HUB_OFFLINE", "1").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Calls of the thread that makes most of them; `None` where nothing can be traced.
fn calls(desk: &Desk, line: &str) -> Option<usize> {
    let log = desk.path("../").join(format!("strace-{}", std::process::id()));
    let done = traced(desk, &log, None, line).output().ok()?;
    let text = fs::read_to_string(&log).unwrap_or_default();
    drop(fs::remove_file(&log));
    if !done.status.success() || text.is_empty() {
        eprintln!("skipped: strace traces nothing here: {}", String::from_utf8_lossy(&done.stderr));
        return None;
    }
    let mut threads = std::collections::BTreeMap::<&str, usize>::new();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .for_each(|thread| *threads.entry(thread).or_default() += 1);
    threads.values().max().copied()
}

fn finishes(making: &Making, most: usize) {
    if Command::new("strace").arg("-V").output().is_err() {
        return eprintln!("skipped: no strace");
    }
    let whole = desk();
    let Some(calls) = calls(&whole, making.line) else { return };
    let expected = timeless(&whole.path(""));
    let desk = desk();
    let before = timeless(&desk.path(""));
    let step = calls.div_ceil(most).max(1);
    let mut killed = 0;
    // the first ones, in which a place is taken, and then every so many
    for when in (1..=calls).filter(|when| *when <= most / 3 || when % step == 0) {
        let first = traced(&desk, Path::new("/dev/null"), Some(when), making.line).output().unwrap();
        killed += usize::from(!first.status.success());
        let again = desk.run(&format!("{} --threads 1 --quiet", making.line));
        let said = String::from_utf8_lossy(&again.stderr);
        let at = format!("{}, killed at call {when} of {calls}", making.name);
        // an output that stands is whole: to say so is to finish
        assert!(again.status.success() || (again.status.code() == Some(2) && said.contains("exists")), "{at}: {said}");
        let found = timeless(&desk.path(""));
        let names = |tree: &std::collections::BTreeMap<String, _>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&expected), "{at}: {said}");
        let differing: Vec<_> = found.keys().filter(|name| found[*name] != expected[*name]).collect();
        assert!(differing.is_empty(), "{at}: other bytes in {differing:?}");
        for name in found.keys().filter(|name| !before.contains_key(*name)) {
            let path = desk.path(name);
            match path.is_dir() {
                true => fs::remove_dir_all(path).unwrap(),
                false => drop(fs::remove_file(path)),
            }
        }
    }
    assert!(killed > 0, "{}: nothing was killed", making.name);
    eprintln!("{}: {calls} calls, {killed} kills", making.name);
}

#[test]
fn at_some_calls() {
    COMMANDS.iter().for_each(|making| finishes(making, MOMENTS));
}

#[test]
#[ignore = "some minutes; by hand"]
fn at_every_call() {
    COMMANDS.iter().for_each(|making| finishes(making, usize::MAX));
}
