//! Models to train: open ones, random ones of any family.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::heal::{HealSettings, Train, load_options};
use prune::model::{Model, ModelOptions, Residency};
use prune::ops;
use prune::progress::Silent;
use prune::weights::lora::Adapters;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::fixture::{random, write_json, write_safetensors};

/// Opens `dir` for training by `settings`, with fresh adapters.
pub(crate) fn open(dir: &Path, settings: &HealSettings) -> Model {
    open_as(dir, settings, Residency::Resident)
}

/// The same, with its weights held so.
pub(crate) fn open_as(dir: &Path, settings: &HealSettings, residency: Residency) -> Model {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let mut load_options = load_options(&spec, settings);
    if settings.train == Train::Lora {
        let adapters = Adapters::new(&spec, &settings.lora(&spec).unwrap(), settings.seed, &Device::Cpu).unwrap();
        load_options.adapters = Some(Arc::new(adapters));
    }
    let options = ModelOptions { load_options, residency: Some(residency), ..ModelOptions::default() };
    let model = Model::open(checkpoint, &options, &Silent).unwrap();
    model.begin_magnitudes().unwrap();
    model
}

/// Overwrites a trained parameter.
pub(crate) fn set(parameter: &Tensor, values: &Tensor) {
    assert_eq!(parameter.dims(), values.dims());
    let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
    ops::edit(parameter, |numbers| numbers.copy_from_slice(&values)).unwrap();
}

/// Fills the trained parameters with small random numbers, B included; magnitudes move by a share of what they are.
pub(crate) fn shake(parameters: &[(String, Tensor)], seed: u64) {
    for (index, (name, parameter)) in parameters.iter().enumerate() {
        if name.contains("lora_") {
            let mut rng = ChaCha8Rng::seed_from_u64(seed + index as u64);
            let noise = random(&mut rng, name.clone(), &[parameter.elem_count(), 1], Dtype::F32);
            let noise: Vec<f32> =
                noise.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let shaken = |x: f32, noise: f32| match name.contains("magnitude") {
                true => x * (1.0 + 0.3 * noise),
                false => 0.1 * noise,
            };
            ops::edit(parameter, |numbers| numbers.iter_mut().zip(&noise).for_each(|(x, n)| *x = shaken(*x, *n)))
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
    for (name, shape) in spec.end_tensors() {
        tensors.push(random(&mut rng, name, &shape, Dtype::F32));
    }
    if !spec.tied {
        tensors.push(random(&mut rng, "lm_head.weight".into(), &table, Dtype::F32));
    }
    write_safetensors(&dir.join("model.safetensors"), &tensors);
    write_json(&dir.join("config.json"), &Value::Object(config.clone()));
}
