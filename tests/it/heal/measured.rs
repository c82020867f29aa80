//! What `prune heal` says of losses, against what `prune eval` finds of the same models on the same tokens.

use std::fs;

use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::heal::shared::{difference, tensors};

/// Documents of up to 19 words and a token in front: none is cut off.
const TEXT: &str = "--data text.jsonl --eval-data text.jsonl --packing document --seq-len 32";
const SMALL: &str = "--rank 4 --target all-linear --dropout 0 --batch 4 --steps 12 --warmup 2 --lr 0.02";

/// A model that knows the text, `whole/merged`, and what a cut leaves of it.
fn desk() -> Desk {
    let desk = Desk::new();
    let train = "--rank 8 --target all-linear --dropout 0 --batch 12 --steps 40 --lr 0.03 --quant none";
    desk.json(&format!("heal model --data text.jsonl --packing document --seq-len 32 {train} -o whole --json"));
    desk.json("cut whole/merged --drop 1-2 -o small --json");
    desk
}

/// Loss of a model on the text, nats a token. The harness puts another token in front of that which the tokenizer puts
/// there, unless it is told not to.
fn loss(desk: &Desk, model: &str) -> f64 {
    let report = desk.json(&format!("eval {model} --tasks text:text.jsonl --bos false --json"));
    let figures = report["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["metric"] == "loss").unwrap()["value"].as_f64().unwrap()
}

fn near(found: &Value, expected: f64, what: &str) {
    let found = found.as_f64().unwrap_or(f64::NAN);
    assert!((found - expected).abs() < 1e-6, "{what}: {found}, expected {expected}");
}

/// Uncut, cut, unmerged and as written: each is what `eval` says of that model on those tokens.
#[test]
fn losses_are_those_of_eval() {
    let desk = desk();
    let result = &desk.json(&format!("heal small {TEXT} {SMALL} -o healed --json"))["result"];
    let measured = &result["measured"];
    let [uncut, cut, healed] = ["whole/merged", "small", "healed/merged"].map(|model| loss(&desk, model));
    near(&measured["uncut"], uncut, "uncut, which prune.json names");
    near(&measured["cut"], cut, "cut");
    near(&measured["healed"], healed, "as written");
    near(&measured["unmerged"], loss(&desk, "small --adapter healed/adapter"), "unmerged");
    near(&measured["gain"]["difference"], cut - healed, "gain");
    near(&measured["undone"], (cut - healed) / (cut - uncut), "undone");
    near(&measured["rounding"]["difference"], 0.0, "an f32 model rounds nothing");
    assert!(measured["gain"]["stderr"].as_f64().unwrap() > 0.0);
    assert_eq!(measured["text"]["sequences"], json!(12));
    assert!(uncut < healed && healed < cut, "{uncut} {healed} {cut}");
    // the four-bit figures are others, and stand beside them
    assert!((result["best_loss"].as_f64().unwrap() - healed).abs() > 1e-5);

    // heal.json, log and curve tell the same
    assert_eq!(&read(&desk.path("healed/heal.json"))["result"], result);
    let log = fs::read_to_string(desk.path("healed/log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, name) in lines.iter().zip(["uncut", "cut", "unmerged", "healed"]) {
        assert_eq!((&line["measured"], &line["loss"]), (&json!(name), &measured[name]));
    }
    let curve = fs::read_to_string(desk.path("healed/loss.svg")).unwrap();
    assert!(["uncut", "cut", "healed, as written"].iter().all(|name| curve.contains(name)));
    let said = String::from_utf8(desk.run(&format!("heal small {TEXT} {SMALL} -o healed")).stdout).unwrap();
    for words in [format!("uncut {uncut:.4}   cut {cut:.4}   healed, as written {healed:.4}"), "text.jsonl".to_owned()]
    {
        assert!(said.contains(&words), "{words}: {said}");
    }
    assert!(said.contains("of the damage undone") && said.contains("weights in NF4"), "{said}");
}

/// The adapter alone: measured on the model as it is. A reference that is named, and one that does not fit.
#[test]
fn an_adapter_alone_and_a_reference() {
    let desk = desk();
    fs::remove_file(desk.path("small/prune.json")).unwrap();
    let heal = format!("heal small {TEXT} {SMALL} --json");
    let unknown = &desk.json(&format!("{heal} --adapter-only -o alone"))["result"]["measured"];
    assert_eq!([&unknown["uncut"], &unknown["undone"], &unknown["rounding"]], [&json!(null); 3]);
    near(&unknown["healed"], loss(&desk, "small --adapter alone/adapter"), "as written");
    let known = &desk.json(&format!("{heal} --reference whole/merged -o named"))["result"]["measured"];
    near(&known["uncut"], loss(&desk, "whole/merged"), "uncut");
    assert_eq!(known["reference"], json!("whole/merged"));
    crate::fixture::Llama { vocab: 80, ..Default::default() }.write(&desk.path("wordy"));
    desk.refused(&format!("heal small {TEXT} {SMALL} --reference wordy -o h"), 2, &["--reference", "80", "64"]);
    desk.refused("heal small --data text.jsonl --seq-len 8 --reference model -o h", 2, &["--eval-data"]);
}

/// Trained against the weights that are written, nothing is lost: the last validation is the loss of the merged model.
/// Merged onto what four bits leave, it is that of the four-bit model with its adapter.
#[test]
fn what_was_trained_is_what_is_written() {
    let desk = desk();
    let heal = format!("heal small {TEXT} {SMALL} --keep-last --json");
    let last = |desk: &Desk, out: &str| {
        let log = fs::read_to_string(desk.path(out).join("log.jsonl")).unwrap();
        let lines = log.lines().rev().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|line| line["val_loss"].as_f64()).next().unwrap()
    };
    let plain = desk.json(&format!("{heal} --quant none -o plain"));
    near(&plain["result"]["measured"]["healed"], last(&desk, "plain"), "full precision");

    let rounded = desk.json(&format!("{heal} --merge-onto quantized --save-4bit -o rounded"));
    let measured = &rounded["result"]["measured"];
    near(&measured["healed"], last(&desk, "rounded"), "onto what four bits leave");
    near(&measured["healed"], loss(&desk, "rounded/base-4bit --adapter rounded/adapter"), "the base in four bits");
    let full = desk.json(&format!("{heal} -o full"));
    assert!((full["result"]["measured"]["healed"].as_f64().unwrap() - last(&desk, "full")).abs() > 1e-5);

    // `prune merge` makes the same of the adapter
    desk.json("merge small --adapter rounded/adapter --merge-onto quantized -o again --json");
    let weights = |dir: &str| tensors(desk.path(dir).join("model.safetensors"));
    let (ours, again, small) = (weights("rounded/merged"), weights("again"), weights("small"));
    assert!(ours.iter().all(|(name, tensor)| difference(tensor, &again[name]) == 0.0));
    assert_eq!(difference(&ours["model.norm.weight"], &small["model.norm.weight"]), 0.0);
    desk.refused("merge small --adapter rounded/adapter --plain-scales -o no", 2, &["plain_scales", "merge_onto"]);
}

/// Validation has the sequences that training has; the output says which.
#[test]
fn validation_is_packed_as_training_is() {
    let desk = desk();
    let text = |packing: &str, out: &str| {
        let heal = format!("heal small --data text.jsonl --eval-data text.jsonl --packing {packing} --seq-len 10");
        let few = "--rank 2 --batch 2 --steps 2 --eval-samples 5";
        desk.json(&format!("{heal} {few} -o {out} --json"))["result"]["measured"]["text"].clone()
    };
    let expected = |packing: &str, tokens: usize| {
        json!({"source": "text.jsonl", "sequences": 5, "seq_len": 10,
        "packing": packing, "tokens": tokens})
    };
    assert_eq!(text("packed", "a"), expected("packed", 50));
    // of the first five documents, of 9 to 13 tokens, at most ten each
    assert_eq!(text("document", "b"), expected("document", 49));
}
