//! `prune.json` and the model card.

use std::fs;

use prune::checkpoint::sha256;
use prune::commands::cut::{CutSettings, cut};
use prune::progress::{Progress, Silent, Unit};
use prune::provenance::Provenance;
use serde_json::json;

use super::{drop_layers, files, json, open, settings};
use crate::fixture::Llama;

#[test]
fn the_history_says_what_was_done_to_what() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    Llama { layers: 6, shards: 2, ..Llama::default() }.write(&source);
    let run = CutSettings { drop: Some("2-3".into()), hash: true, ..settings(&source, &out) };
    cut(&run, &Silent).unwrap();
    let history = json(&out.join("prune.json"));
    assert_eq!(history["prune"], env!("CARGO_PKG_VERSION"));
    assert_eq!(history["layers"], json!([0, 1, 4, 5]));
    assert_eq!(history["origin"]["fingerprint"], open(&source).fingerprint());
    let step = &history["steps"][0];
    assert_eq!((&step["step"], &step["dropped"]), (&json!("cut"), &json!([2, 3])));
    assert_eq!(step["settings"], json!({"max_shard_size": "5GB", "allow_unsliced": [], "hash": true}));
    assert_eq!(step["why"]["strategy"], "given");
    assert_eq!(step["config"], json!([{"key": "num_hidden_layers", "before": 6, "after": 4}]));
    let listed = step["files"].as_object().unwrap();
    for name in ["config.json", "tokenizer.json", "LICENSE", "model-00001-of-00002.safetensors"] {
        assert_eq!(listed[name]["sha256"], sha256(&source.join(name), &Silent).unwrap(), "{name}");
        assert_eq!(listed[name]["bytes"], fs::metadata(source.join(name)).unwrap().len());
    }
    assert!(listed.contains_key("model.safetensors.index.json"));

    // without `hash`, weight files are known by their headers alone
    let quick = dir.path().join("quick");
    drop_layers(&source, "2-3", &quick);
    let quick = json(&quick.join("prune.json"));
    let shard = &quick["steps"][0]["files"]["model-00002-of-00002.safetensors"];
    assert_eq!(shard.get("sha256"), None);
    assert_eq!(shard["header_sha256"], listed["model-00002-of-00002.safetensors"]["header_sha256"]);
    let header = files(&source)[std::path::Path::new("model-00002-of-00002.safetensors")].clone();
    let length = 8 + u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
    fs::write(dir.path().join("header"), &header[..length]).unwrap();
    assert_eq!(shard["header_sha256"], sha256(&dir.path().join("header"), &Silent).unwrap());
}

#[test]
fn a_cut_of_a_cut_knows_the_first_model() {
    let dir = tempfile::tempdir().unwrap();
    let [source, once, twice] = ["source", "once", "twice"].map(|name| dir.path().join(name));
    Llama { layers: 8, ..Llama::default() }.write(&source);
    drop_layers(&source, "2-3", &once);
    drop_layers(&once, "0,4", &twice);
    let history = Provenance::read(&twice, 4).unwrap().unwrap();
    assert_eq!(history.layers, [1, 4, 5, 7]);
    assert_eq!(history.origin.layers, 8);
    assert_eq!(history.origin.id, source.to_str().unwrap());
    let dropped: Vec<_> = history.steps.iter().map(|step| step["dropped"].clone()).collect();
    assert_eq!(dropped, [json!([2, 3]), json!([0, 4])]);
    let card = fs::read_to_string(twice.join("README.md")).unwrap();
    for word in ["# source, 4 of 8 layers", "4 of its 8 decoder layers removed: 0, 2..=3, 6", "This is step 2"] {
        assert!(card.contains(word), "{word}: {card}");
    }
    // byte for byte the layers of the first model
    let (first, last) = (open(&source), open(&twice));
    for (new, old) in [(0, 1), (1, 4), (2, 5), (3, 7)] {
        let bytes = |checkpoint: &prune::checkpoint::Checkpoint, layer: usize| {
            let entry = checkpoint.index.entry(&format!("model.layers.{layer}.mlp.up_proj.weight")).unwrap();
            checkpoint.index.read(entry).unwrap()
        };
        assert_eq!(bytes(&last, new), bytes(&first, old));
    }
}

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(std::sync::Mutex<Vec<String>>);

impl Progress for Warnings {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

#[test]
fn a_history_that_is_not_ours_is_no_reason_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    Llama::default().write(&source);
    fs::write(source.join("prune.json"), "{\"plums\": 3}").unwrap();
    let warnings = Warnings::default();
    cut(&CutSettings { drop: Some("1".into()), ..settings(&source, &out) }, &warnings).unwrap();
    let warnings = warnings.0.into_inner().unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("starts anew"), "{warnings:?}");
    assert_eq!(json(&out.join("prune.json"))["layers"], json!([0, 2, 3]));
}

#[test]
fn the_card_carries_the_license_and_says_how_to_repeat_it() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("my model"), dir.path().join("out"));
    Llama { layers: 32, hidden: 8, mlp: 8, ..Llama::default() }.write(&source);
    drop_layers(&source, "21-28", &out);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    for word in [
        "---\nlibrary_name: transformers\nlicense: mit\ntags:\n- layer-pruning\n- pruned\n---\n",
        "# my model, 24 of 32 layers",
        "8 of its 32 decoder layers removed: 21..=28, counted from 0.",
        "prune cut 'my model' --drop 21..=28 -o DIR",
        "- model: \"my model\"",
        "## Usage",
        "`--prune-layers 21,22,23,24,25,26,27,28`",
        "`--drop_layers 22 23 24 25 26 27 28 29`",
        "layer_range: [0, 21]",
        "layer_range: [29, 32]",
    ] {
        assert!(card.contains(word), "{word}: {card}");
    }
    // a directory on this disk is nothing the hub could link to, and nobody else's business
    assert!(!card.contains("base_model") && !card.contains(dir.path().to_str().unwrap()), "{card}");
}
