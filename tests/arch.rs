//! Every row of the table of architectures against transformers: names, rotations, logits before and after a cut.
//!
//! `tests/data/arch` is written by `tests/interop/make_arch_fixtures.py`. A fixture holds no weights: both sides make
//! them from the formula described in `tests/interop/arch_cases.py`.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod fixture;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama;
use fixture::{Named, write_json, write_weights};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prune::arch::{ARCHITECTURES, ModelSpec};
use prune::checkpoint;
use prune::commands::cut::{CutSettings, cut};
use prune::model::{Batch, Cache, Model, ModelOptions, Observer, Residency};
use prune::progress::Silent;
use prune::surgery::{config_edits, edit_config};
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Map, Value, json};

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
    // cargo says at run time where the sources are; so may one who runs the tests elsewhere
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&root).join("tests/data/arch").join(format!("{name}.json"))
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

/// Keeps the stream that leaves the last layer, `[t, d]`.
struct Last(Option<Tensor>);

impl Observer for Last {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0 = Some(x.clone());
        Ok(())
    }
}

/// Logits of the model in `dir` at `positions` of `ids`, `[positions, v]` row-major.
fn logits(
    dir: &Path,
    ids: &[u32],
    positions: &[usize],
    (device, residency): (&Device, Residency),
    places: Option<Vec<usize>>,
) -> Vec<f32> {
    let options =
        ModelOptions { device: device.clone(), residency: Some(residency), places, ..ModelOptions::default() };
    let checkpoint = Arc::new(checkpoint::Checkpoint::open_dir(dir).unwrap());
    let model = Model::open(checkpoint, &options, &Silent).unwrap();
    let mut last = Last(None);
    model.run(&[Batch::sequences(&[ids]).unwrap()], &mut last, "test", &Silent).unwrap();
    let rows: Vec<u32> = positions.iter().map(|position| *position as u32).collect();
    let rows = Tensor::new(rows, device).unwrap();
    let logits = model.logits(&last.0.unwrap().index_select(&rows, 0).unwrap()).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

impl Case {
    fn kept(&self) -> Vec<usize> {
        (0..self.spec().layers).filter(|layer| !(self.drop.0..=self.drop.1).contains(layer)).collect()
    }
}

#[test]
fn logits_are_those_of_transformers_before_and_after_a_cut() {
    equals_transformers(&Device::Cpu);
}

/// In f32, which is what a device that no command settled computes in.
#[test]
#[allow(clippy::print_stderr, reason = "a test says what it skips")]
fn and_on_a_gpu() {
    match prune::ops::device("cuda") {
        Ok((gpu, _)) => equals_transformers(&gpu),
        Err(error) if std::env::var_os("PRUNE_REQUIRE_GPU").is_some() => panic!("a GPU is required: {error}"),
        Err(error) => eprintln!("skipped: {error}"),
    }
}

fn equals_transformers(device: &Device) {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let target = tempfile::tempdir().unwrap();
        let out = target.path().join("cut");
        let settings = CutSettings {
            model: Some(dir.path().display().to_string()),
            out: Some(out.clone()),
            drop: Some(format!("{}-{}", case.drop.0, case.drop.1)),
            ..CutSettings::default()
        };
        cut(&settings, &Silent).unwrap();
        for residency in [Residency::Resident, Residency::Streamed] {
            for (what, dir, places, expected) in [
                ("whole", dir.path(), None, &case.logits),
                ("in memory cut", dir.path(), Some(case.kept()), &case.logits_after_the_cut),
                ("cut", &out, None, &case.logits_after_the_cut),
            ] {
                let found = logits(dir, &case.ids, &case.positions, (device, residency), places);
                let worst = worst(&found, expected);
                assert!(worst <= 1e-4, "{name} {what}, {residency:?}: off by {worst}");
            }
        }
    }
}

/// Each setting moves the logits of its fixture by far more than the tolerance: a fixture that could not tell whether
/// a setting was read would prove nothing about it.
#[test]
fn fixtures_tell_settings_apart() {
    let with = |object: Value, more: Value| {
        let both = [object, more].into_iter().flat_map(|value| value.as_object().unwrap().clone());
        Value::Object(both.collect())
    };
    let stretch = |trained: usize, more: Value| {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": trained});
        with(yarn, more)
    };
    let mscale = |more: Value| with(read::<Case>("llama-yarn-mscale").config["rope_parameters"].clone(), more);
    for (name, patch) in [
        ("llama", json!({"rope_theta": 20000.0})),
        ("llama-biases", json!({"rope_parameters": {"rope_theta": 10000.0}})),
        ("llama-linear", json!({"rope_scaling": null})),
        ("llama-dynamic", json!({"rope_scaling": null})),
        ("llama-dynamic", json!({"max_position_embeddings": 20})),
        ("llama3-old", json!({"rope_scaling": null})),
        ("llama-yarn", json!({"rope_scaling": stretch(32, json!({}))})),
        ("llama-yarn", json!({"rope_scaling": stretch(16, json!({"attention_factor": 1.0}))})),
        ("llama-yarn", json!({"rope_scaling": stretch(16, json!({"beta_slow": 0.25}))})),
        ("llama-yarn-mscale", json!({"rope_parameters": mscale(json!({"truncate": true}))})),
        ("llama-yarn-mscale", json!({"rope_parameters": mscale(json!({"mscale": null}))})),
        ("llama-yarn-mscale", json!({"rope_parameters": mscale(json!({"beta_fast": 2}))})),
        ("mistral", json!({"sliding_window": 6})),
        ("mistral", json!({"sliding_window": 8})),
        ("ministral", json!({"layer_types": vec!["sliding_attention"; 4]})),
        ("qwen2", json!({"use_sliding_window": true})),
        ("qwen2-window", json!({"max_window_layers": 3})),
        ("qwen2-yarn-listed", json!({"layer_types": null})),
        ("qwen3-window", json!({"max_window_layers": 2})),
        ("phi3", json!({"sliding_window": null})),
        ("phi3-long", json!({"original_max_position_embeddings": 64})),
        ("phi3-su", json!({"max_position_embeddings": 16})),
        ("smollm3", json!({"no_rope_layer_interval": 2})),
        ("smollm3", json!({"use_sliding_window": false})),
        ("smollm3-listed", json!({"no_rope_layers": [1, 0, 1, 1]})),
        ("internlm3", json!({"max_position_embeddings": 32})),
    ] {
        let mut case: Case = read(name);
        case.config.extend(patch.as_object().unwrap().clone());
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let moved = worst(
            &logits(dir.path(), &case.ids, &case.positions, (&Device::Cpu, Residency::Resident), None),
            &case.logits,
        );
        assert!(moved > 1e-2, "{name} with {patch}: moved by {moved}");
    }
}

/// candle-transformers' own Llama, which shares no code with this block: logits after each prefix that ends at one of
/// the fixture's positions, with the kept layers renumbered.
fn witness(case: &Case, kept: &[usize]) -> Vec<f32> {
    let mut config: llama::LlamaConfig = serde_json::from_value(Value::Object(case.config.clone())).unwrap();
    config.num_hidden_layers = kept.len();
    let config = config.into_config(false);
    let tensors = case.tensors().into_iter().filter_map(|tensor| {
        let name = match tensor.name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let place = kept.iter().position(|kept| kept.to_string() == layer)?;
                format!("model.layers.{place}.{rest}")
            }
            None => tensor.name.clone(),
        };
        let values = fixture::to_f32(tensor.dtype, &tensor.bytes);
        Some((name, Tensor::from_vec(values, tensor.shape, &Device::Cpu).unwrap()))
    });
    let tensors = candle_nn::VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let model = llama::Llama::load(tensors, &config).unwrap();
    let after = case.positions.iter().flat_map(|position| {
        let ids = Tensor::new(&case.ids[..=*position], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
        model.forward(&ids, 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    });
    after.collect()
}

/// Token after token with a cache, and in pieces, every position has the logits of a pass over all up to it: sliding
/// windows, normed heads, layers without rotations, and rotations that change with the length.
#[test]
fn a_cache_gives_what_a_whole_pass_gives() {
    let (mut compared, mut changing) = (0, 0);
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        for residency in [Residency::Resident, Residency::Streamed] {
            let options = ModelOptions { residency: Some(residency), ..ModelOptions::default() };
            let checkpoint = Arc::new(checkpoint::Checkpoint::open_dir(dir.path()).unwrap());
            let model = Model::open(checkpoint, &options, &Silent).unwrap();
            let last = |x: Tensor| -> Vec<f32> {
                let x = x.narrow(0, x.dim(0).unwrap() - 1, 1).unwrap();
                model.logits(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            let whole = |n: usize| {
                let mut kept = Last(None);
                model.run(&[Batch::sequences(&[&case.ids[..n]]).unwrap()], &mut kept, "test", &Silent).unwrap();
                last(kept.0.unwrap())
            };
            let t = case.ids.len();
            let every: Vec<usize> = (1..=t).collect();
            // pieces for both kernels: a few tokens, and many
            let pieces = vec![t / 4, t / 4 + 3, t / 2 + 4, t / 2 + 5, t];
            let lengths = if residency == Residency::Resident { vec![every, pieces] } else { vec![pieces] };
            for ends in lengths {
                let mut cache = Cache::new(&model, t).unwrap();
                for end in ends {
                    let start = cache.ids().len();
                    let x = model.extend(&mut cache, &case.ids[start..end]).unwrap();
                    let (found, expected) = (last(x), whole(end));
                    let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
                    let worst = worst(&found, &expected) / scale;
                    assert!(worst <= 1e-5, "{name}, {residency:?}, {end} tokens: off by {worst}");
                    compared += 1;
                }
                assert!(model.extend(&mut cache, &[0]).is_err(), "no room is left");
            }
        }
        let rope = case.spec().rope;
        let frequencies = |n| rope.inverse_frequencies(n).0;
        changing += usize::from((2..=case.ids.len()).any(|n| frequencies(n) != frequencies(n - 1)));
    }
    assert!(compared > 500 && changing >= 2, "{compared} compared, {changing} with changing rotations");
}

#[test]
fn candles_own_llama_agrees() {
    for name in ["llama", "own-name", "llama3-old"] {
        let case: Case = read(name);
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        for kept in [(0..case.spec().layers).collect(), case.kept()] {
            let witnessed = witness(&case, &kept);
            let found = logits(dir.path(), &case.ids, &case.positions, (&Device::Cpu, Residency::Resident), Some(kept));
            let worst = worst(&found, &witnessed);
            assert!(worst <= 1e-4, "{name}: off by {worst}");
        }
    }
}

/// The config that a cut writes reads as the source's spec with the dropped layers' entries gone, for every block.
#[test]
fn a_cut_config_reads_as_the_kept_layers() {
    for (name, case) in cases() {
        let spec = case.spec();
        let text = serde_json::to_string_pretty(&case.config).unwrap();
        for first in 0..spec.layers {
            for last in first..spec.layers.min(first + spec.layers - 1) {
                let kept: Vec<usize> = (0..spec.layers).filter(|layer| !(first..=last).contains(layer)).collect();
                let edits = config_edits(&case.config, &kept, &[]).unwrap();
                let cut: Map<String, Value> = serde_json::from_str(&edit_config(&text, &edits).unwrap()).unwrap();
                let expected = ModelSpec {
                    layers: kept.len(),
                    windows: kept.iter().map(|layer| spec.windows[*layer]).collect(),
                    rotated: kept.iter().map(|layer| spec.rotated[*layer]).collect(),
                    ..spec.clone()
                };
                assert_eq!(ModelSpec::from_config(&cut).unwrap(), expected, "{name} without {first}..={last}");
            }
        }
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
