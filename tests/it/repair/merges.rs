//! Merges: against independent PyTorch code on the demo's model (golden/methods/README.md, section 10), by their laws,
//! and as the command writes them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use prune::arch::ModelSpec;
use prune::model::{Loss, Residency};
use prune::progress::Silent;
use prune::repair::{merged, repair};
use prune::surgery::Cut;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::{cut_of, goldens, model};
use crate::fixture::desk::{Desk, read};
use crate::fixture::{Llama, to_f32, write_safetensors};

/// The model in `dir` without `drop`, merged.
fn merge(dir: &Path, drop: &str, name: &str) -> Cut {
    let (source, cut) = cut_of(dir, drop, None);
    let spec = ModelSpec::from_config(&source.config).unwrap();
    let changed = merged(repair(name).unwrap(), cut.plan(), &spec, &source).unwrap();
    cut.repaired(changed, json!({"name": name})).unwrap()
}

/// Sums and sums of squares to 1e-9 of the root mean square times the count, where the factors are whole numbers; a
/// third is one in f32. Losses to 2e-6.
#[test]
fn windows_are_the_references() {
    let Some(material) = goldens::material("merges.json") else { return };
    let ids = material.ids("rows");
    for window in material.golden["windows"].as_array().unwrap() {
        let layers: Vec<usize> = serde_json::from_value(window["layers"].clone()).unwrap();
        let drop: Vec<String> = layers[1..].iter().map(ToString::to_string).collect();
        for name in ["rdsc", "average"] {
            let cut = merge(material.dir(), &drop.join(","), name);
            let merged = Arc::new(cut.blueprint().open().unwrap());
            let mut most = 0.0_f64;
            for (part, expected) in window[name]["sum_and_square_sum"].as_object().unwrap() {
                let full = format!("model.layers.{}.{part}.weight", layers[0]);
                let shape = merged.index.entry(&full).unwrap().shape.clone();
                let numbers = merged.index.load_f32(&full, &shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
                let of = |tensor: Tensor| tensor.sum_all().unwrap().to_scalar::<f64>().unwrap();
                let (sum, square) = (of(numbers.clone()), of(numbers.sqr().unwrap()));
                let [sums, squares] = [0, 1].map(|at| expected[at].as_f64().unwrap());
                let size = (squares * numbers.elem_count() as f64).sqrt();
                most = most.max((sum - sums).abs() / size).max((square - squares).abs() / squares);
            }
            let losses = model(merged, Residency::Resident).losses(&ids, 512, "loss", &Silent).unwrap();
            let expected = window[name]["loss"].as_f64().unwrap();
            let apart = (Loss::total(&losses).mean() - expected).abs() / expected.max(1.0);
            let allowed = if name == "rdsc" { 1e-9 } else { 2e-7 };
            println!("{name} {layers:?}: sums {most:.1e} of {allowed:.0e}, loss {apart:.1e} of 2e-6");
            assert!(most < allowed && apart < 2e-6, "{name} {layers:?}: {most} {apart}");
        }
    }
}

fn numbers(dir: &Path, name: &str) -> Vec<f32> {
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    tensors[name].to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_layer_takes_in_what_goes() {
    let desk = Desk::new();
    Llama { layers: 6, dtype: Dtype::BF16, ..Llama::default() }.write(&desk.path("model"));
    for name in ["rdsc", "average"] {
        let report = desk.json(&format!("cut model --drop 2-3,5 --repair {name} -o {name} --verify --json"));
        let tensors = if name == "rdsc" { 7 } else { 9 };
        assert_eq!((&report["merged"]["name"], &report["merged"]["tensors"]), (&json!(name), &json!(2 * tensors)));
        // all but those that are made otherwise
        assert_eq!(report["identical"]["tensors"], 3 + 9 * 3 - 2 * tensors, "{name}");
        assert_eq!(report["dropped"], json!([2, 3, 5]));
        let step = read(&desk.path(&format!("{name}/prune.json")))["steps"][0].clone();
        assert_eq!(step["repair"]["name"], name);
        let card = fs::read_to_string(desk.path(&format!("{name}/README.md"))).unwrap();
        assert!(card.contains(&format!("--repair {name} -o")) && !card.contains("NaN"), "{card}");
        let of =
            |layer: usize, part: &str| numbers(&desk.path("model"), &format!("model.layers.{layer}.{part}.weight"));
        for (place, gap) in [(1, vec![1, 2, 3]), (2, vec![4, 5])] {
            for part in ["self_attn.k_proj", "mlp.down_proj", "input_layernorm"] {
                let layers: Vec<Vec<f32>> = gap.iter().map(|layer| of(*layer, part)).collect();
                let expected = (0..layers[0].len()).map(|at| {
                    let all: f32 = layers.iter().map(|layer| layer[at]).sum();
                    let value = match (name, part) {
                        ("rdsc", "input_layernorm") => layers[0][at],
                        ("rdsc", _) => all - (gap.len() - 1) as f32 * layers[0][at],
                        _ => all / gap.len() as f32,
                    };
                    half::bf16::from_f32(value).to_f32()
                });
                let found = numbers(&desk.path(name), &format!("model.layers.{place}.{part}.weight"));
                let apart =
                    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1e-3)).fold(0.0, f32::max);
                // the last bit of bf16 where a sum lies between two
                assert!(apart < 0.01, "{name} {place} {part}: {apart}");
            }
        }
    }
}

/// Layers that are all alike merge into that layer.
#[test]
fn what_is_alike_stays() {
    let dir = tempfile::tempdir().unwrap();
    let llama = Llama { layers: 4, ..Llama::default() };
    llama.write(dir.path());
    let mut tensors = llama.tensors();
    let first: Vec<_> = tensors.iter().filter(|tensor| tensor.name.contains(".layers.1.")).cloned().collect();
    for tensor in &mut tensors {
        for (from, bytes) in first.iter().map(|own| (&own.name, &own.bytes)) {
            if [2, 3].iter().any(|layer| tensor.name == from.replace(".1.", &format!(".{layer}."))) {
                tensor.bytes.clone_from(bytes);
            }
        }
    }
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    for name in ["rdsc", "average"] {
        let opened = merge(dir.path(), "2-3", name).blueprint().open().unwrap();
        for own in &first {
            let found: Vec<f32> = opened
                .index
                .load_f32(&own.name, &own.shape, &Device::Cpu)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let apart = found.iter().zip(to_f32(own.dtype, &own.bytes)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-6, "{name} {}: {apart}", own.name);
        }
    }
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let desk = Desk::new();
    let line = |drop: &str, more: &str| format!("cut model --drop {drop} --repair rdsc -o out {more}");
    for (line, words) in [
        (line("0", ""), vec!["rdsc", "first layers"]),
        (line("attn:1", "--format zeros"), vec!["whole layers"]),
        (line("1", "--data text.jsonl"), vec!["--data", "rdsc reads none"]),
        (line("1", "--samples 4"), vec!["--samples", "rdsc reads none"]),
    ] {
        desk.refused(&line, 2, &words);
        desk.refused(&format!("{line} --dry-run"), 2, &words);
    }
    let dry = desk.json(&line("1,2", "--dry-run --json"));
    assert_eq!(dry["merged"], json!({"name": "rdsc", "tensors": 7}));
    assert!(!desk.path("out").exists());
    Llama { hidden: 64, mlp: 128, heads: 4, head_dim: 16, ..Llama::default() }.write(&desk.path("wide"));
    fs::create_dir_all(desk.path("adapter")).unwrap();
    let spec = ModelSpec::from_config(&prune::checkpoint::Checkpoint::open_dir(&desk.path("wide")).unwrap().config);
    let settings = prune::weights::lora::LoraSettings::default();
    let adapters = prune::weights::lora::Adapters::new(spec.as_ref().unwrap(), &settings, 0, &Device::Cpu).unwrap();
    adapters.write(&desk.path("adapter"), spec.as_ref().unwrap(), "wide").unwrap();
    assert!(desk.run("merge wide --adapter adapter --save-4bit -o four").status.success());
    desk.refused("cut four --drop 1 --repair average -o out", 2, &["average", "four bits"]);
    let recipe = "model = 'model'\n[drop]\ngiven = ['2']\n[repair]\nmethods = ['none', 'average']\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    assert!(desk.run("run recipe.toml -o job").status.success());
    let names: Vec<Value> =
        ["", "-average"].map(|more| read(&desk.path(&format!("job/given-2{more}/model/prune.json")))).into();
    assert!(names[0]["steps"][0].get("repair").is_none() && names[1]["steps"][0]["repair"]["name"] == "average");
}
