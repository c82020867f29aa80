//! A disk that is full in the middle of the work: said with the file, nothing half written stays, and with room the
//! same command finishes. A limit on the size of files stands for the disk.

use std::os::unix::process::CommandExt;
use std::process::Output;

use crate::fixture::desk::Desk;
use crate::outputs::commands::{COMMANDS, desk, strangers_beside, timeless, tree};

/// Bytes of a file at most.
const LIMITS: &[u64] = &[0, 20, 60, 300, 700, 3_000, 6_000, 20_000, 100_000];

pub(crate) fn limited(desk: &Desk, line: &str, bytes: u64) -> Output {
    let mut command = desk.command(line);
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: between fork and exec one system call is made, which reads a structure of this closure's
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command.output().unwrap()
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    for making in COMMANDS {
        let line = format!("{} --threads 1 --quiet", making.line);
        let whole = desk();
        strangers_beside(&whole);
        let before = tree(&whole.path(""));
        assert!(whole.run(&line).status.success());
        let expected = timeless(&whole.path(""));
        let mut failed = 0;
        let desk = desk();
        strangers_beside(&desk);
        for limit in LIMITS {
            let output = limited(&desk, &line, *limit);
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                continue;
            }
            failed += 1;
            let stands = said.contains("exists; --force");
            assert!(output.status.code() == Some(1) || stands, "{line}: {limit}: {:?} {said}", output.status);
            assert!(said.contains("File too large") || stands, "{line}: {limit}: {said}");
            assert!(said.lines().count() == 1 && said.starts_with("error: "), "{line}: {limit}: {said}");
            let now = tree(&desk.path(""));
            for (name, thing) in &before {
                assert_eq!(now.get(name), Some(thing), "{line}: {limit}: {name} changed: {said}");
            }
            if making.is_whole && !["heal", "search"].contains(&making.name) && !stands {
                assert!(now.keys().eq(before.keys()), "{line}: {limit}: left {:?}", now.keys());
            }
        }
        assert!(failed >= 4, "{line}: {failed} failed");
        let done = desk.run(&line);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() || said.contains("exists; --force"), "{line}: {said}");
        let found = timeless(&desk.path(""));
        assert!(found.keys().eq(expected.keys()), "{line}: {:?}", found.keys());
        let differing: Vec<_> = found.keys().filter(|name| found[*name] != expected[*name]).collect();
        assert!(differing.is_empty(), "{line}: other bytes in {differing:?}");
    }
}
