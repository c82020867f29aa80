//! Every row of the table of architectures against transformers: names, rotations, logits before and after a cut.
//!
//! `tests/data/arch` is written by `tests/interop/make_arch_fixtures.py`. A fixture holds no weights: both sides make
//! them from the formula described in `tests/interop/arch_cases.py`.

mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use fixture::{Named, write_json, write_weights};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prune::arch::{ARCHITECTURES, ModelSpec};
use prune::checkpoint;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value};

const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

#[derive(Deserialize)]
struct Rotations {
    positions: Vec<u32>,
    inverse_frequencies: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    config: Map<String, Value>,
    seed: u64,
    ids: Vec<u32>,
    positions: Vec<usize>,
    drop: (usize, usize),
    tensors_up_to_layer_0: BTreeMap<String, Vec<usize>>,
    logits: Vec<f32>,
    logits_after_the_cut: Vec<f32>,
    rotations: Vec<Rotations>,
}

#[derive(Deserialize)]
struct Published {
    config: Map<String, Value>,
    rotations: Vec<Rotations>,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/arch").join(format!("{name}.json"))
}

fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

/// Every fixture but `rotations`, by name.
fn cases() -> Vec<(String, Case)> {
    let files = std::fs::read_dir(data("x").parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.retain(|name| name != "rotations");
    names.sort();
    assert!(names.len() >= 25, "{names:?}");
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

impl Case {
    fn spec(&self) -> ModelSpec {
        ModelSpec::from_config(&self.config).unwrap()
    }

    /// The tensors transformers would have saved: a tied model's head is its embedding.
    fn tensors(&self) -> Vec<Named> {
        let spec = self.spec();
        let mut shapes: Vec<(String, Vec<usize>)> = self.outer_tensors();
        let layers = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
        shapes.extend(layers.map(|tensor| (tensor.name, tensor.shape)));
        shapes.into_iter().map(|(name, shape)| weights(self.seed, name, shape)).collect()
    }

    fn outer_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let outer = self.tensors_up_to_layer_0.iter().filter(|(name, _)| !name.starts_with("model.layers."));
        outer.map(|(name, shape)| (name.clone(), shape.clone())).collect()
    }

    fn write(&self, dir: &Path) {
        write_json(&dir.join("config.json"), &Value::Object(self.config.clone()));
        write_weights(dir, &self.tensors(), 1);
    }
}

/// The splitmix64 stream of a tensor.
fn stream(seed: u64, name: &str) -> impl Iterator<Item = u64> {
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
fn weights(seed: u64, name: String, shape: Vec<usize>) -> Named {
    let norm = name.ends_with("norm.weight");
    let sharp = [".q_proj.weight", ".k_proj.weight", ".qkv_proj.weight"].iter().any(|end| name.ends_with(end));
    let std = match shape[..] {
        _ if name == "model.embed_tokens.weight" => 1.0,
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

#[test]
fn every_row_has_a_fixture() {
    let types: Vec<_> = cases().into_iter().map(|(_, case)| case.config["model_type"].clone()).collect();
    for row in ARCHITECTURES {
        assert!(types.contains(&row.model_type.into()), "{}", row.model_type);
    }
}

#[test]
fn tensors_are_named_and_shaped_as_in_transformers() {
    for (name, case) in cases() {
        let (spec, outer) = (case.spec(), case.outer_tensors());
        let mut found: BTreeMap<_, _> = spec.layer_tensors(0).into_iter().map(|t| (t.name, t.shape)).collect();
        found.extend(outer);
        assert_eq!(found, case.tensors_up_to_layer_0, "{name}");

        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let index = checkpoint::Index::open_dir(dir.path()).unwrap();
        assert_eq!(spec.check(&index).unwrap(), Vec::<String>::new(), "{name}");
        let stored = (0..case.ids.len())
            .zip(stream(case.seed, "ids"))
            .all(|(j, z)| u64::from(case.ids[j]) == z % spec.vocab_size as u64);
        assert!(stored, "{name}: the formula gives other ids than the fixture holds");
    }
}

/// How far a rotation may be from transformers': the last bit of a frequency, times the position.
fn check_rotations(name: &str, spec: &ModelSpec, all: &[Rotations]) {
    for expected in all {
        let longest = *expected.positions.iter().max().unwrap() as usize + 1;
        let (frequencies, _) = spec.rope.inverse_frequencies(longest);
        assert_eq!(frequencies.len(), expected.inverse_frequencies.len(), "{name}");
        for (found, expected) in frequencies.iter().zip(&expected.inverse_frequencies) {
            assert!((found / expected - 1.0).abs() <= 2e-7, "{name}: frequency {found}, expected {expected}");
        }
        let (cos, sin) = spec.rope.tables(&expected.positions, longest);
        let half = frequencies.len();
        for (what, found, expected_values) in [("cos", &cos, &expected.cos), ("sin", &sin, &expected.sin)] {
            assert_eq!(found.len(), expected_values.len(), "{name}");
            for (index, (found, value)) in found.iter().zip(expected_values).enumerate() {
                let (position, pair) = (expected.positions[index / half], index % half);
                let tolerance = 4e-7 + 2e-7 * position as f32 * frequencies[pair];
                assert!((found - value).abs() <= tolerance, "{name}: {what} of {position}, {pair}: {found}, {value}");
            }
        }
    }
}

#[test]
fn rotations_are_those_of_transformers() {
    for (name, case) in cases() {
        check_rotations(&name, &case.spec(), &case.rotations);
    }
}

#[test]
fn rotations_of_published_models_are_those_of_transformers() {
    let all: BTreeMap<String, Published> = read("rotations");
    assert!(all.len() >= 9);
    for (name, published) in all {
        check_rotations(&name, &ModelSpec::from_config(&published.config).unwrap(), &published.rotations);
    }
}

/// A value that a damaged or hostile config may hold.
fn any_value() -> impl Strategy<Value = Value> {
    let texts = &["llama", "yarn", "longrope", "llama3", "dynamic", "su", "sliding_attention", ""][..];
    let numbers = &[0.0, -1.0, 0.5, 1.0, 2.0, 3.0, 7.0, 1e-300, 1e30, 1e300][..];
    let keys = &["factor", "rope_type", "full_attention"][..];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..40u64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        select(numbers).prop_map(Value::from),
        select(texts).prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 5, move |inner| {
        let object = btree_map(select(keys).prop_map(str::to_owned), inner.clone(), 0..3);
        prop_oneof![vec(inner, 0..6).prop_map(Value::from), object.prop_map(|map| Value::Object(Map::from_iter(map)))]
    })
}

/// Every value of a config, those of the objects within it in their stead.
fn values(config: &mut Map<String, Value>) -> Vec<&mut Value> {
    let mut values = Vec::new();
    for value in config.values_mut() {
        match value.as_object().is_some_and(|inner| !inner.is_empty()) {
            true => values.extend(value.as_object_mut().into_iter().flat_map(Map::values_mut)),
            false => values.push(value),
        }
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever a config says, it is read or refused in one line.
    #[test]
    fn no_config_panics(which in any::<Index>(), changes in vec((any::<Index>(), any_value()), 1..4)) {
        static CASES: LazyLock<Vec<(String, Case)>> = LazyLock::new(cases);
        let mut config = which.get(&CASES).1.config.clone();
        for (place, value) in changes {
            let mut values = values(&mut config);
            let place = place.index(values.len());
            *values[place] = value;
        }
        match ModelSpec::from_config(&config) {
            Ok(spec) => {
                let (cos, sin) = spec.rope.tables(&[0, 9], 10);
                prop_assert!(cos.into_iter().chain(sin).all(f32::is_finite));
                prop_assert_eq!((spec.windows.len(), spec.rotated.len()), (spec.layers, spec.layers));
                prop_assert!(!spec.layer_tensors(0).is_empty());
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }
}
