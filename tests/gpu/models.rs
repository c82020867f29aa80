//! Whole passes of random models of several families: streams, losses, scores, on the GPU as on the CPU.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::importance::{METRICS, Probe, Scores, Watch};
use prune::model::{Batch, LoadOptions, Model, ModelOptions, Observer, Residency};
use prune::ops::Layout;
use prune::progress::Silent;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::fixture::{Llama, random, write_json, write_safetensors};
use crate::forward::equals_transformers;
use crate::gpu;
use crate::numbers::assert_close;

/// Small configs of the families whose blocks differ: biases, norms, fused projections, windows, rotations,
/// multipliers, activations, sub-layers side by side.
pub(crate) fn families() -> Vec<(&'static str, Map<String, Value>)> {
    let config = |patch: Value| {
        let mut config = Llama { layers: 3, ..Llama::default() }.config();
        config.extend(patch.as_object().unwrap().clone());
        config
    };
    vec![
        ("llama", config(json!({"attention_bias": true, "mlp_bias": true}))),
        ("mistral", config(json!({"model_type": "mistral", "sliding_window": 6}))),
        ("qwen2", config(json!({"model_type": "qwen2"}))),
        ("qwen3", config(json!({"model_type": "qwen3", "tie_word_embeddings": true}))),
        ("phi3", config(json!({"model_type": "phi3"}))),
        ("granite", config(json!({"model_type": "granite", "residual_multiplier": 0.5, "logits_scaling": 2.0}))),
        ("nemotron", config(json!({"model_type": "nemotron", "hidden_act": "relu2"}))),
        ("hunyuan", config(json!({"model_type": "hunyuan_v1_dense"}))),
        ("gemma3", config(json!({"model_type": "gemma3_text", "sliding_window": 6, "sliding_window_pattern": 2}))),
        ("olmo2", config(json!({"model_type": "olmo2"}))),
        ("glm4", config(json!({"model_type": "glm4"}))),
        ("cohere", config(json!({"model_type": "cohere"}))),
        ("phi", config(json!({"model_type": "phi", "hidden_act": "gelu_new"}))),
        (
            "gpt_neox",
            config(json!({
                "model_type": "gpt_neox", "num_key_value_heads": null, "head_dim": null, "rotary_pct": 0.5
            })),
        ),
        ("apertus", config(json!({"model_type": "apertus"}))),
    ]
}

/// A random checkpoint of whatever family `config` is.
pub(crate) fn write(dir: &Path, config: &Map<String, Value>, dtype: Dtype) {
    let spec = ModelSpec::from_config(config).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let table = [spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![random(&mut rng, spec.embedding.into(), &table, dtype)];
    for layer in 0..spec.layers {
        for tensor in spec.layer_tensors(layer) {
            tensors.push(random(&mut rng, tensor.name, &tensor.shape, dtype));
        }
    }
    for (name, shape) in spec.end_tensors() {
        tensors.push(random(&mut rng, name, &shape, dtype));
    }
    if !spec.tied {
        tensors.push(random(&mut rng, spec.head.into(), &table, dtype));
    }
    write_safetensors(&dir.join("model.safetensors"), &tensors);
    write_json(&dir.join("config.json"), &Value::Object(config.clone()));
}

fn open(dir: &Path, device: &Device, residency: Residency, four_bit: Option<bool>) -> Model {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let load_options = LoadOptions { four_bit, ..LoadOptions::default() };
    let options =
        ModelOptions { device: device.clone(), residency: Some(residency), load_options, ..ModelOptions::default() };
    Model::open(checkpoint, &options, &Silent).unwrap()
}

/// Every residual stream of every batch, in main memory.
#[derive(Default)]
struct Streams(Vec<Tensor>);

impl Observer for Streams {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0.push(x.to_device(&Device::Cpu)?);
        Ok(())
    }
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..53).map(|i| i * 7 % 61).collect(), (0..14).map(|i| (i * i + 3) % 61).collect(), vec![5, 9]]
}

/// A tree: a beginning that two sequences share, and a third one.
fn tree() -> Batch {
    let mut layout = Layout::default();
    let prefix = layout.push(40, None).unwrap();
    layout.push(9, Some(prefix)).unwrap();
    layout.push(3, Some(prefix)).unwrap();
    layout.push(8, None).unwrap();
    Batch { ids: (0..60).map(|i| i * 11 % 59).collect(), layout: Arc::new(layout), given: Vec::new(), before: 0 }
}

fn scores(model: &Model) -> Vec<Scores> {
    let batches = Batch::pack(&rows(), 60).unwrap();
    let mut probe = Probe::new(model.layers(), METRICS);
    model.run(&batches, &mut Watch::new(&mut probe, &batches), "test", &Silent).unwrap();
    probe.finish().unwrap()
}

/// Streams, losses and scores of all families, layers resident or streamed, weights whole or in four bits.
#[test]
fn families_compute_alike() {
    for (dtype, tolerance, nats, angle) in [("f32", 2e-5, 1e-5, 1e-6), ("bf16", 0.05, 0.05, 0.02)] {
        let Some(gpu) = gpu(dtype) else { return };
        for (index, (family, config)) in families().into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &config, [Dtype::F32, Dtype::BF16, Dtype::F16][index % 3]);
            for (residency, four_bit) in [
                (Residency::Resident, None),
                (Residency::Streamed, None),
                (Residency::Resident, Some(false)),
                (Residency::Resident, Some(true)),
            ] {
                let what = format!("{family} {dtype} {residency:?} {four_bit:?}");
                let ours = open(dir.path(), &gpu.device, residency, four_bit);
                let theirs = open(dir.path(), &Device::Cpu, residency, four_bit);
                let batches = [Batch::sequences(&rows()).unwrap(), tree()];
                let (mut found, mut expected) = (Streams::default(), Streams::default());
                ours.run(&batches, &mut found, "test", &Silent).unwrap();
                theirs.run(&batches, &mut expected, "test", &Silent).unwrap();
                assert_eq!(found.0.len(), 2 * (ours.layers() + 1));
                for (found, expected) in found.0.iter().zip(&expected.0) {
                    assert_close(&what, found, expected, tolerance);
                }
                let (found, expected) =
                    (ours.loss(&rows(), "loss", &Silent).unwrap(), theirs.loss(&rows(), "loss", &Silent).unwrap());
                assert!((found.mean() - expected.mean()).abs() < nats, "{what}: {found:?} {expected:?}");
                for (found, expected) in scores(&ours).iter().zip(scores(&theirs)) {
                    let pairs = found.mean.iter().flatten().zip(expected.mean.iter().flatten());
                    for (found, expected) in pairs {
                        // squared activations make scores large that are not bounded
                        let most = if family == "nemotron" { angle * expected.abs().max(1.0) } else { angle };
                        assert!((found - expected).abs() < most, "{what}: {found} {expected}");
                    }
                }
            }
        }
    }
}

/// A weight that is not finite is named, as on the CPU.
#[test]
fn what_is_not_finite_is_named() {
    let Some(gpu) = gpu("f32") else { return };
    let dir = tempfile::tempdir().unwrap();
    let llama = Llama::default();
    let mut tensors = llama.tensors();
    let broken = tensors.iter_mut().find(|tensor| tensor.name.contains("layers.2.mlp.up")).unwrap();
    broken.bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    write_json(&dir.path().join("config.json"), &Value::Object(llama.config()));
    let model = open(dir.path(), &gpu.device, Residency::Resident, None);
    let error = model.run(&[tree()], &mut Streams::default(), "test", &Silent).unwrap_err().to_string();
    assert!(error.contains("model.layers.2.mlp.up_proj.weight"), "{error}");
}

#[test]
fn every_architecture_gives_the_logits_of_transformers() {
    if let Some(gpu) = gpu("f32") {
        equals_transformers(&gpu.device);
    }
}
