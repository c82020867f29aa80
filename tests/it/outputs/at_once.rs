//! Three processes with one output: one works, the others say so, and the output is what one alone makes.

use std::process::Stdio;

use crate::outputs::commands::{COMMANDS, desk, timeless};

#[test]
fn of_three_at_once_one_works() {
    for making in COMMANDS {
        let alone = desk();
        let done = alone.run(&format!("{} --quiet", making.line));
        assert!(done.status.success(), "{}: {}", making.name, String::from_utf8_lossy(&done.stderr));
        let expected = timeless(&alone.path(""));
        for force in [None, making.forces.iter().find(|force| force.contains("--force"))] {
            let desk = desk();
            let line = format!("{} --quiet {}", making.line, force.unwrap_or(&""));
            let start = |_| desk.command(&line).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            let three: Vec<_> = (0..3).map(start).collect();
            let mut worked = 0;
            for process in three {
                let output = process.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                match output.status.code() {
                    Some(0) => worked += 1,
                    Some(2) => assert!(said.contains("another run") || said.contains("exists"), "{line}: {said}"),
                    code => panic!("{line}: exit {code:?}: {said}"),
                }
            }
            assert!(worked > 0, "{line}: none worked");
            let found = timeless(&desk.path(""));
            assert!(found.keys().eq(expected.keys()), "{line}: {:?}", found.keys());
            let differing: Vec<_> = found.keys().filter(|name| found[*name] != expected[*name]).collect();
            assert!(differing.is_empty(), "{line}: other bytes in {differing:?}");
        }
    }
}
