//! Limits that the system sets are seen: a request that does not fit is refused, none is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::fixture::desk::Desk;
use crate::fixture::material::skipped;

/// The binary with these words after `first`, by a shell in the desk's directory.
fn after(desk: &Desk, first: &str, line: &str) -> Output {
    let script = format!("{first}; exec {} {line}", env!("CARGO_BIN_EXE_prune"));
    Command::new("sh").args(["-c", &script]).current_dir(desk.path("")).env("HF_HUB_OFFLINE", "1").output().unwrap()
}

fn bounds(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    report["memory_bounds"].as_array().unwrap().clone()
}

#[cfg(target_os = "linux")]
#[test]
fn resource_limits_bind() {
    let desk = Desk::new();
    for (flag, by) in [("-v", "ulimit -v"), ("-d", "ulimit -d")] {
        let found = bounds(&after(&desk, &format!("ulimit {flag} 3000000"), "doctor --threads 2 --json"));
        let bound = found.iter().find(|bound| bound["by"].as_str().unwrap().starts_with(by));
        let bound = bound.unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!(bound["total"], 3_000_000_u64 << 10);
        let free = bound["free"].as_u64().unwrap();
        assert!(free > 500 << 20 && free < 3_000_000 << 10, "{free}");
        // each of the sizes ends in work or in words, none in an abort
        for kib in [250_000, 400_000, 800_000, 1_600_000] {
            let line = "analyze model --data text.jsonl --threads 2";
            let output = after(&desk, &format!("ulimit {flag} {kib}"), line);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0..=2)), "{flag} {kib}: {:?} {said}", output.status);
        }
    }
}

/// A control group of this test's own, where it may make one.
struct Group(PathBuf);

impl Group {
    fn new(limit: u64) -> Option<Self> {
        let name = format!("prune-test-{}", std::process::id());
        for (root, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let dir = Path::new(root).join(&name);
            if fs::create_dir(&dir).is_err() {
                continue;
            }
            let group = Self(dir);
            if group.0.join(file).exists() && fs::write(group.0.join(file), limit.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_own_control_group_binds_and_cache_does_not_count() {
    let limit = 600 << 20;
    let Some(group) = Group::new(limit) else {
        return skipped("a control group that can be made here");
    };
    let desk = Desk::new();
    fs::write(desk.path("large"), vec![0_u8; 900 << 20]).unwrap();
    let enter = format!("echo $$ > {}/cgroup.procs || exit 99; cat large > /dev/null", group.0.display());
    let output = after(&desk, &enter, "doctor --threads 2 --json");
    if output.status.code() == Some(99) {
        return skipped("a control group that takes a process");
    }
    let found = bounds(&output);
    let bound = found.iter().find(|bound| bound["by"].as_str().unwrap().contains("prune-test-")).unwrap();
    assert_eq!(bound["total"], limit);
    assert!(bound["free"].as_u64().unwrap() > limit / 10 * 7, "{bound}");
    let output = after(&desk, &enter, "analyze model --data text.jsonl --threads 2 -q");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
