//! Layers that go one at a time: every round is the command that does it alone.

use std::fs;

use serde_json::Value;

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

const TEXT: &str = "--data text.jsonl --samples 10 --seq-len 20";

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 7, ..Llama::default() }.write(&desk.path("model"));
    desk
}

/// The layers that `one_at_a_time` takes, in that order, and the same by separate commands.
fn both(desk: &Desk, method: &str, repair: Option<&str>, n: usize) -> (Vec<usize>, Vec<usize>) {
    let repair = repair.map(|name| format!("--repair {name}")).unwrap_or_default();
    let line = format!("cut model --method {method} --layers {n} --one-at-a-time {repair} {TEXT} -o together --force");
    let report = desk.json(&format!("{line} --json"));
    let rounds: Vec<usize> =
        report["rounds"].as_array().unwrap().iter().map(|round| round["layer"].as_u64().unwrap() as usize).collect();
    let (mut dropped, mut kept): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..7).collect());
    let mut current = "model".to_owned();
    for round in 0..n {
        let line = format!("analyze {current} {TEXT} --method {method} --layers 1 --json");
        let place = desk.json(&line)["analysis"]["search"]["best"][0]["drop"][0].as_u64().unwrap() as usize;
        dropped.push(kept.remove(place));
        let names: Vec<String> = dropped.iter().map(usize::to_string).collect();
        let text = if repair.is_empty() || repair.ends_with("average") { "" } else { TEXT };
        current = format!("round{round}");
        let line = format!("cut model --drop {} {repair} {text} -o {current} --force", names.join(","));
        assert!(desk.run(&line).status.success(), "{line}");
    }
    let weights = |name: &str| fs::read(desk.path(name).join("model.safetensors")).unwrap();
    assert!(weights("together") == weights(&current), "{method} {repair}: other weights");
    assert_eq!(
        fs::read(desk.path("together/config.json")).unwrap(),
        fs::read(desk.path(&current).join("config.json")).unwrap()
    );
    (rounds, dropped)
}

#[test]
fn together_as_one_by_one() {
    let desk = desk();
    for (method, repair, n) in [
        ("shortgpt", None, 3),
        ("shortgpt", Some("scale"), 3),
        ("shortened-llama", Some("fold"), 2),
        ("relative-magnitude", Some("refit"), 2),
        ("quiet", None, 2),
        ("shortgpt", Some("average"), 2),
    ] {
        let (together, alone) = both(&desk, method, repair, n);
        assert_eq!(together, alone, "{method} {repair:?}");
    }
    // a layer that goes changes what the others score: the first three at once are others for some method
    let history: Value = read(&desk.path("together/prune.json"));
    assert!(history.to_string().contains("one_at_a_time"), "{history}");
    let output = desk.run(&format!("cut model --method shortgpt --layers 2 --one-at-a-time {TEXT} -o told"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("one by one   "), "{said}");
}

#[test]
fn what_cannot_go_so_is_said_before_the_work() {
    let desk = desk();
    for (line, words) in [
        (format!("--method similarity --layers 2 {TEXT}"), &["scores single layers", "shortgpt", "not similarity"][..]),
        (format!("--method sleb --layers 2 {TEXT}"), &["not sleb"]),
        (format!("--method tail --layers 2 {TEXT}"), &["not tail"]),
        ("--method shortgpt --layers 2".to_owned(), &["which text", "--data"]),
        (format!("--method shortgpt {TEXT}"), &["how many layers?"]),
        (format!("--method shortgpt --layers 2 --leave-out-first {TEXT}"), &["--leave-out-first goes with --repair"]),
        (format!("--method shortgpt --layers 2 --dry-run {TEXT}"), &["there is no dry run"]),
        (format!("--method shortgpt --layers 7 {TEXT}"), &["7"]),
    ] {
        desk.refused(&format!("cut model {line} --one-at-a-time -o a"), 2, words);
    }
    fs::create_dir(desk.path("theirs")).unwrap();
    fs::write(desk.path("theirs/notes"), "mine").unwrap();
    desk.refused(&format!("cut model --method shortgpt --layers 2 --one-at-a-time {TEXT} -o theirs"), 2, &["theirs"]);
    assert_eq!(desk.run("cut model --deepest 2 --one-at-a-time --data text.jsonl -o a").status.code(), Some(2));
}
