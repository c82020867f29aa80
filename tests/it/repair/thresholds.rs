//! Methods that merge as long as the final states stay alike: against independent PyTorch code on the demo's model
//! (golden/methods/README.md, section 10), and as the command does them.

use std::fs;
use std::sync::Arc;

use prune::checkpoint::Checkpoint;
use prune::model::{Loss, Residency};
use prune::progress::Silent;
use serde_json::{Value, json};

use super::{goldens, model};
use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};
use crate::fixture::material::shared;

/// Similarities and the losses of the models that are written to 2e-6: sums here are in f32, there in f64.
#[test]
fn merges_are_the_references() {
    let Some(material) = goldens::material("merges.json") else { return };
    let (demo, text) = (shared("demo/model").unwrap(), shared("demo/text/validation.jsonl").unwrap());
    for file in fs::read_dir(demo).unwrap().map(|entry| entry.unwrap()) {
        let to = material.dir().join(file.file_name());
        if !to.exists() {
            fs::copy(file.path(), to).unwrap();
        }
    }
    let desk = Desk::new();
    let ids = material.ids("rows");
    for (name, more) in [("laco", "--merge-layers 3 --interval 1"), ("sliding", "")] {
        let golden = &material.golden[name]["normed"];
        let line = format!(
            "cut {} --method {name} --threshold 0.7 {more} --data {} --samples 5 --seq-len 128 -o {name} --json",
            material.dir().display(),
            text.display()
        );
        let report = desk.json(&line);
        // what a closed window alone is like was found when it was tried
        let steps =
            golden["steps"].as_array().unwrap().iter().filter(|step| step["low"] != step["high"] || name == "laco");
        let steps: Vec<&Value> = steps.collect();
        let trials = report["merges"].as_array().unwrap();
        assert_eq!(trials.len(), steps.len(), "{name}");
        let mut most = 0.0_f64;
        for (trial, step) in trials.iter().zip(steps) {
            let apart = trial["similarity"].as_f64().unwrap() - step["similarity_normed"].as_f64().unwrap();
            most = most.max(apart.abs());
            assert_eq!(trial["stays"], step["accepted"], "{trial} {step}");
            if name == "sliding" {
                let layers: Vec<u64> = (step["low"].as_u64().unwrap()..=step["high"].as_u64().unwrap()).collect();
                assert_eq!(trial["layers"], json!(layers));
            }
        }
        let groups = golden["groups"].as_array().unwrap().iter();
        let gone: Vec<&Value> = groups.flat_map(|group| &group.as_array().unwrap()[1..]).collect();
        assert_eq!(report["dropped"], json!(gone), "{name}");
        let written = Arc::new(Checkpoint::open_dir(&desk.path(name)).unwrap());
        let losses = model(written, Residency::Resident).losses(&ids, 512, "loss", &Silent).unwrap();
        let apart = (Loss::total(&losses).mean() - golden["loss"].as_f64().unwrap()).abs();
        println!("{name}: similarities {most:.1e} and loss {apart:.1e} of 2e-6");
        assert!(most < 2e-6 && apart < 2e-6, "{name}: {most} {apart}");
        let why = &read(&desk.path(&format!("{name}/prune.json")))["steps"][0]["why"];
        assert_eq!((&why["method"], &why["threshold"]), (&json!(name), &json!(0.7)), "{why}");
    }
}

const TEXT: &str = "--data text.jsonl --samples 6 --seq-len 20";

/// A model of seven layers whose updates are small, so that merges leave it alike.
fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 7, ..Llama::default() }.write(&desk.path("model"));
    desk
}

/// Two layers merge to what they are in the plan that the cut records, which cuts to the same bytes.
#[test]
fn the_plan_says_what_was_merged() {
    let desk = desk();
    for (name, more) in [("laco", "--merge-layers 2"), ("laco", "--merge-layers 3 --interval 2"), ("sliding", "")] {
        let line = format!("cut model --method {name} --threshold -1 {more} {TEXT} -o {name} --force --verify");
        let report = desk.json(&format!("{line} --json"));
        assert!(report["merges"].as_array().unwrap().iter().all(|trial| trial["stays"] == true), "{report}");
        assert!(report["layers"]["after"].as_u64().unwrap() < 7);
        let step = read(&desk.path(&format!("{name}/prune.json")))["steps"][0].clone();
        let plan = json!({"for": step["source"], "stack": step["stack"]});
        fs::write(desk.path("plan.json"), plan.to_string()).unwrap();
        assert!(desk.run("cut model --plan plan.json -o again --force").status.success());
        let weights = |name: &str| fs::read(desk.path(name).join("model.safetensors")).unwrap();
        assert!(weights(name) == weights("again"), "{name} {more}");
        // streamed and resident choose alike
        let streamed = desk.json(&format!("{line} --memory 70MiB --json"));
        assert_eq!(streamed["merges"], report["merges"]);
    }
    let said = desk.run(&format!("cut model --method sliding --threshold -1 {TEXT} -o told"));
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("merged       4..=5: similarity 0."), "{said}");
    // what is merged is repaired like what is dropped, on as much text as without
    let text = fs::read_to_string(desk.path("text.jsonl")).unwrap().repeat(4);
    fs::write(desk.path("long.jsonl"), text).unwrap();
    let line =
        "cut model --method laco --merge-layers 2 --threshold -1 --repair fold --data long.jsonl -o repaired --json";
    let repair = desk.json(line)["repair"].clone();
    assert_eq!((&repair["fitted_on"]["sequences"], &repair["judged_by"]["sequences"]), (&json!(36), &json!(12)));
    let why = &read(&desk.path("repaired/prune.json"))["steps"][0]["why"];
    assert_eq!((&why["data"], &why["samples"]), (&json!("long.jsonl"), &json!(16)));
}

#[test]
fn what_cannot_merge_is_said_before_the_work() {
    let desk = desk();
    for (line, words) in [
        (format!("--method laco {TEXT}"), &["how much may change?", "--threshold"][..]),
        (format!("--method laco --threshold 1.5 {TEXT}"), &["--threshold 1.5", "from -1 to 1"]),
        (format!("--method laco --threshold 0.5 --merge-layers 1 {TEXT}"), &["--merge-layers 1", "at least 2"]),
        (format!("--method laco --threshold 0.5 --interval 0 {TEXT}"), &["--interval 0", "at least 1"]),
        (format!("--method laco --threshold 0.5 --merge-layers 7 {TEXT}"), &["7 layers cannot become one"]),
        (format!("--method sliding --threshold 0.5 --interval 2 {TEXT}"), &["--interval goes with --method laco"]),
        (format!("--method sliding --threshold 0.5 --layers 2 {TEXT}"), &["as many layers as its threshold"]),
        (format!("--method shortgpt --layers 2 --threshold 0.5 {TEXT}"), &["--threshold goes with --method laco"]),
        ("--method laco --threshold 0.5".to_owned(), &["which text", "--data"]),
        (format!("--method laco --threshold 0.5 --leave-out-first {TEXT}"), &["--leave-out-first goes with --repair"]),
        (format!("--method laco --threshold 0.5 --dry-run {TEXT}"), &["there is no dry run"]),
    ] {
        desk.refused(&format!("cut model {line} -o a"), 2, words);
        assert!(!desk.path("a").exists(), "{line}");
    }
    // known only after the work
    let output = desk.run(&format!("cut model --method laco --threshold 1 {TEXT} -o a"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no merge leaves the final states that alike; the nearest of 3"), "{said}");
    assert!(!desk.path("a").exists());
    let ranking = format!("methods model --layers 2 --methods laco {TEXT}");
    desk.refused(&ranking, 2, &["as many layers as its threshold", "prune cut --method laco"]);
    fs::write(desk.path("recipe.toml"), "model = 'model'\n[drop]\nmethods = ['sliding']\nlayers = [1]\n").unwrap();
    desk.refused("run recipe.toml -o job", 2, &["[drop] methods", "sliding merges as many"]);
    let analysis = desk.run(&format!("analyze model --method laco --layers 2 {TEXT} -o b"));
    assert_eq!(analysis.status.code(), Some(2));
}
