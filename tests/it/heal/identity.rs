//! What a healing is made from is known by content, and what would end it badly is found before it begins.

use std::fs;

use serde_json::json;

use crate::fixture::desk::{Desk, read};

const TEXT: &str = "heal small --data a.jsonl --eval-data v.jsonl --seq-len 8 --rank 2 --batch 2";
const HEAL: &str = "heal small --data a.jsonl --eval-data v.jsonl --seq-len 8 --rank 2 --batch 2 --steps 4 --warmup 1";

fn desk() -> Desk {
    let desk = Desk::new();
    desk.json("cut model --drop 1 -o small --json");
    for name in ["a.jsonl", "v.jsonl"] {
        fs::copy(desk.path("text.jsonl"), desk.path(name)).unwrap();
    }
    desk
}

/// Other words of the same length.
fn change(desk: &Desk, name: &str) {
    let path = desk.path(name);
    let text = fs::read_to_string(&path).unwrap();
    let other = text.replacen("w3", "w4", 1);
    assert!(other != text && other.len() == text.len());
    fs::write(path, other).unwrap();
}

#[test]
fn changed_text_is_another_healing() {
    let desk = desk();
    let heal = format!("{HEAL} -o healed");
    desk.json(&format!("{heal} --json"));
    for (name, key) in [("a.jsonl", "data_sha256"), ("v.jsonl", "eval_data_sha256")] {
        change(&desk, name);
        desk.refused(&heal, 2, &["healed", "other settings", key, "--force"]);
        fs::copy(desk.path("text.jsonl"), desk.path(name)).unwrap();
        assert_eq!(desk.json(&format!("{heal} --json"))["found"], json!(true), "a copy is the same text");
    }
}

#[test]
fn changed_teacher_and_adapter_are_another_healing() {
    let desk = desk();
    desk.json(&format!("{HEAL} --adapter-only -o first --json"));
    // the adapter brings its rank
    let heal = format!("{} --teacher model --adapter first/adapter -o healed", HEAL.replace(" --rank 2", ""));
    desk.json(&format!("{heal} --json"));
    for (path, key) in
        [("model/model.safetensors", "teacher_sha256"), ("first/adapter/adapter_model.safetensors", "adapter_sha256")]
    {
        let path = desk.path(path);
        let bytes = fs::read(&path).unwrap();
        let mut other = bytes.clone();
        *other.last_mut().unwrap() ^= 1;
        fs::write(&path, &other).unwrap();
        desk.refused(&heal, 2, &["healed", key]);
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(desk.json(&format!("{heal} --json"))["found"], json!(true));
}

/// An unfinished run is not gone on with on other text.
#[test]
fn a_run_goes_on_with_its_own_text_only() {
    let desk = desk();
    let broken = format!("{TEXT} --steps 9 --warmup 0 --schedule constant --lr 1e25 -o healed");
    let output = desk.run(&broken);
    assert!(output.status.code() == Some(1) && desk.path("healed.healing/state.safetensors").exists());
    for (name, key) in [("a.jsonl", "data_sha256"), ("v.jsonl", "eval_data_sha256")] {
        change(&desk, name);
        desk.refused(&broken, 2, &["healed.healing", key, "--restart"]);
        fs::copy(desk.path("text.jsonl"), desk.path(name)).unwrap();
    }
    // what the step before it spent memory on stays, whatever is free now; losses before it are not taken again
    let path = desk.path("healed.healing/state.safetensors");
    let state = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let place: serde_json::Value = serde_json::from_slice(&state["place.json"].to_vec1::<u8>().unwrap()).unwrap();
    assert_eq!(place["spending"]["tokens_at_once"], json!(1024));
    assert_eq!(read(&desk.path("healed.healing/measured.json")).as_object().unwrap().len(), 2);
}

/// A result of an older version, which knew neither contents nor later settings, is found; told apart by what it knew.
#[test]
fn an_old_result_is_found() {
    let desk = desk();
    let heal = format!("{HEAL} -o healed");
    desk.json(&format!("{heal} --json"));
    let path = desk.path("healed/heal.json");
    let mut record = read(&path);
    record["settings"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("_sha256") && key != "merge_onto");
    record["result"].as_object_mut().unwrap().remove("measured");
    fs::write(&path, record.to_string()).unwrap();
    let again = desk.json(&format!("{heal} --json"));
    assert_eq!((&again["found"], &again["result"]["measured"]), (&json!(true), &json!(null)));
    let said = String::from_utf8(desk.run(&heal).stdout).unwrap();
    assert!(said.contains("weights in NF4") && said.contains("found"), "{said}");
    desk.refused(&format!("{heal} --merge-onto quantized"), 2, &["merge_onto was absent, is \"quantized\""]);
    desk.refused(&format!("{heal} --lr 0.1"), 2, &["lr was 0.0003, is 0.1"]);
}

/// Found before the first step: nothing was trained, nothing stays.
#[test]
fn what_would_end_badly_is_found_before() {
    let desk = desk();
    desk.refused(&format!("{HEAL} -o healed --max-shard-size 5TX"), 2, &["--max-shard-size", "5TX"]);
    fs::write(desk.path("file"), "x").unwrap();
    let output = desk.run(&format!("{HEAL} -o file/healed"));
    assert!(!output.status.success() && !desk.path("file.healing").exists());
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", desk.path("link")).unwrap();
        desk.refused(&format!("{HEAL} -o link"), 2, &["link"]);
    }
}

/// Settings that never do what they say are warned of; left out, they suit the run.
#[test]
fn long_warm_ups_are_warned_of() {
    let desk = desk();
    let heal = "heal small --data a.jsonl --seq-len 8 --rank 2 --batch 2 --steps 20";
    let said = |more: &str| String::from_utf8(desk.run(&format!("{heal} {more}")).stderr).unwrap();
    assert!(said("--warmup 20 -o a").contains("warning: warmup 20 is as long as all 20 steps"));
    assert!(!said("-o b").contains("warmup"));
    assert_eq!(read(&desk.path("b/heal.json"))["settings"]["warmup"], json!(2.0));
    let config = desk.path("small/config.json");
    let mut short = read(&config);
    short["max_position_embeddings"] = json!(9);
    fs::write(&config, short.to_string()).unwrap();
    let plain = String::from_utf8(desk.run("heal small --data a.jsonl --rank 2 --steps 2 -o c").stderr).unwrap();
    assert!(!plain.contains("warning"), "{plain}");
    assert_eq!(read(&desk.path("c/heal.json"))["settings"]["seq_len"], json!(9));
}
