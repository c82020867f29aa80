//! Adapters that are not the same in every layer: ranks that rise, and some layers only.

use std::collections::BTreeMap;
use std::fs;

use candle_core::Device;
use prune::arch::{ModelSpec, Role};
use prune::weights::lora::{Adapters, LayerList, LoraSettings, RankSchedule, Targets};
use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};
use crate::heal::shared::{difference, tensors};

fn spec(layers: usize) -> ModelSpec {
    ModelSpec::from_config(&Llama { layers, ..Llama::default() }.config()).unwrap()
}

fn layers(text: &str) -> Option<LayerList> {
    Some(text.parse().unwrap())
}

fn written(adapters: &Adapters, spec: &ModelSpec) -> (tempfile::TempDir, Value) {
    let dir = tempfile::tempdir().unwrap();
    adapters.write(dir.path(), spec, "base").unwrap();
    let config = read(&dir.path().join("adapter_config.json"));
    (dir, config)
}

/// Ranks and scales of every module are those of the line, in the files of PEFT too; other patterns come first.
#[test]
fn ranks_rise_from_the_lowest_adapted_layer_to_the_highest() {
    let spec = spec(8);
    let ranks: RankSchedule = "2..6".parse().unwrap();
    for (alpha, own) in [(None, false), (Some(12.0), true)] {
        let settings = LoraSettings {
            alpha,
            targets: Targets::AllLinear,
            layers_to_transform: layers("1,3-5,7"),
            rank_pattern: if own { [("layers.3.mlp.up_proj".to_owned(), 7)].into() } else { [].into() },
            ..LoraSettings::default()
        };
        let settings = settings.with_ranks(ranks, &spec).unwrap();
        let adapters = Adapters::new(&spec, &settings, 0, &Device::Cpu).unwrap();
        assert_eq!(Adapters::count(&spec, &settings).unwrap() as usize, adapters.parameters());
        // 2, 3.33, 4, 4.67, 6
        let expected = BTreeMap::from([(1, 2), (3, 3), (4, 4), (5, 5), (7, 6)]);
        assert_eq!(adapters.modules.len(), 5 * 7);
        for ((layer, role), adapter) in &adapters.modules {
            let rank = if own && (*layer, *role) == (3, Role::Up) { 7 } else { expected[layer] };
            assert_eq!(adapter.rank().unwrap(), rank, "layer {layer}");
            assert_eq!(adapter.scale, alpha.map_or(1.0, |alpha| alpha / rank as f64), "layer {layer}");
        }
        let (dir, config) = written(&adapters, &spec);
        assert_eq!((&config["r"], &config["layers_to_transform"]), (&json!(2), &json!([1, 3, 4, 5, 7])));
        assert!(config["target_modules"].as_array().unwrap().contains(&json!("q_proj")), "{config}");
        assert_eq!(config["rank_pattern"][r"layers\.(4)\..*"], json!(4), "{config}");
        assert_eq!(config["alpha_pattern"].as_object().unwrap().len(), if own { 0 } else { 5 });
        let again = Adapters::open(dir.path(), &spec, &Device::Cpu).unwrap();
        assert!(adapters.modules.keys().eq(again.modules.keys()));
        for (module, adapter) in &adapters.modules {
            assert_eq!(difference(&adapter.a, &again.modules[module].a), 0.0);
            assert_eq!(adapter.scale, again.modules[module].scale);
        }
        // named one by one, they are the same adapter
        let (dir, config) = written(&again, &spec);
        assert_eq!(config["layers_to_transform"], json!(null));
        assert!(Adapters::open(dir.path(), &spec, &Device::Cpu).unwrap().modules.keys().eq(again.modules.keys()));
    }
}

/// A number is what it was: no patterns, nothing said of layers; the same line at both ends is that number.
#[test]
fn a_number_is_every_layers() {
    let spec = spec(4);
    let plain = LoraSettings { rank: 3, ..LoraSettings::default() };
    let same = LoraSettings::default().with_ranks(3.into(), &spec).unwrap();
    assert_eq!(plain, same);
    let line = LoraSettings::default().with_ranks("3..3".parse().unwrap(), &spec).unwrap();
    let [plain, line] = [plain, line].map(|settings| Adapters::new(&spec, &settings, 0, &Device::Cpu).unwrap());
    assert_eq!(plain.serialize(&spec).unwrap(), line.serialize(&spec).unwrap());
    let none = LoraSettings { layers_to_transform: layers("9"), ..LoraSettings::default() };
    assert_eq!(Adapters::new(&spec, &none, 0, &Device::Cpu).unwrap_err().exit_code(), 2);
}

const HEAL: &str = "heal model --data text.jsonl --eval-data text.jsonl --seq-len 8 --batch 2 --steps 6 --warmup 1 \
                    --lr 0.05 --quant none --dropout 0 --save-every 2 --keep-last";

/// Healed, merged, read back and healed on; what is measured of the merged model is measured of the adapter.
#[test]
fn healed_merged_and_healed_on() {
    let desk = Desk::new();
    let report =
        desk.json(&format!("{HEAL} --rank 1..4 --layers-to-transform 1-3 --target all-linear -o healed --json"));
    let measured = &report["result"]["measured"];
    let loss = measured["healed"].as_f64().unwrap();
    assert!(loss < measured["cut"].as_f64().unwrap() - 0.01, "{measured}");
    let record = read(&desk.path("healed/heal.json"));
    assert_eq!(record["settings"]["rank"], json!("1..4"));
    assert_eq!(record["settings"]["layers_to_transform"], json!([1, 2, 3]));
    let card = fs::read_to_string(desk.path("healed/adapter/README.md")).unwrap();
    assert!(card.contains("LoRA of rank 1..4 on all-linear of layers 1..=3"), "{card}");
    let config = read(&desk.path("healed/adapter/adapter_config.json"));
    assert_eq!(config["rank_pattern"], json!({r"layers\.(1)\..*": 1, r"layers\.(2)\..*": 3, r"layers\.(3)\..*": 4}));

    let eval = |model: &str| {
        let report = desk.json(&format!("eval {model} --tasks text:text.jsonl --json"));
        let figures = report["figures"].as_array().unwrap().clone();
        figures.iter().find(|figure| figure["metric"] == "loss").unwrap()["value"].as_f64().unwrap()
    };
    assert!((eval("model --adapter healed/adapter") - eval("healed/merged")).abs() < 1e-5);
    desk.json("merge model --adapter healed/adapter -o merged --json");
    let read = |place: &str| fs::read(desk.path(place).join("model.safetensors")).unwrap();
    assert!(read("merged") == read("healed/merged"));

    desk.json(&format!("{HEAL} --adapter healed/adapter --adapter-only -o on --json"));
    let file = "adapter/adapter_model.safetensors";
    let (before, after) = (tensors(desk.path("healed").join(file)), tensors(desk.path("on").join(file)));
    assert_eq!(before.len(), after.len());
    for (name, tensor) in &before {
        assert_eq!(tensor.dims(), after[name].dims(), "{name}");
        assert!(difference(tensor, &after[name]) > 0.0, "{name} was not trained");
    }
}

/// Layers below the lowest adapted one keep nothing for the way back, and the plan knows it.
#[test]
fn fewer_layers_take_less() {
    let desk = Desk::new();
    let memory = |layers: &str| {
        let report = desk.json(&format!("{HEAL} --rank 2 --layers-to-transform {layers} --dry-run --json"));
        let number = |key: &str| report["estimate"][key].as_u64().unwrap();
        (number("memory"), number("inputs"), number("trained"), number("layers_kept"))
    };
    let (all, top) = (memory("0-3"), memory("3"));
    assert!(top.0 < all.0 && top.1 * 4 == all.1 && top.2 * 4 == all.2, "{top:?} {all:?}");
    assert_eq!((all.3, top.3), (4, 1));
}

#[test]
fn what_cannot_be_is_refused() {
    let desk = Desk::new();
    let heal = format!("{HEAL} -o healed");
    for (words, said) in [
        ("--layers-to-transform 2-4", "names layer 4, but the model has 4 layers"),
        ("--layers-to-transform attn:2", "names sub-layers"),
        ("--layers-to-transform 1 --target model.layers.2.mlp.up_proj", "none of them has"),
        ("--layers-to-transform 1 --train lm-head+last1", "layers_to_transform goes with train"),
        ("--layers-to-transform 1 --adapter a", "layers_to_transform cannot go with adapter"),
        ("--rank 4..9..12", "4..12"),
        ("--rank 0..4", "rank is 0"),
        ("--rank 4..100000", "rank is 100000"),
    ] {
        desk.refused(&format!("{heal} {words}"), 2, &[said]);
    }
}
