//! `prune methods MODEL`: the choices are the methods' own, the losses the exact ones, and nothing is measured twice.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};

const RANK: &str = "methods model --data text.jsonl --seq-len 16";

fn rows(report: &Value) -> Vec<&Value> {
    report["methods"].as_array().unwrap().iter().collect()
}

/// Every method that fits four layers: what it drops is what its analysis plans, and what the loss rises by is what
/// the exact score of that removal says.
#[test]
fn every_method_is_tried_and_told_exactly() {
    let desk = Desk::new();
    let report = desk.json(&format!("{RANK} --layers 1 --all --json"));
    let exact = desk.json("analyze model --data text.jsonl --seq-len 16 --metrics layer-loss,sublayer-loss --json");
    let scores = exact["analysis"]["scores"].as_array().unwrap();
    let of = |metric: &str| &scores.iter().find(|scores| scores["metric"] == metric).unwrap()["mean"][0];
    let all = rows(&report);
    let names: Vec<&str> = all.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert!(
        ["similarity", "tail", "sleb", "beam", "finercut", "shapley", "policy", "exact-block"]
            .iter()
            .all(|name| names.contains(name)),
        "{names:?}"
    );
    let mut measured: BTreeMap<String, (f64, &str)> = BTreeMap::new();
    for row in &all {
        let name = row["name"].as_str().unwrap();
        let (rise, loss) = (row["rise"].as_f64().unwrap(), row["loss"].as_f64().unwrap());
        assert!((loss - report["whole"].as_f64().unwrap() - rise).abs() < 1e-6, "{row}");
        if let [layer] = row["dropped"].as_array().map_or(&[][..], Vec::as_slice) {
            let of = of("layer-loss")[layer.as_u64().unwrap() as usize].as_f64().unwrap();
            assert!((of - rise).abs() < 1e-5, "{name}: {of} {rise}");
        }
        let known = measured.get(&row["dropped"].to_string()).copied();
        let told = row.get("same_as").and_then(Value::as_str);
        assert_eq!(known.map(|(_, first)| first), told, "{row}");
        assert!(known.is_none_or(|(known, _)| known == loss));
        measured.entry(row["dropped"].to_string()).or_insert((loss, name));
        if !["deepest", "tail"].contains(&name) {
            let plan =
                desk.json(&format!("analyze model --data text.jsonl --seq-len 16 --method {name} --layers 1 --json"));
            let stack = plan["analysis"]["plan"]["stack"].as_array().unwrap();
            let kept: Vec<&Value> = stack.iter().map(|place| &place["layer"]).collect();
            if let Some(dropped) = row["dropped"].as_array().filter(|dropped| dropped.iter().all(Value::is_u64)) {
                let expected: Vec<Value> = (0..4).map(Value::from).filter(|layer| !dropped.contains(layer)).collect();
                assert_eq!(kept, expected.iter().collect::<Vec<_>>(), "{name}");
            }
        }
    }
    let losses: Vec<f64> = all.iter().map(|row| row["loss"].as_f64().unwrap()).collect();
    assert!(losses.is_sorted() && all[0]["difference"] == json!(0.0) && all[0]["difference_stderr"].is_null());
    assert!(all.iter().all(|row| row["difference"].as_f64().unwrap() >= 0.0));
    // the first four layers and the last two stay by these
    let left: Vec<&str> =
        report["left_out"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(left, ["shortened-taylor", "magnitude"]);
}

#[test]
fn the_usual_ones_take_a_pass_or_a_few() {
    let desk = Desk::new();
    let ahead = desk.json(&format!("{RANK} --layers 2 --dry-run -o out --json"));
    let names: Vec<&str> = rows(&ahead).iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["similarity", "channel-cosine", "deepest", "tail", "shortgpt", "relative-magnitude", "ggr", "quiet"]
    );
    let passes: Vec<u64> = rows(&ahead).iter().map(|row| row["layer_passes"].as_u64().unwrap()).collect();
    assert_eq!(passes, [4, 4, 0, 0, 4, 4, 12, 4]);
    assert!(!desk.path("out").exists() && ahead["whole"].is_null());

    let report = desk.json(&format!("{RANK} --layers 2 -o out --json"));
    let kept = read(&desk.path("out/methods.json"));
    assert_eq!((&kept["whole"], &kept["left_out"]), (&report["whole"], &report["left_out"]));
    assert!(kept["methods"][0].get("seconds").is_none() && report["methods"][0]["seconds"].is_f64());
    // all plans stand on what they have in common
    assert!(report["loss_layer_passes"].as_u64().unwrap() < 4 + 2 * report["methods"].as_array().unwrap().len() as u64);
    desk.refused(&format!("{RANK} --layers 2 -o out"), 2, &["out"]);
    let told = String::from_utf8(desk.run(&format!("{RANK} --layers 2 -o out --force")).stdout).unwrap();
    assert!(told.contains(" best ") && told.contains("the best: prune cut model --drop "), "{told}");
    assert!(told.lines().any(|line| line.trim_start().starts_with("deepest ") && line.contains("·xx·")), "{told}");
    // what it says can be done
    let line = told.lines().find_map(|line| line.strip_prefix("the best: prune ")).unwrap();
    assert!(desk.run(&line.replace("DIR", "smaller")).status.success(), "{line}");
    // the same order, numbers and bytes again
    let first = fs::read(desk.path("out/methods.json")).unwrap();
    desk.json(&format!("{RANK} --layers 2 -o out --force --json"));
    assert!(first == fs::read(desk.path("out/methods.json")).unwrap());
}

#[test]
fn named_methods_and_what_is_wrong() {
    let desk = Desk::new();
    let some = desk.json(&format!("{RANK} --fraction 0.25 --methods tail,sleb --json"));
    let mut names: Vec<&str> = rows(&some).iter().map(|row| row["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["sleb", "tail"]);
    desk.refused("methods --data text.jsonl", 2, &["--data goes with a model"]);
    desk.refused("methods --layers 2", 2, &["--layers goes with a model"]);
    desk.refused("methods --seq-len 5", 2, &["--seq-len goes with a model"]);
    desk.refused("methods model --layers 2", 2, &["--data"]);
    desk.refused(RANK, 2, &["--layers or --fraction"]);
    desk.refused(&format!("{RANK} --layers 4"), 2, &["at most 3"]);
    desk.refused(&format!("{RANK} --layers 1 --methods magnitude"), 2, &["--methods magnitude"]);
    desk.refused(&format!("{RANK} --layers 1 --memory 1KiB"), 2, &["KiB"]);
    fs::write(desk.path("own.toml"), "methods = [\"given\"]\n").unwrap();
    desk.refused(&format!("{RANK} --layers 1 --config own.toml"), 2, &["given"]);
    fs::write(desk.path("own.toml"), "methods = [\"finest\"]\n").unwrap();
    desk.refused(&format!("{RANK} --layers 1 --config own.toml"), 2, &["finest", "similarity"]);
}

/// Repaired, each choice has the loss that `cut --repair` tells of it, and the least is first.
#[test]
fn choices_are_ranked_as_they_are_repaired() {
    let desk = Desk::new();
    let rank = format!("{RANK} --layers 2 --methods deepest,tail,similarity,shortgpt,quiet");
    let ahead = desk.json(&format!("{rank} --repair fold --dry-run --json"));
    assert!(ahead["repair"]["expected_seconds"].as_f64().unwrap() > 0.0 && ahead["methods"][0].get("loss").is_none());
    let plain = desk.json(&format!("{rank} --json"));
    let report = desk.json(&format!("{rank} --repair fold -o out --json"));
    assert!(plain.get("repair").is_none() && report["repair"]["name"] == "fold");
    assert_eq!(report["whole"], plain["whole"]);
    let mut seen = Vec::new();
    for row in rows(&report) {
        let own = |of: &Value| (of["name"].clone(), of["dropped"].clone(), of["loss"].clone());
        assert!(rows(&plain).iter().any(|other| own(other) == own(row)), "{row}");
        let numbers: Vec<String> = row["dropped"].as_array().unwrap().iter().map(Value::to_string).collect();
        let drop = numbers.join(",");
        let repair = format!("--repair fold --data text.jsonl --seq-len 16 -o cut-{}", seen.len());
        let cut = desk.json(&format!("cut model --drop {drop} {repair} --json"));
        let told = &cut["repair"]["result"];
        for key in ["cut", "repaired", "step"] {
            assert_eq!(told[key], row["repaired"][key], "{row}");
        }
        seen.push(row["repaired"]["repaired"].as_f64().unwrap());
    }
    assert!(seen.is_sorted() && seen.len() == 5, "{seen:?}");
    let kept = read(&desk.path("out/methods.json"));
    assert_eq!(kept["repair"], report["repair"]);
    assert!(kept["methods"][0]["repaired"].get("seconds").is_none());
    let told = String::from_utf8(desk.run(&format!("{rank} --repair fold")).stdout).unwrap();
    assert!(told.contains(" repaired ") && told.contains("after fold, fitted on the other 9"), "{told}");
    let line = told.lines().find_map(|line| line.strip_prefix("the best: prune ")).unwrap();
    assert!(line.contains(" --repair fold --data text.jsonl --samples 12 --seq-len 16 "), "{line}");
    assert!(desk.run(&line.replace("DIR", "smaller")).status.success(), "{line}");
    desk.refused(&format!("{rank} --repair average"), 2, &["--repair average", "no text"]);
    desk.refused(&format!("{rank} --repair refit --samples 1"), 2, &["tokens to fit on"]);
    desk.refused("methods --repair fold", 2, &["--repair goes with a model"]);
}
