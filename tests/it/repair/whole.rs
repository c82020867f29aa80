//! A cut that is repaired once more: told its whole model, it follows that one, whatever was done to it since.

use std::fs;

use serde_json::Value;

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

const TEXT: &str = "--data text.jsonl --samples 12 --seq-len 20";

fn desk() -> Desk {
    let desk = Desk::new();
    Llama { layers: 7, ..Llama::default() }.write(&desk.path("model"));
    assert!(desk.run("cut model --drop 2-3,attn:5 --format per-layer -o plain").status.success());
    desk
}

fn weights(desk: &Desk, name: &str) -> Vec<u8> {
    fs::read(desk.path(name).join("model.safetensors")).unwrap()
}

/// A cut repaired afterwards is the cut repaired at once, bit for bit: below the seam nothing is to be brought back.
#[test]
fn later_as_at_once() {
    let desk = desk();
    for repair in ["refit", "fold", "scale", "joint"] {
        let drop = "--drop 2-3,attn:5 --format per-layer";
        let at_once = desk.json(&format!("cut model {drop} --repair {repair} {TEXT} -o once --force --json"));
        let line = format!("cut plain --whole model --repair {repair} {TEXT} -o later --force --json");
        let later = desk.json(&line);
        assert!(weights(&desk, "once") == weights(&desk, "later"), "{repair}");
        assert_ne!(weights(&desk, "plain"), weights(&desk, "later"), "{repair}");
        for key in ["whole", "cut", "repaired", "step"] {
            assert_eq!(at_once["repair"]["result"][key], later["repair"]["result"][key], "{repair} {key}");
        }
        let history: Value = read(&desk.path("later/prune.json"));
        assert_eq!(history["layers"], serde_json::json!([0, 1, 4, 5, 6]));
        assert_eq!(history["steps"][1]["repair"]["whole"]["layers"], 7, "{history}");
        assert_eq!(history["steps"].as_array().unwrap().len(), 2);
    }
}

/// Of a model that was healed every layer has something to be brought back, and the loss of the judging text falls.
#[test]
fn after_healing_every_projection_is_looked_at() {
    let desk = desk();
    let heal = "heal plain --data text.jsonl --seq-len 20 --steps 4 --batch 2 --rank 2 --lr 1e-2 --warmup 0 -o healed";
    assert!(desk.run(heal).status.success());
    let line = format!("cut healed/merged --whole model --repair refit {TEXT} -o again");
    let planned = desk.json(&format!("{line} --dry-run --json"));
    assert!(planned["repair"]["memory_bytes"].as_u64().unwrap() > 0 && planned["dropped"] == serde_json::json!([]));
    let report = desk.json(&format!("{line} --json"));
    let result = &report["repair"]["result"];
    // five layers, one without attention; the first attention is the whole model's still, as MLPs were trained
    assert_eq!(result["projections"].as_array().unwrap().len(), 8, "{result}");
    assert_eq!(result["projections"][0]["layer"], 0);
    let loss = |key: &str| result[key].as_f64().unwrap();
    assert!(loss("repaired") <= loss("cut"), "{result}");
    let healed = desk.json(&format!("cut plain --whole model --repair refit {TEXT} -o plainly --json"));
    assert_eq!(healed["repair"]["result"]["whole"], result["whole"]);
    assert_ne!(healed["repair"]["result"]["cut"], result["cut"], "healed is another model");
    // and once more: what was fitted is the model now
    let line = line.replace("healed/merged", "again").replace("-o again", "-o third");
    let third = desk.json(&format!("{line} --json"));
    let (cut, before) = (third["repair"]["result"]["cut"].as_f64().unwrap(), loss("repaired"));
    assert!((cut - before).abs() < 1e-5, "{cut} {before}");
    let history: Value = read(&desk.path("third/prune.json"));
    let steps: Vec<&str> =
        history["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert!(steps.starts_with(&["cut", "heal"]) && steps.ends_with(&["cut", "cut"]), "{steps:?}");
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let desk = desk();
    Llama { layers: 8, ..Llama::default() }.write(&desk.path("other"));
    fs::create_dir(desk.path("bare")).unwrap();
    for file in fs::read_dir(desk.path("plain")).unwrap().map(|entry| entry.unwrap().path()) {
        if file.is_file() && !file.ends_with("prune.json") {
            fs::copy(&file, desk.path("bare").join(file.file_name().unwrap())).unwrap();
        }
    }
    for (line, words) in [
        (format!("cut plain --whole other --repair refit {TEXT}"), &["--whole other", "another model"][..]),
        (format!("cut bare --whole model --repair refit {TEXT}"), &["no prune.json"]),
        ("cut plain --whole model".to_owned(), &["--whole goes with a --repair", "refit"]),
        ("cut plain --whole model --repair average".to_owned(), &["--whole goes with a --repair"]),
        (format!("cut plain --whole model --repair operator {TEXT}"), &["--whole goes with a --repair"]),
        (format!("cut plain --whole model --repair streamline {TEXT}"), &["--whole goes with a --repair"]),
        ("cut plain --whole model --repair refit".to_owned(), &["which text"]),
        (format!("cut plain --whole nowhere --repair refit {TEXT}"), &["nowhere"]),
    ] {
        desk.refused(&format!("{line} -o out"), 2, words);
    }
    assert!(!desk.path("out").exists());
    let both = desk.run(&format!("cut plain --whole model --drop 1 --repair refit {TEXT} -o out"));
    assert_eq!(both.status.code(), Some(2));
}
