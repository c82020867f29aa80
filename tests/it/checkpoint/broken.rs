//! Every broken file is refused with one line: its name, what is wrong, and the exit code 1 for a fault of the file or
//! 2 for a fault of the request.

use std::fs::{self, OpenOptions};
use std::path::Path;

use candle_core::Device;
use prune::Error;
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::open;
use crate::fixture::{Llama, write_json};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const SECOND: &str = "model-00002-of-00002.safetensors";

fn one_file() -> TempDir {
    let dir = tempdir().unwrap();
    Llama::default().write(dir.path());
    dir
}

fn two_shards() -> TempDir {
    let dir = tempdir().unwrap();
    Llama { shards: 2, ..Llama::default() }.write(dir.path());
    dir
}

/// The error of opening `dir`: one line with every part of `parts`, and this exit code.
fn refused(dir: &Path, code: u8, parts: &[&str]) {
    check(&Checkpoint::open_dir(dir).unwrap_err(), code, parts);
}

fn check(error: &Error, code: u8, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!((error.exit_code(), text.lines().count()), (code, 1), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// A safetensors file with this header and this many bytes after it.
fn write_raw(path: &Path, header: &str, data: usize) {
    let len = (header.len() as u64).to_le_bytes();
    fs::write(path, [&len[..], header.as_bytes(), &vec![0; data]].concat()).unwrap();
}

/// Refuses a `model.safetensors` made of `header` and `data` bytes.
fn header_refused(header: &Value, data: usize, parts: &[&str]) {
    let dir = one_file();
    write_raw(&dir.path().join(SINGLE), &header.to_string(), data);
    refused(dir.path(), 1, &[&[SINGLE], parts].concat());
}

#[test]
fn truncated_file() {
    let dir = one_file();
    let path = dir.path().join(SINGLE);
    let len = fs::metadata(&path).unwrap().len();
    for cut in [len - 1, len / 2, 9, 8, 7, 0] {
        OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        refused(dir.path(), 1, &[SINGLE]);
    }
    let dir = two_shards();
    let path = dir.path().join(SECOND);
    let len = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    refused(dir.path(), 1, &[SECOND, "truncated", &len.to_string(), &(len - 1).to_string()]);
}

#[test]
fn header_longer_than_the_file_or_the_format() {
    let dir = one_file();
    let path = dir.path().join(SINGLE);
    let mut bytes = fs::read(&path).unwrap();
    let len = bytes.len() as u64;
    bytes[..8].copy_from_slice(&(len - 7).to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    refused(dir.path(), 1, &[SINGLE, "the header claims", "the whole file has"]);
    for absurd in [100_000_001, u64::MAX] {
        bytes[..8].copy_from_slice(&absurd.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        refused(dir.path(), 1, &[SINGLE, "the header claims", "33554432"]);
    }
}

#[test]
fn offsets_that_overlap_leave_holes_or_lie() {
    let tensor = |offsets: [u64; 2]| json!({"dtype": "F32", "shape": [2], "data_offsets": offsets});
    header_refused(&json!({"a": tensor([0, 8]), "b": tensor([4, 12])}), 12, &["tensor b", "inside the one before"]);
    header_refused(&json!({"a": tensor([0, 8]), "b": tensor([0, 8])}), 8, &["tensor b", "inside the one before"]);
    header_refused(&json!({"a": tensor([0, 8]), "b": tensor([12, 20])}), 20, &["bytes 8 to 12", "tensor b"]);
    header_refused(&json!({"a": tensor([4, 12])}), 12, &["bytes 0 to 4"]);
    header_refused(&json!({"a": tensor([0, 8])}), 9, &["1 bytes after the last tensor"]);
    header_refused(&json!({"a": tensor([8, 0])}), 8, &["tensor a", "before it begins"]);
    header_refused(&json!({"a": tensor([0, 12])}), 12, &["tensor a", "12 bytes", "F32 [2]"]);
    header_refused(&json!({"a": tensor([0, u64::MAX])}), 8, &["tensor a"]);
    let huge = json!({"dtype": "F32", "shape": [1u64 << 40, 1u64 << 40], "data_offsets": [0, 8]});
    header_refused(&json!({"a": huge}), 8, &["tensor a"]);
}

#[test]
fn headers_that_are_no_headers() {
    let dir = one_file();
    let path = dir.path().join(SINGLE);
    let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
    let entry = r#""a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let twice = format!("{{{entry},{entry}}}");
    for (header, part) in [
        ("", "no JSON object"),
        ("[]", "no JSON object"),
        ("\u{feff}{}", "no JSON object"),
        ("{", "broken header"),
        (deep.as_str(), "broken header"),
        (r#"{"a":1}"#, "tensor a"),
        (r#"{"a":{"dtype":"F3","shape":[],"data_offsets":[0,4]}}"#, "tensor a: unknown variant `F3`"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, "tensor a"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#, "tensor a: missing field `data_offsets`"),
        (r#"{"__metadata__":{"format":1}}"#, "broken header"),
        (r#"{"__metadata__":[]}"#, "broken header"),
        (twice.as_str(), "tensor a stands there twice"),
    ] {
        write_raw(&path, header, 0);
        refused(dir.path(), 1, &[SINGLE, part]);
    }
    fs::write(&path, [&7u64.to_le_bytes()[..], b"{\"\xff\xfe\":0"].concat()).unwrap();
    refused(dir.path(), 1, &[SINGLE, "broken header"]);
}

#[test]
fn index_and_shards_that_disagree() {
    let dir = two_shards();
    let path = dir.path().join(INDEX);
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut index = good.clone();
        change(&mut index);
        write_json(&path, &index);
    };
    for outside in ["../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", "", "a\\b.safetensors", "."] {
        with(&|index| index["weight_map"]["lm_head.weight"] = json!(outside));
        refused(dir.path(), 1, &[INDEX, "is not a file name"]);
    }
    with(&|index| index["weight_map"]["lm_head.weight"] = json!("pytorch_model.bin"));
    refused(dir.path(), 1, &[INDEX, "pytorch_model.bin", "not a .safetensors file"]);
    with(&|index| index["weight_map"]["lm_head.weight"] = json!("absent.safetensors"));
    refused(dir.path(), 1, &[INDEX, "absent.safetensors is missing"]);
    // what the model needs has to be where the index says; the rest is told
    let needed = |parts: &[&str]| {
        let checkpoint = open(dir.path());
        let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
        check(&spec.check(&checkpoint.index).unwrap_err(), 1, parts);
    };
    with(&|index| index["weight_map"]["lm_head.weight"] = json!("model-00001-of-00002.safetensors"));
    needed(&[INDEX, "lm_head.weight", SECOND]);
    with(&|index| drop(index["weight_map"].as_object_mut().unwrap().remove("lm_head.weight")));
    needed(&[INDEX, "lm_head.weight", "is not listed"]);
    with(&|index| index["weight_map"]["model.layers.0.mlp.up_proj.bias"] = json!(SECOND));
    let checkpoint = open(dir.path());
    assert!(checkpoint.disputes["model.layers.0.mlp.up_proj.bias"].contains("is missing from"));
    assert!(ModelSpec::from_config(&checkpoint.config).unwrap().check(&checkpoint.index).unwrap().is_empty());
    with(&|_| {});
    assert!(open(dir.path()).disputes.is_empty());
    with(&|index| index["weight_map"] = json!(["lm_head.weight"]));
    refused(dir.path(), 1, &[INDEX, "expected a map"]);
    with(&|index| *index = json!({}));
    refused(dir.path(), 1, &[INDEX, "weight_map"]);
    fs::write(&path, "[".repeat(1_000_000)).unwrap();
    refused(dir.path(), 1, &[INDEX]);
}

#[test]
fn missing_shard_and_a_name_in_two_shards() {
    let dir = two_shards();
    fs::copy(dir.path().join("model-00001-of-00002.safetensors"), dir.path().join(SECOND)).unwrap();
    refused(dir.path(), 1, &[SECOND, "is also in", "model-00001-of-00002.safetensors"]);
    fs::remove_file(dir.path().join(SECOND)).unwrap();
    refused(dir.path(), 1, &[INDEX, SECOND, "is missing"]);
}

#[test]
fn unreadable_config() {
    let dir = one_file();
    let path = dir.path().join("config.json");
    for text in ["", "{", "[]", "\"llama\"", "null", &"[".repeat(1_000_000), "{\"a\": 1} x"] {
        fs::write(&path, text).unwrap();
        refused(dir.path(), 1, &["config.json"]);
    }
    fs::write(&path, b"{\"model_type\": \"\xff\"}").unwrap();
    refused(dir.path(), 1, &["config.json"]);
    fs::remove_file(&path).unwrap();
    refused(dir.path(), 2, &["no config.json"]);
    write_json(&dir.path().join("adapter_config.json"), &json!({}));
    refused(dir.path(), 2, &["PEFT adapter"]);
}

#[test]
fn directories_that_are_none_or_have_no_weights() {
    let dir = one_file();
    refused(&dir.path().join("absent"), 2, &["absent", "no such directory"]);
    refused(&dir.path().join("config.json"), 2, &["config.json", "not a directory"]);
    fs::remove_file(dir.path().join(SINGLE)).unwrap();
    refused(dir.path(), 2, &["neither model.safetensors nor"]);
    fs::write(dir.path().join("pytorch_model-00001-of-00002.bin"), "").unwrap();
    refused(dir.path(), 2, &["pytorch_model.bin", "convert it to safetensors"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone", dir.path().join(SINGLE)).unwrap();
        refused(dir.path(), 2, &[SINGLE]);
    }
}

#[test]
fn dtypes_that_are_not_computed_with() {
    let dir = one_file();
    let header = json!({"a": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]},
                        "b": {"dtype": "U8", "shape": [3], "data_offsets": [16, 19]}});
    write_raw(&dir.path().join(SINGLE), &header.to_string(), 19);
    let checkpoint = open(dir.path());
    check(&checkpoint.load("a", &[2], &Device::Cpu).unwrap_err(), 1, &[SINGLE, "tensor a is F64"]);
    check(&checkpoint.load_f32("b", &[3], &Device::Cpu).unwrap_err(), 1, &[SINGLE, "tensor b is U8"]);
    check(&checkpoint.gather_rows("b", &[3], &[0]).unwrap_err(), 1, &["tensor b"]);
    assert_eq!(checkpoint.read(checkpoint.entry("b").unwrap()).unwrap(), [0; 3]);
}

#[test]
fn a_file_that_shrinks_or_changes_under_us() {
    let dir = one_file();
    let checkpoint = open(dir.path());
    let last = checkpoint.tensors.values().max_by_key(|entry| entry.begin).unwrap();
    OpenOptions::new().write(true).open(dir.path().join(SINGLE)).unwrap().set_len(last.begin + 1).unwrap();
    check(&checkpoint.read(last).unwrap_err(), 1, &[SINGLE, &last.name]);
    check(&checkpoint.load(&last.name, &last.shape, &Device::Cpu).unwrap_err(), 1, &[SINGLE, &last.name]);
    check(&checkpoint.copy_to(last, &mut Vec::new()).unwrap_err(), 1, &[SINGLE, &last.name, "changed"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named() {
    let dir = one_file();
    let checkpoint = open(dir.path());
    let entry = checkpoint.entry("lm_head.weight").unwrap();
    let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    check(&checkpoint.copy_to(entry, &mut full).unwrap_err(), 1, &["lm_head.weight", "No space left"]);
}
