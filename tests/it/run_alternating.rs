//! `prune run` with `alternating`: cut, repaired, healed, and on from there, as the single commands would.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, lasting_files};

const RECIPE: &str = r#"
model = "model"

[drop]
layers = [1, 2, 4]
methods = ["shortgpt"]
alternating = true

[analyze]
data = "text.jsonl"
metrics = ["angular", "block-influence"]

[repair]
methods = ["none", "scale"]
data = "text.jsonl"
samples = 8

[heal]
data = "text.jsonl"
seq_len = 8
rank = 2
steps = 3
batch = 2
save_every = 1
warmup = 1
lr = 0.05

[eval]
tasks = ["text:text.jsonl"]
"#;

fn desk() -> Desk {
    let desk = Desk::in_memory();
    Llama { layers: 7, ..Llama::default() }.write(&desk.path("model"));
    fs::write(desk.path("recipe.toml"), RECIPE).unwrap();
    desk
}

fn stages(report: &Value, is_done: bool) -> BTreeSet<String> {
    let stages = report["stages"].as_array().unwrap().iter().filter(|stage| stage["is_done"] == json!(is_done));
    stages.map(|stage| stage["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn rounds_are_what_single_commands_make() {
    let desk = desk();
    let planned = stages(&desk.json("run recipe.toml -o job --dry-run --json"), false);
    assert!(planned.contains("shortgpt-2-scale/analysis") && !planned.contains("shortgpt-1/analysis"), "{planned:?}");
    let report = desk.json("run recipe.toml -o job --json");
    assert_eq!(stages(&report, false), planned);

    let heal = "--data text.jsonl --seq-len 8 --rank 2 --steps 3 --batch 2 --save-every 1 --warmup 1 --lr 0.05";
    for (repair, place) in [("", ""), (" --repair scale --data text.jsonl --samples 8", "-scale")] {
        let mut model = "model".to_owned();
        let mut left: Vec<usize> = (0..7).collect();
        for (size, more) in [(1, 1), (2, 1), (4, 2)] {
            let analyze = format!("analyze {model} --data text.jsonl --metrics angular,block-influence");
            desk.json(&format!("{analyze} -o analysis{place}-{size} --json"));
            let cut =
                format!("cut {model} --plan analysis{place}-{size}/analysis.json --method shortgpt --layers {more}");
            let made = desk.json(&format!("{cut}{repair} -o cut{place}-{size} --json"));
            desk.json(&format!("heal cut{place}-{size} {heal} -o healed{place}-{size} --json"));
            let weights = |dir: String| fs::read(desk.path(&dir).join("model.safetensors")).unwrap();
            let own = format!("job/shortgpt-{size}{place}");
            assert!(weights(format!("{own}/model")) == weights(format!("cut{place}-{size}")), "{place} {size}");
            model = format!("healed{place}-{size}/merged");
            assert!(weights(format!("{own}/healed/merged")) == weights(model.clone()), "{place} {size}");
            // numbers of layers are those of the dense model
            let gone: Vec<usize> = serde_json::from_value(made["dropped"].clone()).unwrap();
            let gone: BTreeSet<usize> = gone.iter().map(|layer| left[*layer]).collect();
            left.retain(|layer| !gone.contains(layer));
            let variants = report["data"]["variants"].as_array().unwrap();
            let own = variants.iter().filter(|variant| variant["dir"] == format!("shortgpt-{size}{place}"));
            let dropped: Vec<Value> = own.map(|variant| variant["dropped"].clone()).collect();
            let expected: Vec<usize> = (0..7).filter(|layer| !left.contains(layer)).collect();
            assert_eq!(dropped, [json!(expected), json!(expected)]);
        }
    }

    // nothing is left to do, and the dry run knows; another healing begins the chain anew but for its first cut
    assert!(stages(&desk.json("run recipe.toml -o job --dry-run --json"), false).is_empty());
    assert!(stages(&desk.json("run recipe.toml -o job --json"), false).is_empty());
    let again = stages(&desk.json("run recipe.toml -o job --set heal.steps=2 --dry-run --json"), false);
    assert!(again.contains("shortgpt-1/healed") && !again.contains("shortgpt-1/model"), "{again:?}");
    let further = stages(&desk.json("run recipe.toml -o job --set drop.layers=[1,2,4,5] --json"), false);
    assert!(further.iter().all(|name| name.starts_with("shortgpt-5")), "{further:?}");
}

#[cfg(unix)]
#[test]
fn processes_share_the_rounds() {
    let desk = desk();
    desk.json("run recipe.toml -o alone --json");
    let children: Vec<_> = (1..=3)
        .map(|shard| desk.command(&format!("run recipe.toml -o job --shard {shard}/3 --quiet")).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let (alone, job) = (lasting_files(&desk.path("alone")), lasting_files(&desk.path("job")));
    let names = |files: &std::collections::BTreeMap<String, Vec<u8>>| -> Vec<String> {
        files.keys().filter(|name| name.ends_with(".safetensors") || name.ends_with("results.json")).cloned().collect()
    };
    assert!(!names(&alone).is_empty());
    assert_eq!(names(&alone), names(&job));
    for name in names(&alone).iter().filter(|name| name.ends_with(".safetensors")) {
        assert!(alone[name] == job[name], "{name}");
    }
}

/// Methods whose first cut is the same share it, and each goes on from there by itself.
#[test]
fn chains_may_begin_with_one_cut() {
    let desk = desk();
    let set = "--set drop.layers=[1,2] --set drop.methods=[\"shortened-llama\",\"sleb\"] \
               --set analyze.metrics=[\"layer-loss\"] --set heal.steps=1";
    let planned = stages(&desk.json(&format!("run recipe.toml -o job {set} --dry-run --json")), false);
    let made = stages(&desk.json(&format!("run recipe.toml -o job {set} --json")), false);
    // the layer that costs least alone is the first that a search takes
    for part in ["sleb-1/model", "sleb-1-scale/model"] {
        assert!(planned.contains(part) && !made.contains(part), "{made:?}");
    }
    for part in ["sleb-2/analysis", "sleb-2/model", "sleb-2-scale/healed", "shortened-llama-2/healed"] {
        assert!(made.contains(part), "{part}: {made:?}");
    }
    assert!(stages(&desk.json(&format!("run recipe.toml -o job {set} --dry-run --json")), false).is_empty());
    let further = stages(&desk.json(&format!("run recipe.toml -o job {set} --set drop.layers=[1,2,3] --json")), false);
    assert!(further.iter().all(|name| name.contains("-3")), "{further:?}");
}

#[test]
fn what_cannot_alternate_is_refused_before_work() {
    let desk = desk();
    for (set, words) in [
        ("drop.given=[\"1\"]", "given"),
        ("drop.max_loss=0.1", "max_loss"),
        ("drop.keep=\"adapters\"", "keep"),
        ("heal.adapter_only=true", "adapter_only"),
        ("drop.methods=[\"finercut\"]", "finercut"),
    ] {
        let analyze = if set.contains("max_loss") { " --set analyze.method=shortgpt" } else { "" };
        desk.refused(&format!("run recipe.toml -o job --set {set}{analyze}"), 2, &["[drop] alternating", words]);
    }
}
