//! Models that open, and are run: a config and weights that nobody would write.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::model::{Model, ModelOptions, memory};
use prune::ops::Nf4Weight;
use prune::progress::Silent;
use prune::weights::four_bit::{parts, quantization_config};
use rand::Rng as _;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::super::case::Case;
use super::super::{json as values, tensors};
use super::{Feed, Files, small};
use crate::fixture::{Llama, Named, to_f32};

/// Opens and runs the model in `dir`.
fn ran(case: &mut Case<'_>, dir: &Path) {
    let Some(checkpoint) = case.heard(Checkpoint::open_dir(dir)) else { return };
    let Some(spec) = case.heard(ModelSpec::from_config(&checkpoint.config)) else { return };
    if case.heard(spec.check(&checkpoint.index)).is_none() {
        return;
    }
    let _ = memory::expected(&spec, 1 << 20, 64, 0);
    let (options, checkpoint) = (ModelOptions::default(), Arc::new(checkpoint));
    let Some(model) = case.heard(Model::open(checkpoint, &options, &Silent)) else { return };
    let words = model.spec().vocab_size.min(16) as u32;
    let text: Vec<u32> = (0..9).map(|at| at % words).collect();
    let Some(losses) = case.heard(model.losses(&[text.clone(), text[..2].to_vec()], 16, "fuzzing", &Silent)) else {
        return;
    };
    if !losses.iter().all(|loss| loss.mean().is_finite()) {
        case.fault("a loss that is not finite");
    }
}

/// What configs of all families say.
fn overlays() -> Vec<Value> {
    vec![
        json!({}),
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}}),
        json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32,
               "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.5}}),
        json!({"rope_scaling": {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64,
               "short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0]}}),
        json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "rope_theta": 500_000.0}),
        json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
            "rope_scaling": null}),
        json!({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4}),
        json!({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true,
            "sliding_window": 4,
               "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention"]}),
        json!({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": false}),
        json!({"model_type": "smollm3", "architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0],
               "no_rope_layer_interval": 2}),
        json!({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.5}),
        json!({"model_type": "granite", "architectures": ["GraniteForCausalLM"], "embedding_multiplier": 12.0,
               "logits_scaling": 8.0, "residual_multiplier": 0.2, "attention_multiplier": 0.1}),
        json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}, "n_layers": 2,
            "pretraining_tp": 1}),
    ]
}

/// `config.json`.
pub(super) fn config(dir: &Path) -> Feed {
    let model = Llama { config: Map::from_iter([("use_cache".to_owned(), json!(true))]), ..small() };
    model.write(dir);
    let files = Files::of(dir);
    let good: Vec<Value> = overlays()
        .iter()
        .map(|overlay| {
            let mut config = files.json("config.json");
            config.as_object_mut().unwrap().extend(overlay.as_object().unwrap().clone());
            config
        })
        .collect();
    Box::new(move |case| {
        let good = &good[case.rng.random_range(0..good.len())];
        files.replace(&[("config.json", values::changed(&mut case.rng, good))]);
        ran(case, &files.dir);
    })
}

/// Weights that a good config describes, or no more.
pub(super) fn weights(dir: &Path) -> Feed {
    let model = small();
    model.write(dir);
    let (good, files) = (model.tensors(), Files::of(dir));
    Box::new(move |case| {
        files.replace(&[("model.safetensors", tensors::changed(&mut case.rng, &good))]);
        ran(case, &files.dir);
    })
}

/// Weights in four bits, as bitsandbytes saves them.
pub(super) fn four_bit(dir: &Path) -> Feed {
    let model = Llama { hidden: 64, head_dim: 32, mlp: 64, config: quantized(), ..small() };
    model.write(dir);
    let mut good = Vec::new();
    for (number, tensor) in model.tensors().into_iter().enumerate() {
        if !tensor.name.contains("_proj") {
            good.push(tensor);
            continue;
        }
        let values = Tensor::from_vec(to_f32(tensor.dtype, &tensor.bytes), tensor.shape.clone(), &Device::Cpu).unwrap();
        let weight = Nf4Weight::quantize(&values, number % 2 == 0).unwrap();
        let named =
            |(name, dtype, shape, bytes): (String, Dtype, Vec<usize>, Vec<u8>)| Named { name, dtype, shape, bytes };
        good.extend(parts(&tensor.name, &weight).into_iter().map(named));
    }
    let files = Files::of(dir);
    Box::new(move |case| {
        let mut tensors = good.clone();
        if case.rng.random() {
            // the JSON among the tensors
            let is_state = |tensor: &&mut Named| tensor.name.contains("quant_state");
            let states = tensors.iter_mut().filter(is_state).count();
            let state = tensors.iter_mut().filter(is_state).nth(case.rng.random_range(0..states)).unwrap();
            state.bytes = values::changed(&mut case.rng, &serde_json::from_slice(&state.bytes).unwrap());
            state.shape = vec![state.bytes.len()];
            files.replace(&[("model.safetensors", tensors::whole(&tensors))]);
        } else {
            files.replace(&[("model.safetensors", tensors::changed(&mut case.rng, &tensors))]);
        }
        ran(case, &files.dir);
    })
}

fn quantized() -> Map<String, Value> {
    Map::from_iter([("quantization_config".to_owned(), quantization_config(true, "float32"))])
}
