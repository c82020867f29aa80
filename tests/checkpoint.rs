//! Checkpoints: what is read is what is there, and every broken file is refused with its name and the reason.

mod fixture;

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use fixture::{Head, Llama, Named, to_f32};
use prune::checkpoint::Checkpoint;
use safetensors::Dtype;
use tempfile::tempdir;

/// Every variant whose bytes must come back.
fn variants() -> Vec<Llama> {
    let plain = Llama::default;
    vec![
        plain(),
        Llama { dtype: Dtype::BF16, shards: 3, ..plain() },
        Llama { dtype: Dtype::F16, head: Head::Tied, ..plain() },
        Llama { dtype: Dtype::BF16, head: Head::TiedHeadOnly, ..plain() },
    ]
}

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open_dir(dir).unwrap()
}

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
