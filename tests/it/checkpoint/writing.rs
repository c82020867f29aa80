//! Shards as the `safetensors` crate and transformers write them, copied or computed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use prune::checkpoint::{ByteSize, Checkpoint, Index, Shard, ShardPlan, Slot, read_json, write_tensor};
use prune::progress::Silent;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::tempdir;

use super::{open, variants};
use crate::fixture::{Llama, Named};

fn slots(tensors: &[Named]) -> Vec<Slot> {
    let slot = |tensor: &Named| Slot { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
    tensors.iter().map(slot).collect()
}

/// Writes the tensors of `from` into `dir` by streaming copies.
fn copy(from: &Checkpoint, slots: Vec<Slot>, max_shard: &str, dir: &Path) -> ShardPlan {
    let plan = ShardPlan::new(slots, max_shard.parse().unwrap()).unwrap();
    plan.write(dir, &Silent, |slot, out| from.copy_to(from.entry(&slot.name)?, out)).unwrap();
    plan
}

#[test]
fn one_file_is_written_as_the_safetensors_crate_writes_it() {
    for llama in variants() {
        let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
        let llama = Llama { shards: 1, ..llama };
        llama.write(dir.path());
        let plan = copy(&open(dir.path()), slots(&llama.tensors()), "5GB", out.path());
        let written = fs::read(out.path().join("model.safetensors")).unwrap();
        assert_eq!(plan.disk_size(), written.len() as u64);
        assert!(written == fs::read(dir.path().join("model.safetensors")).unwrap());
    }
}

#[test]
fn shards_follow_the_rule_of_transformers() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    let llama = Llama { dtype: Dtype::BF16, ..Llama::default() };
    llama.write(dir.path());
    let from = open(dir.path());
    // the embedding and the head, 2048 bytes each, are longer than a shard and get files of their own
    let plan = copy(&from, slots(&llama.tensors()), "2000", out.path());
    assert_eq!(plan.shards[0].slots.len(), 1);
    assert_eq!(plan.shards[0].slots[0].name, "model.embed_tokens.weight");
    let files: Vec<&str> = plan.shards.iter().map(|shard| shard.file.as_str()).collect();
    assert_eq!(files[0], format!("model-00001-of-{:05}.safetensors", files.len()));
    assert!(plan.shards.iter().all(|shard| shard.slots.len() == 1 || shard.size() < 2000 + 2000));

    fs::copy(dir.path().join("config.json"), out.path().join("config.json")).unwrap();
    let to = open(out.path());
    assert_eq!(to.shards.len(), files.len());
    for (name, entry) in &from.tensors {
        assert_eq!(from.read(entry).unwrap(), to.read(to.entry(name).unwrap()).unwrap(), "{name}");
    }
    let index: Value = read_json(&out.path().join("model.safetensors.index.json")).unwrap();
    assert_eq!(index["metadata"]["total_size"], json!(plan.total_size()));
}

#[test]
fn computed_tensors_are_written_in_their_dtype() {
    let out = tempdir().unwrap();
    let matrix = Tensor::arange(0f32, 12., &Device::Cpu).unwrap().reshape((3, 4)).unwrap();
    // neither the whole of its storage nor row-major
    let part = matrix.narrow(0, 1, 2).unwrap().t().unwrap();
    let tensors = BTreeMap::from([
        ("a", part.to_dtype(DType::BF16).unwrap()),
        ("b", part.to_dtype(DType::F16).unwrap()),
        ("c", part.clone()),
    ]);
    let dtypes = [("a", Dtype::BF16), ("b", Dtype::F16), ("c", Dtype::F32)];
    let slots = dtypes.map(|(name, dtype)| Slot { name: name.into(), dtype, shape: vec![4, 2] });
    let shard = Shard::new("adapter_model.safetensors", slots.to_vec()).unwrap();
    shard.write(out.path(), &Silent, |slot, file| write_tensor(&tensors[slot.name.as_str()], file)).unwrap();
    let index = Index::open_file(&out.path().join("adapter_model.safetensors")).unwrap();
    for name in ["a", "b", "c"] {
        let back = index.load_f32(name, &[4, 2], &Device::Cpu).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), part.to_vec2::<f32>().unwrap());
    }
}

#[test]
fn a_tensor_of_the_wrong_length_is_caught() {
    let out = tempdir().unwrap();
    let slots = vec![Slot { name: "a".into(), dtype: Dtype::F32, shape: vec![2] }];
    let shard = Shard::new("x.safetensors", slots.clone()).unwrap();
    let short = |_: &Slot, file: &mut fs::File| {
        file.write_all(&[0; 7]).unwrap();
        Ok(())
    };
    let error = shard.write(out.path(), &Silent, short).unwrap_err();
    assert!(error.to_string().contains("tensor a ended at byte"), "{error}");
    let twice = [slots.clone(), slots].concat();
    assert!(ShardPlan::new(twice.clone(), ByteSize(1)).is_err());
    assert!(Shard::new("x.safetensors", twice).is_err());
}
