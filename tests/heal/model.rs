//! Models to train: goldens' checkpoints, `mini` from its formula, random ones of any family.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::heal::{HealSettings, Train, load_options};
use prune::model::lora::Adapters;
use prune::model::{Model, ModelOptions, Residency};
use prune::ops;
use prune::progress::Silent;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::fixture::{Named, random, write_json, write_safetensors};

/// Opens `dir` for training by `settings`, with fresh adapters.
pub(crate) fn open(dir: &Path, settings: &HealSettings) -> Model {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let mut load_options = load_options(&spec, settings);
    if settings.train == Train::Lora {
        let adapters = Adapters::new(&spec, &settings.lora(), settings.seed, &Device::Cpu).unwrap();
        load_options.adapters = Some(Arc::new(adapters));
    }
    let options = ModelOptions { load_options, residency: Some(Residency::Resident), ..ModelOptions::default() };
    Model::open(checkpoint, &options, &Silent).unwrap()
}

/// Overwrites a trained parameter.
pub(crate) fn set(parameter: &Tensor, values: &Tensor) {
    assert_eq!(parameter.dims(), values.dims());
    let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
    ops::edit(parameter, |numbers| numbers.copy_from_slice(&values)).unwrap();
}

/// Fills the trained parameters with small random numbers, B included.
pub(crate) fn shake(parameters: &[(String, Tensor)], seed: u64) {
    for (index, (name, parameter)) in parameters.iter().enumerate() {
        if name.contains("lora_") {
            let mut rng = ChaCha8Rng::seed_from_u64(seed + index as u64);
            let noise = random(&mut rng, name.clone(), &[parameter.elem_count(), 1], Dtype::F32);
            let noise: Vec<f32> =
                noise.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            ops::edit(parameter, |numbers| numbers.iter_mut().zip(&noise).for_each(|(x, noise)| *x = 0.1 * noise))
                .unwrap();
        }
    }
}

/// A random checkpoint of whatever family `config` is.
pub(crate) fn write_random(dir: &Path, config: &Map<String, Value>) {
    let spec = ModelSpec::from_config(config).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let table = [spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![random(&mut rng, "model.embed_tokens.weight".into(), &table, Dtype::F32)];
    for layer in 0..spec.layers {
        for tensor in spec.layer_tensors(layer) {
            tensors.push(random(&mut rng, tensor.name, &tensor.shape, Dtype::F32));
        }
    }
    tensors.push(random(&mut rng, "model.norm.weight".into(), &[spec.hidden_size], Dtype::F32));
    if !spec.tied {
        tensors.push(random(&mut rng, "lm_head.weight".into(), &table, Dtype::F32));
    }
    write_safetensors(&dir.join("model.safetensors"), &tensors);
    write_json(&dir.join("config.json"), &Value::Object(config.clone()));
}

/// `mini`, whose weights are a formula of their names (the goldens' notes): uniform, splitmix64 of name and index.
pub(crate) fn write_mini(dir: &Path, config: &Map<String, Value>) {
    const SEED: u64 = 1;
    let spec = ModelSpec::from_config(config).unwrap();
    let (d, f, l) = (spec.hidden_size as f64, spec.mlp_size as f64, spec.layers);
    let uniform = |seed: u64, count: usize, std: f64| -> Vec<f32> {
        let scale = (std * 3f64.sqrt() / 2f64.powi(24)) as f32;
        let mix = |i: u64| {
            let z = seed.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            2 * ((z ^ z >> 31) >> 40) as i64 + 1 - (1 << 24)
        };
        (0..count as u64).map(|i| mix(i) as f32 * scale).collect()
    };
    let hash = |name: &str| {
        name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
    };
    let gain = |layer: usize| {
        let base = match layer {
            0 | 1 => 0.6,
            last if last == l - 1 => 0.8,
            _ => 0.45 - 0.4 * layer as f64 / (l - 1) as f64,
        };
        base * (1.0 + 0.4 * f64::from(uniform(SEED ^ hash(&format!("gain.{layer}")), 1, 0.5)[0]))
    };
    let tensor = |name: String, shape: &[usize], std: Option<f64>| {
        let values = uniform(SEED ^ hash(&name), shape.iter().product(), std.unwrap_or(0.1));
        let norm = if std.is_none() { 1f32 } else { 0.0 };
        let bytes = values.iter().flat_map(|value| (norm + value).to_le_bytes()).collect();
        Named { name, dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    };
    let table = [spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![tensor("model.embed_tokens.weight".into(), &table, Some(1.0))];
    for layer in 0..l {
        for part in spec.layer_tensors(layer) {
            let std = match part.role.module().rsplit('.').next().unwrap() {
                "down_proj" => Some(2.0 * gain(layer) / f.sqrt()),
                "o_proj" => Some(1.5 * gain(layer) / d.sqrt()),
                "q_proj" | "k_proj" => Some(1.5 / d.sqrt()),
                "v_proj" | "gate_proj" | "up_proj" => Some(1.0 / d.sqrt()),
                _ => None,
            };
            tensors.push(tensor(part.name, &part.shape, std));
        }
    }
    tensors.push(tensor("model.norm.weight".into(), &[spec.hidden_size], None));
    tensors.push(tensor("lm_head.weight".into(), &table, Some(1.5 / d.sqrt())));
    let check = |name: &str, at: usize| {
        let named = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        f32::from_le_bytes(named.bytes[4 * at..4 * at + 4].try_into().unwrap())
    };
    assert_eq!(check("model.embed_tokens.weight", 0), -0.514_046_8);
    assert_eq!(check("model.layers.3.mlp.gate_proj.weight", 2), 0.050_777_182);
    assert_eq!(check("model.norm.weight", 0), 0.938_097_06);
    write_safetensors(&dir.join("model.safetensors"), &tensors);
    write_json(&dir.join("config.json"), &Value::Object(config.clone()));
}
