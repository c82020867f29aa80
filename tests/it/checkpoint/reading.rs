//! What is read is what is there.

use std::fs;

use candle_core::{DType, Device};
use prune::checkpoint::{Checkpoint, sha256};
use prune::progress::Silent;
use safetensors::Dtype;
use serde_json::json;
use tempfile::tempdir;

use super::{open, variants};
use crate::fixture::material::shared;
use crate::fixture::{Head, Llama, Named, to_f32};

#[test]
fn every_tensor_comes_back() {
    for llama in variants() {
        let dir = tempdir().unwrap();
        llama.write(dir.path());
        let checkpoint = open(dir.path());
        let tensors = llama.tensors();
        assert_eq!(checkpoint.tensors.len(), tensors.len());
        assert_eq!(checkpoint.shards.len(), llama.shards);
        for Named { name, dtype, shape, bytes } in tensors {
            let entry = checkpoint.entry(&name).unwrap();
            assert_eq!((entry.dtype, &entry.shape, entry.len), (dtype, &shape, bytes.len() as u64));
            assert_eq!(checkpoint.read(entry).unwrap(), bytes);
            let mut copied = Vec::new();
            checkpoint.copy_to(entry, &mut copied).unwrap();
            assert_eq!(copied, bytes);

            let on_disk = match dtype {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                _ => DType::BF16,
            };
            let expected = to_f32(dtype, &bytes);
            let loaded = checkpoint.load(&name, &shape, &Device::Cpu).unwrap();
            assert_eq!((loaded.dtype(), loaded.dims()), (on_disk, &shape[..]));
            let flat = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(loaded.to_dtype(DType::F32).unwrap()), expected);
            assert_eq!(flat(checkpoint.load_f32(&name, &shape, &Device::Cpu).unwrap()), expected);
        }
    }
}

#[test]
fn rows_are_those_of_the_whole() {
    for llama in variants() {
        let dir = tempdir().unwrap();
        llama.write(dir.path());
        let checkpoint = open(dir.path());
        let name = if llama.head == Head::TiedHeadOnly { "lm_head.weight" } else { "model.embed_tokens.weight" };
        let shape = [llama.vocab, llama.hidden];
        let whole = checkpoint.load_f32(name, &shape, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();

        let ids = [7, 0, 63, 7, 7, 1, 62, 0];
        let rows = checkpoint.gather_rows(name, &shape, &ids).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, ids.map(|id| whole[id as usize].clone()));
        assert_eq!(checkpoint.gather_rows(name, &shape, &[]).unwrap().dims(), [0, llama.hidden]);
        let error = checkpoint.gather_rows(name, &shape, &[0, 64]).unwrap_err().to_string();
        assert!(error.contains("token 64"), "{error}");

        let part = checkpoint.load_rows_range(name, &shape, 5..9, &Device::Cpu).unwrap();
        assert_eq!(part.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap(), whole[5..9]);
        assert!(checkpoint.load_rows_range(name, &shape, 60..65, &Device::Cpu).is_err());
    }
}

#[test]
fn wrong_names_and_shapes_say_what_there_is() {
    let dir = tempdir().unwrap();
    Llama::default().write(dir.path());
    let checkpoint = open(dir.path());
    let missing = checkpoint.entry("layers.2.mlp.up_proj.weight").unwrap_err().to_string();
    assert!(missing.contains("model.safetensors"), "{missing}");
    assert!(missing.ends_with("the nearest name is model.layers.2.mlp.up_proj.weight"), "{missing}");
    let far = checkpoint.entry("transformer.wte").unwrap_err().to_string();
    assert!(far.ends_with("no tensor transformer.wte"), "{far}");
    let shape = checkpoint.load("model.norm.weight", &[17], &Device::Cpu).unwrap_err().to_string();
    assert!(shape.contains("model.norm.weight has the shape [16], the config asks for [17]"), "{shape}");
}

#[test]
fn config_keeps_every_key_in_order() {
    let dir = tempdir().unwrap();
    let llama = Llama { dtype: Dtype::BF16, ..Llama::default() };
    llama.write(dir.path());
    let checkpoint = open(dir.path());
    assert!(checkpoint.config.iter().eq(llama.config().iter()));
    assert_eq!(checkpoint.dtype_name(), Some("bfloat16"));
    let text = fs::read_to_string(dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join("config.json"), text.replace("torch_dtype", "dtype")).unwrap();
    assert_eq!(open(dir.path()).dtype_name(), Some("bfloat16"));
}

#[test]
fn fingerprint_is_that_of_the_model_not_of_the_files() {
    let fingerprint = |llama: &Llama| {
        let dir = tempdir().unwrap();
        llama.write(dir.path());
        open(dir.path()).fingerprint()
    };
    let plain = Llama::default();
    let one = fingerprint(&plain);
    assert_eq!(one.len(), 64);
    // shards, values, and what transformers fills in when it saves a config again
    assert_eq!(one, fingerprint(&Llama { shards: 4, ..plain.clone() }));
    assert_eq!(one, fingerprint(&Llama { seed: 1, ..plain.clone() }));
    let absent = serde_json::Map::from_iter([("head_dim".to_owned(), serde_json::Value::Null)]);
    assert_eq!(one, fingerprint(&Llama { config: absent, ..plain.clone() }));
    for other in [
        Llama { layers: 5, ..plain.clone() },
        Llama { dtype: Dtype::BF16, ..plain.clone() },
        Llama { head: Head::Tied, ..plain.clone() },
        Llama { head: Head::TiedHeadOnly, ..plain.clone() },
        Llama { heads: 2, head_dim: 8, kv_heads: 1, ..plain.clone() },
        Llama { config: serde_json::Map::from_iter([("model_type".to_owned(), json!("qwen2"))]), ..plain },
    ] {
        assert_ne!(one, fingerprint(&other), "{other:?}");
    }
}

#[test]
fn side_files_and_hashes() {
    let (dir, out) = (tempdir().unwrap(), tempdir().unwrap());
    Llama { shards: 2, ..Llama::default() }.write(dir.path());
    let templates = dir.path().join("additional_chat_templates");
    fs::create_dir(&templates).unwrap();
    fs::write(templates.join("tool_use.jinja"), "{{ messages }}").unwrap();
    fs::write(dir.path().join(".gitattributes"), "").unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    let checkpoint = open(dir.path());
    checkpoint.copy_side_files(out.path(), &Silent).unwrap();
    let names: Vec<String> = checkpoint.side_files().unwrap().iter().map(|name| name.display().to_string()).collect();
    let expected = [
        "LICENSE",
        "additional_chat_templates/tool_use.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    for name in expected {
        assert_eq!(fs::read(out.path().join(name)).unwrap(), fs::read(dir.path().join(name)).unwrap());
    }
    assert!(checkpoint.model_card().unwrap().unwrap().contains("# A random model"));

    let hashes = checkpoint.shard_hashes(&Silent).unwrap();
    assert_eq!(
        hashes.keys().collect::<Vec<_>>(),
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    );
    fs::write(dir.path().join("abc"), "abc").unwrap();
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(&dir.path().join("abc"), &Silent).unwrap(), known);
}

/// What a model's files link to elsewhere on the machine does not come into an output.
#[test]
#[cfg(unix)]
fn links_out_of_the_model_are_not_followed() {
    use std::os::unix::fs::symlink;
    let (home, out) = (tempdir().unwrap(), tempdir().unwrap());
    let secret = home.path().join("secret");
    fs::write(&secret, "key").unwrap();
    // in the hub's cache, where files are links to contents beside
    let repo = home.path().join("models--a--b");
    let dir = repo.join("snapshots/0123");
    Llama::default().write(&dir);
    fs::create_dir(repo.join("blobs")).unwrap();
    fs::rename(dir.join("tokenizer.json"), repo.join("blobs/etag")).unwrap();
    symlink("../../blobs/etag", dir.join("tokenizer.json")).unwrap();
    for name in ["LICENSE", "README.md"] {
        fs::remove_file(dir.join(name)).unwrap();
        symlink(&secret, dir.join(name)).unwrap();
    }
    symlink("tokenizer_config.json", dir.join("tokenizer_copy.json")).unwrap();
    let checkpoint = open(&dir);
    checkpoint.copy_side_files(out.path(), &Silent).unwrap();
    let mut names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer_copy.json"]);
    assert_eq!(checkpoint.model_card().unwrap(), None);
}

#[test]
fn a_real_checkpoint_reads_as_the_safetensors_crate_reads_it() {
    let Some(dir) = shared("data/stories260K") else { return };
    let checkpoint = Checkpoint::open_dir(&dir).unwrap();
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let witness = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(checkpoint.tensors.len(), witness.len());
    for (name, view) in witness.tensors() {
        assert!(checkpoint.read(checkpoint.entry(&name).unwrap()).unwrap() == view.data(), "{name}");
    }
    assert_eq!(checkpoint.fingerprint().len(), 64);
}
