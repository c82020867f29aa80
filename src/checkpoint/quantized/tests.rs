//! One matrix in every format, as the formats' own packages decode it (`tests/interop/quantized_weights.py`).

use std::fs;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize_to_file};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::checkpoint::Checkpoint;
use crate::error::Error;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/golden/quantized.safetensors");

/// The golden file, and what it says of each format.
fn golden() -> (Vec<u8>, Map<String, Value>) {
    let bytes = fs::read(GOLDEN).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let configs = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["configs"]).unwrap();
    (bytes, configs)
}

fn write(dir: &Path, config: &Value, tensors: Vec<(&str, TensorView<'_>)>) {
    serialize_to_file(tensors, None, &dir.join("model.safetensors")).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

/// A checkpoint of one matrix in `format`, with what `change` makes of its config.
fn stored(format: &str, change: &dyn Fn(&mut Value)) -> (TempDir, Checkpoint) {
    let (bytes, configs) = golden();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let prefix = format!("{format}.model");
    let own = golden.tensors();
    let own = own.iter().filter(|(name, _)| name.starts_with(&prefix));
    let own = own.map(|(name, tensor)| (&name[format.len() + 1..], tensor.clone())).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut config = configs[format].clone();
    config["model_type"] = json!("llama");
    change(&mut config);
    write(dir.path(), &config, own);
    let checkpoint = Checkpoint::open_dir(dir.path()).unwrap();
    (dir, checkpoint)
}

const NAME: &str = "model.layers.0.mlp.up_proj.weight";
/// Two experts.
const EXPERTS: &str = "model.layers.0.mlp.experts.down_proj";

#[test]
fn every_format_bit_for_bit() {
    let (bytes, configs) = golden();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(configs.len(), 17);
    for format in configs.keys() {
        let (_dir, stored) = stored(format, &|_| ());
        let decoded = stored.unquantized().unwrap().unwrap();
        assert!(!decoded.config.contains_key("quantization_config"));
        assert_eq!(decoded.fingerprint(), stored.fingerprint(), "{format}: a plan made of one is one for the other");
        let expected = golden.tensor(&format!("{format}.decoded")).unwrap();
        let entry = decoded.index.entry(if format == "mxfp4" { EXPERTS } else { NAME }).unwrap();
        assert_eq!((entry.dtype, entry.shape.as_slice()), (expected.dtype(), expected.shape()), "{format}");
        assert_eq!(decoded.index.tensors.len(), 1, "{format}: {:?}", decoded.index.tensors.keys());
        assert!(decoded.index.read(entry).unwrap() == expected.data(), "{format}");
        // across experts
        let (mut middle, half) = (vec![0; entry.len as usize / 2 + 6], entry.len as usize / 4 - 2);
        decoded.index.read_range(entry, half as u64, &mut middle).unwrap();
        assert!(middle == expected.data()[half..][..middle.len()], "{format}");
        // in pieces, from the end, and once more
        let mut piece = [0; 10];
        for offset in [entry.len - 10, 20, 0] {
            decoded.index.read_range(entry, offset, &mut piece).unwrap();
            assert_eq!(piece, expected.data()[offset as usize..][..10], "{format} at {offset}");
        }
        assert!(decoded.index.read_range(entry, entry.len - 5, &mut piece).is_err());
        assert_eq!(decoded.content_files().len(), 2, "{format}: config and weights are files, matrices are none");
    }
}

fn refused(format: &str, change: &dyn Fn(&mut Value)) -> Error {
    let (_dir, stored) = stored(format, change);
    stored.unquantized().map(|_| ()).unwrap_err()
}

fn refused_without_scales() -> Error {
    let (bytes, configs) = golden();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let (codes, dir) = (format!("{EXPERTS}_blocks"), tempfile::tempdir().unwrap());
    let config = configs["mxfp4"].clone();
    write(dir.path(), &config, vec![(&*codes, golden.tensor(&format!("mxfp4.{codes}")).unwrap())]);
    Checkpoint::open_dir(dir.path()).unwrap().unquantized().map(|_| ()).unwrap_err()
}

#[test]
fn what_is_not_read_is_named() {
    let said =
        |key: &'static str, value: Value| move |config: &mut Value| config["quantization_config"][key] = value.clone();
    for (error, parts) in [
        (refused("gptq", &said("bits", json!(5))), ["bits", "2, 3, 4 and 8"]),
        (refused("gptq", &said("bits", json!(8))), ["up_proj.qzeros", "beside its weight"]),
        (refused("gptq", &said("checkpoint_format", json!("marlin"))), ["marlin", "gptq_v2"]),
        (refused("awq", &said("version", json!("gemv"))), ["gemv", "gemm"]),
        (refused("awq", &said("bits", json!(3))), ["bits 3", "4 bits"]),
        (refused("fp8", &said("quant_method", json!("gptq"))), ["gptq", "bits"]),
        (refused_without_scales(), ["down_proj_blocks has no scales", "down_proj_scales is missing"]),
    ] {
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    for (format, method) in [("gptq", "hqq"), ("int4", "fp8")] {
        let (_dir, other) = stored(format, &said("quant_method", json!(method)));
        assert!(other.unquantized().unwrap().is_none(), "what is not known is left to whoever computes");
    }
}

#[test]
fn scales_that_are_missing_or_not_finite() {
    let config = json!({"model_type": "llama", "dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"}});
    let codes = [0x38_u8; 8];
    let weight = || (NAME, TensorView::new(Dtype::F8_E4M3, vec![2, 4], &codes).unwrap());
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &config, vec![weight()]);
    let error = Checkpoint::open_dir(dir.path()).unwrap().unquantized().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("up_proj.weight has no scales"), "{error}");
    let scales = f32::INFINITY.to_le_bytes();
    let scale = || ("model.layers.0.mlp.up_proj.weight_scale", TensorView::new(Dtype::F32, vec![1], &scales).unwrap());
    write(dir.path(), &config, vec![weight(), scale()]);
    let decoded = Checkpoint::open_dir(dir.path()).unwrap().unquantized().unwrap().unwrap();
    let error = decoded.index.read(decoded.index.entry(NAME).unwrap()).unwrap_err();
    assert!(error.to_string().contains("is not finite once it is decoded"), "{error}");
}

/// Shapes, types and numbers that nobody writes: refused, or decoded to something; never a panic.
#[test]
fn whatever_stands_there() {
    const TYPES: [Dtype; 8] =
        [Dtype::I32, Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F8_E4M3, Dtype::I8, Dtype::U8, Dtype::I64];
    let (bytes, configs) = golden();
    let golden = SafeTensors::deserialize(&bytes).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let (mut refused, mut decoded) = (0, 0);
    for round in 0..600 {
        let format = configs.keys().nth(round % configs.len()).unwrap();
        let prefix = format!("{format}.model");
        let mut own: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, tensor) in golden.tensors() {
            if let Some(rest) = name.strip_prefix(&prefix) {
                own.push((format!("model{rest}"), tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()));
            }
        }
        let place = random.random_range(0..own.len());
        let (_, dtype, shape, data) = &mut own[place];
        match random.random_range(0..4) {
            0 => *dtype = TYPES[random.random_range(0..TYPES.len())],
            1 => shape.push(random.random_range(0..3)),
            2 => shape.iter_mut().for_each(|size| *size = random.random_range(0..70)),
            _ => data.iter_mut().for_each(|byte| *byte = random.random()),
        }
        if random.random_bool(0.2) {
            own.remove(random.random_range(0..own.len()));
        }
        for (_, dtype, shape, data) in &mut own {
            data.resize(shape.iter().product::<usize>() * dtype.bitsize() / 8, 7);
        }
        let views = own
            .iter()
            .map(|(name, dtype, shape, data)| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let (dir, mut config) = (tempfile::tempdir().unwrap(), configs[format].clone());
        config["model_type"] = json!("llama");
        write(dir.path(), &config, views.collect());
        match Checkpoint::open_dir(dir.path()).and_then(|stored| stored.unquantized()) {
            Ok(Some(found)) => {
                let read: Vec<bool> =
                    found.index.tensors.values().map(|entry| found.index.read(entry).is_ok()).collect();
                decoded += usize::from(read.iter().all(|is_read| *is_read));
            }
            Ok(None) | Err(_) => refused += 1,
        }
    }
    assert!(refused > 100 && decoded > 50, "{refused} refused, {decoded} decoded");
}
