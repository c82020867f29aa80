//! Outputs of versions that left no mark: known by their records, replaced with `--force`, and what others put into
//! them stays.

use std::fs;

use crate::fixture::desk::Desk;
use crate::outputs::commands::{COMMANDS, desk, timeless, tree};

fn unmark(desk: &Desk) {
    let marks: Vec<String> = tree(&desk.path("")).into_keys().filter(|name| name.ends_with("/.prune")).collect();
    assert!(!marks.is_empty());
    marks.iter().for_each(|name| fs::remove_file(desk.path(name)).unwrap());
}

#[test]
fn are_known_by_their_records() {
    // no earlier version ranked methods or asked teachers: their outputs always have a mark
    for making in COMMANDS.iter().filter(|making| !["methods", "teach"].contains(&making.name)) {
        let desk = desk();
        let made = desk.run(&format!("{} --quiet", making.other_line()));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        unmark(&desk);
        if making.name == "merge" {
            // earlier versions wrote neither
            for name in ["out/prune.json", "out/README.md"] {
                fs::remove_file(desk.path(name)).unwrap();
            }
        }
        let replacing = format!("{} --quiet", making.replacing());
        fs::write(desk.path("out/notes.txt"), "mine").unwrap();
        let with_notes = tree(&desk.path(""));
        let output = desk.run(&replacing);
        let said = String::from_utf8_lossy(&output.stderr);
        if making.name != "run" {
            // a run replaces its parts alone
            assert!(output.status.code() == Some(2) && said.contains("name another output"), "{replacing}: {said}");
            assert_eq!(tree(&desk.path("")), with_notes, "{replacing}: {said}");
        }
        assert_eq!(fs::read_to_string(desk.path("out/notes.txt")).unwrap(), "mine");
        fs::remove_file(desk.path("out/notes.txt")).unwrap();
        let output = desk.run(&replacing);
        let said = String::from_utf8_lossy(&output.stderr);
        if making.name == "merge" {
            // nothing tells a merged model without a history from any other model
            assert!(output.status.code() == Some(2) && said.contains("has no mark"), "{replacing}: {said}");
            continue;
        }
        assert!(output.status.success(), "{replacing}: {said}");
        let fresh = crate::outputs::commands::desk();
        assert!(fresh.run(&format!("{} --quiet", making.line)).status.success());
        // what a run need not make again gets no mark either
        let [found, expected] = [&desk, &fresh].map(|desk| {
            let mut tree = timeless(&desk.path(""));
            tree.retain(|name, _| !name.ends_with("/.prune"));
            tree
        });
        assert!(found.keys().eq(expected.keys()), "{replacing}: {:?}", found.keys());
        let differing: Vec<_> = found.keys().filter(|name| found[*name] != expected[*name]).collect();
        assert!(differing.is_empty(), "{replacing}: other bytes in {differing:?}");
    }
}
