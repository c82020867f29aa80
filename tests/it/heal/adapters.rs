//! PEFT's files, in and out.

use std::fs;
use std::path::Path;

use candle_core::Device;
use prune::arch::{ModelSpec, Role};
use prune::checkpoint::Checkpoint;
use prune::weights::lora::{Adapters, LoraSettings, Targets};
use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::material::shared;
use crate::heal::shared::difference;

fn spec(llama: &Llama) -> ModelSpec {
    ModelSpec::from_config(&llama.config()).unwrap()
}

fn refusal(dir: &Path, spec: &ModelSpec) -> String {
    let error = Adapters::open(dir, spec, &Device::Cpu).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

fn change(dir: &Path, key: &str, value: Value) {
    let path = dir.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// PEFT's own adapter is read, and written again to the same bytes, with the same settings.
#[test]
fn pefts_files_in_and_out() {
    let Some(train) = shared("golden/nf4/train") else { return };
    let spec = ModelSpec::from_config(&Checkpoint::open_dir(&train.join("tiny-llama-bf16")).unwrap().config).unwrap();
    let adapters = Adapters::open(&train.join("adapter_init"), &spec, &Device::Cpu).unwrap();
    assert_eq!(adapters.modules.len(), 2 * 7);
    assert!(adapters.modules.values().all(|adapter| adapter.scale == 2.0));

    let dir = tempfile::tempdir().unwrap();
    adapters.write(dir.path(), &spec, "tiny-bf16").unwrap();
    let read = |dir: &Path, name: &str| fs::read(dir.join(name)).unwrap();
    let theirs = train.join("adapter_init");
    assert!(read(dir.path(), "adapter_model.safetensors") == read(&theirs, "adapter_model.safetensors"));
    let config = |dir: &Path| -> Value { serde_json::from_slice(&read(dir, "adapter_config.json")).unwrap() };
    let (ours, mut theirs) = (config(dir.path()), config(&theirs));
    let mut targets: Vec<String> = serde_json::from_value(theirs["target_modules"].clone()).unwrap();
    targets.sort();
    theirs["target_modules"] = json!(targets);
    for (key, value) in ours.as_object().unwrap() {
        assert_eq!(value, &theirs[key], "{key}");
    }
}

/// Reading an adapter back gives the adapter, patterns and partial layers included.
#[test]
fn a_written_adapter_reads_the_same() {
    let spec = spec(&Llama::default());
    let settings = LoraSettings {
        rank: 3,
        alpha: Some(6.5),
        rslora: true,
        targets: "q_proj, down_proj".parse().unwrap(),
        rank_pattern: [("down_proj".to_owned(), 2)].into(),
        alpha_pattern: [("layers.1.self_attn.q_proj".to_owned(), 12.0)].into(),
        ..LoraSettings::default()
    };
    let mut adapters = Adapters::new(&spec, &settings, 7, &Device::Cpu).unwrap();
    assert_eq!(adapters.modules[&(1, Role::Q)].scale, 12.0 / 3f64.sqrt());
    assert_eq!(adapters.modules[&(0, Role::Down)].scale, 6.5 / 2f64.sqrt());
    adapters.modules.remove(&(2, Role::Q));
    let dir = tempfile::tempdir().unwrap();
    adapters.write(dir.path(), &spec, "base").unwrap();
    let again = Adapters::open(dir.path(), &spec, &Device::Cpu).unwrap();
    assert!(adapters.modules.keys().eq(again.modules.keys()));
    for (module, adapter) in &adapters.modules {
        let other = &again.modules[module];
        assert_eq!(difference(&adapter.a, &other.a) + difference(&adapter.b, &other.b), 0.0);
        assert_eq!(adapter.scale, other.scale);
    }
}

/// A starts uniform within ±1/√i, B at zero, and every module with numbers of its own.
#[test]
fn fresh_adapters() {
    let spec = spec(&Llama::default());
    let settings = LoraSettings { targets: Targets::AllLinear, ..LoraSettings::default() };
    let adapters = Adapters::new(&spec, &settings, 0, &Device::Cpu).unwrap();
    let mut firsts = Vec::new();
    for adapter in adapters.modules.values() {
        let a: Vec<f32> = adapter.a.flatten_all().unwrap().to_vec1().unwrap();
        let bound = 1.0 / (adapter.a.dims()[1] as f32).sqrt();
        let largest = a.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let mean = a.iter().sum::<f32>() / a.len() as f32;
        assert!(largest <= bound && largest > 0.95 * bound && mean.abs() < 0.1 * bound);
        assert_eq!(adapter.b.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
        firsts.push(a[0].to_bits());
    }
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), adapters.modules.len());
    let alone = LoraSettings { targets: Targets::Mlp, ..LoraSettings::default() };
    let alone = Adapters::new(&spec, &alone, 0, &Device::Cpu).unwrap();
    assert_eq!(difference(&alone.modules[&(2, Role::Up)].a, &adapters.modules[&(2, Role::Up)].a), 0.0);
}

/// Targets by group and by name; a name that is not there lists those that are.
#[test]
fn targets() {
    let spec = spec(&Llama::default());
    let roles_of = |text: &str, spec: &ModelSpec| {
        let modules = text.parse::<Targets>().unwrap().modules(spec)?;
        Ok::<_, prune::Error>(
            modules.into_iter().filter(|(layer, ..)| *layer == 1).map(|(_, role, _)| role).collect::<Vec<_>>(),
        )
    };
    let roles = |text: &str| roles_of(text, &spec);
    assert_eq!(roles("mlp").unwrap(), [Role::Gate, Role::Up, Role::Down]);
    assert_eq!(roles("attention").unwrap(), [Role::Q, Role::K, Role::V, Role::O]);
    assert_eq!(roles("all-linear").unwrap().len(), 7);
    assert_eq!(roles("v_proj,mlp.up_proj").unwrap(), [Role::V, Role::Up]);
    let error = roles("gate_up_proj").unwrap_err().to_string();
    assert!(error.contains("gate_up_proj") && error.contains("q_proj, k_proj"), "{error}");
    let fused = ModelSpec { fused_qkv: true, fused_gate_up: true, ..spec.clone() };
    assert_eq!(roles_of("mlp", &fused).unwrap(), [Role::GateUp, Role::Down]);
    assert_eq!(roles_of("qkv_proj", &fused).unwrap(), [Role::Qkv]);
    assert!(roles_of("up_proj", &fused).is_err());
}

/// An adapter for another model is refused with what differs; so is one that is more than plain LoRA.
#[test]
fn misfits_are_named() {
    let spec = spec(&Llama::default());
    let settings = LoraSettings { rank: 2, ..LoraSettings::default() };
    let adapters = Adapters::new(&spec, &settings, 0, &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let fresh = || {
        fs::read_dir(dir).unwrap().for_each(|file| fs::remove_file(file.unwrap().path()).unwrap());
        adapters.write(dir, &spec, "base").unwrap();
    };
    fresh();

    let deeper = ModelSpec { layers: 6, ..spec.clone() };
    let message = refusal(dir, &deeper);
    assert!(message.contains("layers.4.") && message.contains("has 6 layers"), "{message}");
    let shallower = ModelSpec { layers: 3, ..spec.clone() };
    let message = refusal(dir, &shallower);
    assert!(message.contains("a layer 3") && message.contains("has 3 layers"), "{message}");
    let wider = ModelSpec { mlp_size: 28, ..spec.clone() };
    let message = refusal(dir, &wider);
    assert!(message.contains("has shape [24, 2], expected [28, 2]"), "{message}");

    for (key, value, word) in [
        ("use_dora", json!(true), "lora_magnitude_vector"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("peft_type", json!("IA3"), "IA3"),
        ("task_type", json!("SEQ_CLS"), "SEQ_CLS"),
        ("bias", json!("some"), "bias"),
        ("init_lora_weights", json!("pissa"), "pissa"),
        ("r", json!(4), "expected [4, "),
        ("target_modules", json!(["up_proj", "gate_proj", "down_proj", "q_proj"]), "q_proj"),
        ("target_modules", json!(["up_proj", "gate_proj"]), "down_proj"),
    ] {
        fresh();
        change(dir, key, value);
        let message = refusal(dir, &spec);
        assert!(message.contains(word), "{message}");
    }
    fresh();
    change(dir, "target_modules", json!(r".*\.mlp\..*_proj"));
    assert!(Adapters::open(dir, &spec, &Device::Cpu).is_ok());
    fs::remove_file(dir.join("adapter_model.safetensors")).unwrap();
    assert!(refusal(dir, &spec).contains("adapter_model.safetensors"));
    assert!(refusal(&dir.join("nowhere"), &spec).contains("nowhere: no such directory"));

    for settings in [
        LoraSettings { rank: 0, ..settings.clone() },
        LoraSettings { dropout: 1.0, ..settings.clone() },
        LoraSettings { alpha: Some(0.0), ..settings.clone() },
        LoraSettings { rank_pattern: [("q_proj".to_owned(), 4)].into(), ..settings.clone() },
    ] {
        assert_eq!(Adapters::new(&spec, &settings, 0, &Device::Cpu).unwrap_err().exit_code(), 2);
    }
}
