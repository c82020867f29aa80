//! bitsandbytes' four-bit checkpoints, in and out.

use std::collections::BTreeMap;

use candle_core::{DType, Device};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::ops::Nf4Weight;
use prune::ops::nf4::Scales;
use prune::weights::four_bit;

use crate::fixture::material::shared;
use crate::heal::shared::difference;

/// A checkpoint that transformers saved in four bits: every weight is read, and written again to the same tensors.
#[test]
fn bitsandbytes_checkpoint_in_and_out() {
    let Some(train) = shared("golden/nf4/train") else { return };
    let theirs = Checkpoint::open_dir(&train.join("tiny-llama-nf4")).unwrap();
    let source = Checkpoint::open_dir(&train.join("tiny-llama-bf16")).unwrap();
    let spec = ModelSpec::from_config(&theirs.config).unwrap();
    let mut weights = 0;
    for layer in 0..spec.layers {
        for tensor in spec.layer_tensors(layer).into_iter().filter(|tensor| tensor.role.is_linear()) {
            assert!(theirs.index.four_bit_state(&tensor.name).is_some());
            let shape = (tensor.shape[0], tensor.shape[1]);
            let weight = four_bit::load(&theirs.index, &tensor.name, shape).unwrap();
            assert_eq!(weight.dtype(), DType::BF16);
            for (name, dtype, shape, bytes) in four_bit::parts(&tensor.name, &weight) {
                let entry = theirs.index.entry(&name).unwrap();
                assert_eq!((dtype, &shape), (entry.dtype, &entry.shape), "{name}");
                assert_eq!(bytes, theirs.index.read(entry).unwrap(), "{name}");
            }

            // our own quantisation of the source: the same codes, and scales within a step of the scales' codes,
            // because bitsandbytes' CPU code does not always take the nearest one
            let original = source.index.load(&tensor.name, &tensor.shape, &Device::Cpu).unwrap();
            let own = Nf4Weight::quantize(&original, true).unwrap();
            assert_eq!(own.packed(), weight.packed());
            let (Scales::Double { offset: a, .. }, Scales::Double { offset: b, .. }) = (own.scales(), weight.scales())
            else {
                panic!("double quantisation was asked for")
            };
            assert!(a.to_bits().abs_diff(b.to_bits()) <= 1);
            let decoded = |weight: &Nf4Weight| weight.dequantize(DType::F32, &Device::Cpu).unwrap();
            assert!(difference(&decoded(&own), &decoded(&weight)) < 1e-3);
            weights += 1;
        }
    }
    assert_eq!(weights, 14);
}

/// The config says what transformers' own says.
#[test]
fn quantization_config() {
    let Some(train) = shared("golden/nf4/train") else { return };
    let theirs = Checkpoint::open_dir(&train.join("tiny-llama-nf4")).unwrap();
    let ours = four_bit::quantization_config(true, "bfloat16");
    assert_eq!(Some(&ours), theirs.config.get("quantization_config"));
}

/// A part that is missing or does not fit is a fault of the file, named.
#[test]
fn broken_parts_are_named() {
    let Some(train) = shared("golden/nf4/train") else { return };
    let file = train.join("tiny-llama-nf4/model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let own: BTreeMap<_, _> = tensors.into_iter().filter(|(key, _)| key.starts_with(name)).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let error = |tensors: &BTreeMap<_, _>, shape| {
        let tensors: std::collections::HashMap<_, _> = tensors.clone().into_iter().collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let index = prune::checkpoint::Index::open_file(&path).unwrap();
        let error = four_bit::load(&index, name, shape).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        error.to_string()
    };
    assert!(error(&own, (128, 128)).contains("[192, 128]"));
    for part in ["absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4"] {
        let mut tensors = own.clone();
        let whole = tensors.remove(&format!("{name}.{part}")).unwrap();
        let message = error(&tensors, (192, 128));
        assert!(message.contains(name) && (message.contains(part) || message.contains("four bits")), "{message}");
        let len = whole.dim(0).unwrap();
        tensors.insert(format!("{name}.{part}"), whole.narrow(0, 0, len - 1).unwrap().contiguous().unwrap());
        assert!(error(&tensors, (192, 128)).contains(name));
    }
}
