//! Adapters, as PEFT saves them, on a model that runs with them.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::heal::Merge;
use prune::model::{LoadOptions, Model, ModelOptions};
use prune::progress::Silent;
use prune::weights::lora::{Adapters, LoraSettings, Targets};
use rand::Rng as _;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Value, json};

use super::super::{json as values, tensors};
use super::{Feed, Files, small};
use crate::fixture::{Named, random};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Keys of other adapters than ours.
fn overlays() -> Vec<Value> {
    vec![
        json!({}),
        json!({"rank_pattern": {"^model.layers.0.mlp": 2, "q_proj": 4}, "alpha_pattern": {"layers.1": 3}}),
        json!({"modules_to_save": ["lm_head", "embed_tokens", "norm"]}),
        json!({"target_modules": ".*(q|v)_proj$", "exclude_modules": "layers.0"}),
        json!({"use_dora": true, "bias": "lora_only", "lora_bias": true}),
        json!({"layers_to_transform": [0, 1], "layers_pattern": "layers", "use_rslora": true}),
        json!({"target_modules": ["q_proj", "lm_head", "embed_tokens"], "trainable_token_indices": {"embed_tokens": [0,
            3]}}),
    ]
}

/// Tensors that such adapters bring besides.
fn more() -> Vec<Named> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let front = "base_model.model.";
    let all: [(&str, &[usize]); 7] = [
        ("lm_head.weight", &[16, 8]),
        ("model.norm.weight", &[8]),
        ("model.embed_tokens.lora_embedding_A", &[2, 16]),
        ("model.embed_tokens.lora_embedding_B", &[8, 2]),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", &[2, 8]),
        ("model.layers.0.self_attn.q_proj.lora_magnitude_vector", &[8]),
        ("model.layers.0.self_attn.q_proj.lora_B.bias", &[8]),
    ];
    all.map(|(name, shape)| random(&mut rng, format!("{front}{name}"), shape, Dtype::F32)).to_vec()
}

/// Both files of an adapter.
pub(super) fn adapter(dir: &Path) -> Feed {
    let model = dir.join("model");
    small().write(&model);
    let checkpoint = Arc::new(Checkpoint::open_dir(&model).unwrap());
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let settings = LoraSettings { rank: 2, targets: Targets::AllLinear, ..LoraSettings::default() };
    let own = Adapters::new(&spec, &settings, 0, &Device::Cpu).unwrap();
    own.write(dir, &spec, "model").unwrap();
    let files = Files::of(dir);
    let good = tensors::named(&files.bytes(WEIGHTS));
    let (more, overlays) = (more(), overlays());
    Box::new(move |case| {
        let mut config = files.json(CONFIG);
        let overlay = &overlays[case.rng.random_range(0..overlays.len())];
        config.as_object_mut().unwrap().extend(overlay.as_object().unwrap().clone());
        let mut weights = good.clone();
        weights.extend(
            more.iter()
                .filter(|_| overlay.as_object().is_some_and(|map| !map.is_empty()) && case.rng.random())
                .cloned(),
        );
        let (config, weights) = match case.rng.random_range(0..3) {
            0 => (config.to_string().into_bytes(), tensors::changed(&mut case.rng, &weights)),
            1 => (values::changed(&mut case.rng, &config), tensors::whole(&weights)),
            _ => (values::changed(&mut case.rng, &config), tensors::changed(&mut case.rng, &weights)),
        };
        files.replace(&[(CONFIG, config), (WEIGHTS, weights)]);
        let opened = Adapters::open_for(&files.dir, &checkpoint, &spec, &Device::Cpu);
        let Some(adapters) = case.heard(opened) else { return };
        case.heard(adapters.check_plain());
        let merge = Merge { adapters: Some(&adapters), ..Merge::default() };
        let merged = merge.blueprint(&checkpoint, &spec, prune::checkpoint::ByteSize(1 << 30), &Silent);
        case.heard(merged.and_then(|merged| merged.size()));
        let load_options = LoadOptions { adapters: Some(Arc::new(adapters)), ..LoadOptions::default() };
        let options = ModelOptions { load_options, ..ModelOptions::default() };
        let Some(model) = case.heard(Model::open(checkpoint.clone(), &options, &Silent)) else { return };
        let losses = case.heard(model.losses(&[vec![1, 2, 3, 0, 5]], 16, "fuzzing", &Silent));
        if losses.is_some_and(|losses| !losses[0].mean().is_finite()) {
            case.fault("a loss that is not finite");
        }
    })
}
