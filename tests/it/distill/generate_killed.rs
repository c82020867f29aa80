//! A generation that is killed ends with the bytes of one that was not.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::distill::generate::works;
use crate::fixture::desk::Desk;

const LINE: &str = "generate model --prompts text.jsonl --tokens 40 --samples 6 --batch 5 --quiet";

#[test]
fn killed_at_any_text_it_ends_with_the_same_bytes() {
    let desk = Desk::new();
    works(&desk, &format!("{LINE} -o whole.jsonl"));
    let log = desk.path("out.jsonl.generating/texts.jsonl");
    let written = || fs::read_to_string(&log).map_or(0, |text| text.lines().count());
    let mut kills = 0;
    for lines in [1, 9, 20, 33, 50, 68] {
        let mut child = desk.command(&format!("{LINE} -o out.jsonl")).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && written() < lines {
            std::thread::sleep(Duration::from_micros(50));
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
        if lines == 33 && log.exists() {
            // a kill in the middle of a line
            let text = fs::read(&log).unwrap();
            fs::write(&log, &text[..text.len() - 7]).unwrap();
        }
    }
    assert!(kills > 2, "{kills}");
    if log.exists() {
        // what a kill left of a file that was about to appear may go meanwhile
        let refused = desk.run(&format!("{LINE} --seed 5 -o out.jsonl"));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("seed was 0, is 5"), "{said}");
        assert!(said.contains("--restart") && log.exists(), "{said}");
    }
    works(&desk, &format!("{LINE} -o out.jsonl"));
    assert_eq!(fs::read(desk.path("out.jsonl")).unwrap(), fs::read(desk.path("whole.jsonl")).unwrap());
    let beside = |name: &str| fs::read(desk.path(&format!("{name}.jsonl.provenance"))).unwrap();
    assert_eq!(beside("out"), beside("whole"));
    let expected =
        ["model", "out.jsonl", "out.jsonl.provenance", "text.jsonl", "whole.jsonl", "whole.jsonl.provenance"];
    assert_eq!(desk.names(), expected);
}
