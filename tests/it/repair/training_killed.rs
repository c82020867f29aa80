//! A training of single layers that is killed ends with the bytes of one that was not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::fixture::Llama;
use crate::fixture::desk::Desk;

const LINE: &str =
    "cut model --drop 2,4 --repair streamline --data text.jsonl --seq-len 16 --batch 3 --lr 2e-3 --quiet";

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn killed_in_either_layer_it_ends_with_the_same_bytes() {
    let desk = Desk::new();
    Llama { layers: 6, ..Llama::default() }.write(&desk.path("model"));
    let (steps, state) = (300, desk.path("out.repairing/state.safetensors"));
    let whole = desk.run(&format!("{LINE} --steps {steps} -o whole"));
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let mut kills = 0;
    // a state once, another one later
    for wanted in [1, 3, 5] {
        let mut child = desk.command(&format!("{LINE} --steps {steps} -o out")).stderr(Stdio::null()).spawn().unwrap();
        let (mut seen, mut last) = (0, None);
        while child.try_wait().unwrap().is_none() && seen < wanted {
            let modified = fs::metadata(&state).and_then(|data| data.modified()).ok();
            seen += usize::from(modified.is_some() && modified != last);
            last = modified;
            std::thread::sleep(Duration::from_micros(100));
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills > 1, "{kills}");
    if state.exists() {
        // what a kill left of a directory that was about to appear may go meanwhile
        let refused = desk.run(&format!("{LINE} --steps 301 -o out"));
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && said.contains("steps was 300, is 301"), "{said}");
        assert!(said.contains("--restart") && state.exists(), "{said}");
    }
    let done = desk.run(&format!("{LINE} --steps {steps} -o out"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(files(&desk.path("out")) == files(&desk.path("whole")));
    assert!(!desk.path("out.repairing").exists());
    // a state that is no state is told, and can be left
    fs::create_dir(desk.path("new.repairing")).unwrap();
    desk.refused(&format!("{LINE} --steps 2 -o new"), 2, &["in the way"]);
}

#[test]
fn only_trainings_restart() {
    let desk = Desk::new();
    desk.refused("cut model --drop 1 --restart -o out", 2, &["--restart goes with a --repair that trains"]);
    desk.refused("cut model --drop 1 --repair fold --data text.jsonl --restart -o out", 2, &["streamline and xmerge"]);
}
