//! The fixtures of `tests/data/arch`, and the weights that both sides make from a formula.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prune::arch::ModelSpec;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::fixture::{Named, write_json, write_weights};

pub(crate) const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Deserialize)]
pub(crate) struct Rotations {
    pub(crate) positions: Vec<u32>,
    pub(crate) inverse_frequencies: Vec<f32>,
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) config: Map<String, Value>,
    pub(crate) seed: u64,
    pub(crate) ids: Vec<u32>,
    pub(crate) positions: Vec<usize>,
    pub(crate) drop: (usize, usize),
    pub(crate) tensors_up_to_layer_0: BTreeMap<String, Vec<usize>>,
    pub(crate) logits: Vec<f32>,
    pub(crate) logits_after_the_cut: Vec<f32>,
    pub(crate) rotations: Vec<Rotations>,
    /// Of layers with a sliding window, where theirs are others.
    #[serde(default)]
    pub(crate) sliding_rotations: Vec<Rotations>,
    /// Of all tokens but the first, the mean.
    pub(crate) loss: f64,
    /// Of each tensor of the layers: the length of its gradient, and the inner product of both.
    pub(crate) gradients: BTreeMap<String, [f64; 2]>,
}

#[derive(Deserialize)]
pub(crate) struct Published {
    pub(crate) config: Map<String, Value>,
    pub(crate) rotations: Vec<Rotations>,
}

pub(crate) fn data(name: &str) -> PathBuf {
    // cargo says at run time where the sources are; so may one who runs the tests elsewhere
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&root).join("tests/data/arch").join(format!("{name}.json"))
}

pub(crate) fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

/// Every fixture but `rotations`, by name.
pub(crate) fn cases() -> Vec<(String, Case)> {
    let files = std::fs::read_dir(data("x").parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.retain(|name| name != "rotations");
    names.sort();
    assert!(names.len() >= 25, "{names:?}");
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

impl Case {
    pub(crate) fn spec(&self) -> ModelSpec {
        ModelSpec::from_config(&self.config).unwrap()
    }

    /// The tensors transformers would have saved: a tied model's head is its embedding.
    pub(crate) fn tensors(&self) -> Vec<Named> {
        let spec = self.spec();
        let mut shapes: Vec<(String, Vec<usize>)> = self.outer_tensors();
        let layers = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
        shapes.extend(layers.map(|tensor| (tensor.name, tensor.shape)));
        shapes.into_iter().map(|(name, shape)| weights(self.seed, name, shape)).collect()
    }

    pub(crate) fn outer_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let prefix = self.spec().layer_prefix;
        let outer = self.tensors_up_to_layer_0.iter().filter(|(name, _)| !name.starts_with(prefix));
        outer.map(|(name, shape)| (name.clone(), shape.clone())).collect()
    }

    pub(crate) fn write(&self, dir: &Path) {
        write_json(&dir.join("config.json"), &Value::Object(self.config.clone()));
        write_weights(dir, &self.tensors(), 1);
    }
}

/// The splitmix64 stream of a tensor.
pub(crate) fn stream(seed: u64, name: &str) -> impl Iterator<Item = u64> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    let seed = seed ^ name.bytes().fold(0xCBF2_9CE4_8422_2325, fnv);
    (1..).map(move |i: u64| {
        let z = seed.wrapping_add(i.wrapping_mul(GOLDEN_RATIO));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    })
}

/// A tensor from the formula of `arch_cases.py`.
pub(crate) fn weights(seed: u64, name: String, shape: Vec<usize>) -> Named {
    let norm = name.ends_with("norm.weight");
    let sharp = [".q_proj.weight", ".k_proj.weight", ".qkv_proj.weight", ".query_key_value.weight"]
        .iter()
        .any(|end| name.ends_with(end));
    let std = match shape[..] {
        _ if ["model.embed_tokens.weight", "gpt_neox.embed_in.weight"].contains(&&*name) => 1.0,
        [_, columns] => (if sharp { 2.0 } else { 1.0 }) / (columns as f64).sqrt(),
        _ if norm => 0.2,
        _ => 0.3,
    };
    let scale = (std * 3f64.sqrt() / 16_777_216.0) as f32;
    let values = stream(seed, &name).take(shape.iter().product()).map(|z| {
        let k = 2 * (z >> 40) as i64 + 1 - (1 << 24);
        if norm { 1.0 + k as f32 * scale } else { k as f32 * scale }
    });
    let bytes = values.flat_map(f32::to_le_bytes).collect();
    Named { name, dtype: Dtype::F32, shape, bytes }
}
