//! Healing of inserted layers alone, by adapters or whole: all else of the model stays bit for bit.

use std::collections::BTreeSet;
use std::fs;

use serde_json::json;

use crate::fixture::desk::{Desk, read};

const HEAL: &str = "--data text.jsonl --eval-data text.jsonl --seq-len 16 --steps 12 --batch 2 --lr 5e-3 --warmup 0 --layers-to-transform \
     inserted";

/// A directory with a model that has two layers more than before: 2 and 5 of 6.
fn desk() -> Desk {
    let desk = Desk::new();
    desk.json("grow model --after 1 -o once --json");
    desk.json("grow once --after 4 --by copy -o grown --json");
    assert_eq!(read(&desk.path("grown/prune.json"))["inserted"], json!([2, 5]));
    desk
}

/// Layers, of all whose bytes `model` has otherwise than the grown model; nothing else may differ.
fn changed(desk: &Desk, model: &str) -> BTreeSet<usize> {
    let tensors = |model: &str| {
        let path = desk.path(model).join("model.safetensors");
        candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap()
    };
    let (before, after) = (tensors("grown"), tensors(model));
    assert_eq!(before.len(), after.len());
    let numbers = |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let changed = after.iter().filter(|(name, tensor)| numbers(tensor) != numbers(&before[*name]));
    changed
        .map(|(name, _)| name.strip_prefix("model.layers.").unwrap().split('.').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn only_inserted_layers_are_trained() {
    let desk = desk();
    for (train, target) in [("lora --rank 2 --dropout 0", "--target all-linear"), ("layers", "")] {
        let out = train.split(' ').next().unwrap();
        let report = desk.json(&format!("heal grown {HEAL} --train {train} {target} --quant none -o {out} --json"));
        let measured = &report["result"]["measured"];
        let (before, after) = (measured["cut"].as_f64().unwrap(), measured["healed"].as_f64().unwrap());
        assert!(after < before - 1e-5, "{train}: {measured}");
        assert_eq!(changed(&desk, &format!("{out}/merged")), [2, 5].into(), "{train}");
        let record = read(&desk.path(out).join("heal.json"));
        assert_eq!(record["settings"]["layers_to_transform"], json!([2, 5]));
        // named by number, it is the same run
        let line = format!("heal grown {HEAL} --train {train} {target} --quant none -o again --json");
        desk.json(&line.replace("inserted", "2,5"));
        let bytes = |out: &str| fs::read(desk.path(out).join("merged/model.safetensors")).unwrap();
        assert!(bytes(out) == bytes("again"));
        fs::remove_dir_all(desk.path("again")).unwrap();
        // what was inserted stays known
        assert_eq!(read(&desk.path(out).join("merged/prune.json"))["inserted"], json!([2, 5]));
        let card = fs::read_to_string(desk.path(out).join("merged/README.md")).unwrap();
        assert!(card.contains("6 layers, 2 of them inserted") && !card.contains("--drop"), "{card}");
    }
    // whole layers beside frozen ones in four bits
    let line = format!("heal grown {HEAL} --train layers -o four --json");
    let estimate = desk.json(&format!("{line} --dry-run"))["estimate"].clone();
    let layer: u64 = {
        let tensors = candle_core::safetensors::load(desk.path("grown/model.safetensors"), &candle_core::Device::Cpu);
        let own = tensors.unwrap().into_iter().filter(|(name, _)| name.starts_with("model.layers.2."));
        own.map(|(_, tensor)| tensor.elem_count() as u64).sum()
    };
    assert_eq!(estimate["trained"], json!(2 * layer));
}

#[test]
fn what_is_not_there_is_not_trained() {
    let desk = Desk::new();
    desk.refused(&format!("heal model {HEAL} -o out"), 2, &["layers_to_transform is inserted", "2,5,8"]);
    desk.refused("heal model --data text.jsonl --train layers -o out", 2, &["train = \"layers\"", "inserted"]);
    let line = "heal model --data text.jsonl --train layers --layers-to-transform 3-4 -o out --dry-run";
    desk.refused(line, 2, &["names layer 4, but the model has 4 layers"]);
}
