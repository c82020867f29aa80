//! The small recordings of `tests/data/golden`: NF4, an adapter and its training, distances, divergences. The
//! questions are `eval`'s.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::commands::merge::{MergeSettings, merge};
use prune::heal::schedule::Decay;
use prune::heal::{HealSettings, Quant, Trainer, parameters};
use prune::importance::{Probe, Scores, Streams, Watch, metric};
use prune::model::{Batch, CheckpointingPolicy, LoadOptions, Model, ModelOptions};
use prune::ops::nf4::{BLOCK, CODES, Nf4Weight, SCALE_BLOCK, Scales, dynamic_map};
use prune::ops::{self, Divergence, Layout, Teacher, Tutor};
use prune::progress::Silent;
use prune::weights::lora::Adapters;
use serde_json::Value;
use tempfile::TempDir;

use crate::arch::cases::{Case, read, weights};
use crate::arch::forward::Last;
use crate::fixture::to_f32;

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden").join(name)
}

/// A recording, and how it is looked into.
struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn open(name: &str) -> Self {
        Self(candle_core::safetensors::load(path(name), &Device::Cpu).unwrap())
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.0[name].flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `found` is `name` to `tolerance`.
    fn near(&self, name: &str, found: &Tensor, tolerance: f64) {
        let (found, expected) = (found.to_dtype(DType::F64).unwrap(), self.0[name].to_dtype(DType::F64).unwrap());
        let off = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        let off: f64 = off.to_scalar().unwrap();
        println!("{name}: off by {off:e}");
        assert!(off <= tolerance, "{name}: off by {off:e}");
    }
}

/// The model of the recordings, and two samples of tokens.
fn llama() -> (TempDir, ModelSpec, [Vec<u32>; 2]) {
    let case: Case = read("llama");
    let dir = tempfile::tempdir().unwrap();
    case.write(dir.path());
    let samples = [case.ids.clone(), case.ids[9..22].to_vec()];
    (dir, case.spec(), samples)
}

fn open(dir: &TempDir, spec: &ModelSpec, with_adapter: bool) -> Model {
    let adapters = with_adapter.then(|| Arc::new(Adapters::open(&path("adapter"), spec, &Device::Cpu).unwrap()));
    let options =
        ModelOptions { load_options: LoadOptions { adapters, ..LoadOptions::default() }, ..ModelOptions::default() };
    Model::open(Arc::new(Checkpoint::open_dir(dir.path()).unwrap()), &options, &Silent).unwrap()
}

/// Codes and scales of bitsandbytes to the bit, and what it decodes; of double quantisation the codes of scales that
/// its CPU code takes, which are not always the nearest, so that our own are within a step of them.
#[test]
fn four_bits_are_those_of_bitsandbytes() {
    let golden = Golden::open("nf4.safetensors");
    let mut matrix = weights(1, "nf4.weight".into(), vec![130, 128]);
    matrix.bytes[5 * 512..6 * 512].fill(0);
    let matrix = Tensor::from_vec(to_f32(matrix.dtype, &matrix.bytes), (130, 128), &Device::Cpu).unwrap();
    assert_eq!(golden.floats("codes"), CODES);
    assert_eq!(golden.floats("double.map"), dynamic_map());
    let rows = golden.0["rows"].to_dtype(DType::U32).unwrap();
    let decoded = |weight: &Nf4Weight| weight.dequantize(DType::F32, &Device::Cpu).unwrap();

    let plain = Nf4Weight::quantize(&matrix, false).unwrap();
    let Scales::Plain(scales) = plain.scales() else { panic!("plain scales were asked for") };
    assert_eq!(plain.packed(), golden.bytes("packed"));
    assert_eq!(*scales, golden.floats("scales"));
    golden.near("decoded", &decoded(&plain).index_select(&rows, 0).unwrap(), 0.0);

    let offset = golden.floats("double.offset")[0];
    let scales = Scales::Double {
        codes: golden.bytes("double.codes"),
        map: Arc::new(dynamic_map()),
        outer: golden.floats("double.scales"),
        outer_block: SCALE_BLOCK,
        offset,
    };
    let theirs = Nf4Weight::new(golden.bytes("packed"), scales, CODES, BLOCK, (130, 128), DType::F32).unwrap();
    golden.near("double.decoded", &decoded(&theirs).index_select(&rows, 0).unwrap(), 0.0);

    let own = Nf4Weight::quantize(&matrix, true).unwrap();
    let Scales::Double { codes, outer, offset: own_offset, .. } = own.scales() else {
        panic!("double scales were asked for")
    };
    assert_eq!(own.packed(), theirs.packed());
    assert!(own_offset.to_bits().abs_diff(offset.to_bits()) <= 1, "{own_offset} {offset}");
    assert!(outer.iter().zip(golden.floats("double.scales")).all(|(a, b)| (a - b).abs() <= 1e-6 * b), "{outer:?}");
    let steps = codes.iter().zip(golden.bytes("double.codes")).map(|(a, b)| a.abs_diff(b));
    assert!(steps.max() <= Some(1));
}

/// PEFT's adapter on the model: logits, and the weights of PEFT's own merge.
#[test]
fn an_adapter_computes_and_merges_as_in_peft() {
    let golden = Golden::open("lora.safetensors");
    let (dir, spec, [ids, _]) = llama();
    let model = open(&dir, &spec, true);
    let mut last = Last(None);
    model.run(&[Batch::sequences(&[&ids]).unwrap()], &mut last, "test", &Silent).unwrap();
    let rows = Tensor::new(&[0u32, 8, 22, 23], &Device::Cpu).unwrap();
    golden.near("logits", &model.logits(&last.0.unwrap().index_select(&rows, 0).unwrap()).unwrap(), 1e-5);

    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("merged");
    let settings = MergeSettings {
        model: Some(dir.path().display().to_string()),
        adapter: Some(path("adapter")),
        out: Some(out.clone()),
        ..MergeSettings::default()
    };
    merge(&settings, &Silent).unwrap();
    let merged = candle_core::safetensors::load(out.join("model.safetensors"), &Device::Cpu).unwrap();
    for name in ["model.layers.2.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"] {
        golden.near(&format!("merged.{name}"), &merged[name].narrow(0, 0, 8).unwrap(), 2e-7);
    }
}

/// Losses of three steps of PyTorch's AdamW and after them, a gradient of the first, and the adapter at the end.
#[test]
fn three_steps_of_training_as_in_pytorch() {
    let golden = Golden::open("lora.safetensors");
    let (dir, spec, samples) = llama();
    let model = open(&dir, &spec, true);
    let settings = HealSettings {
        quant: Quant::None,
        dropout: 0.0,
        lr: 1e-3,
        schedule: Decay::Constant,
        warmup: Some(0.0),
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        clip: 0.0,
        ..HealSettings::default()
    };
    let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 9)).unwrap();
    let (_, gradients, _) = trainer.gradients(&samples).unwrap();
    let down = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight";
    let (_, gradient) = gradients.iter().find(|(name, _)| down.ends_with(name.as_str())).unwrap();
    golden.near("gradient", gradient, 1e-6);
    let mut losses: Vec<f64> = (0..3).map(|_| trainer.step(&samples).unwrap().loss).collect();
    let (sums, _, targets) = trainer.gradients(&samples).unwrap();
    losses.push(sums.loss / targets as f64);
    golden.near("losses", &Tensor::new(losses, &Device::Cpu).unwrap(), 1e-6);
    let trained = parameters(&model).unwrap();
    assert_eq!(trained.len(), 4 * 2 * 2);
    for (name, parameter) in trained {
        golden.near(&format!("final.base_model.model.{name}"), &parameter, 2e-6);
    }
}

/// `[n - 1, l]` against the recording, whose last column of row n - 1 is l = L - n.
fn near(what: &str, found: &Scores, expected: &Tensor, tolerance: f64) {
    let expected: Vec<Vec<f64>> = expected.to_vec2().unwrap();
    assert_eq!(found.mean.len(), expected.len());
    let pairs = found.mean.iter().zip(&expected).flat_map(|(found, expected)| found.iter().zip(expected));
    let worst = pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
    println!("{what}: off by {worst:e}");
    assert!(worst <= tolerance, "{what}: off by {worst:e}");
}

/// The distances of all blocks: of whole passes, which the reference computes in f64, and of recorded streams, where
/// nothing rounds but the formula.
#[test]
fn distances_are_those_of_f64() {
    let golden = Golden::open("distances.safetensors");
    let (dir, spec, samples) = llama();
    let model = open(&dir, &spec, false);
    let angular = || Probe::new(spec.layers, [metric("angular").unwrap()]);
    let mut probe = angular();
    let batches = [Batch::sequences(&samples).unwrap()];
    model.run(&batches, &mut Watch::new(&mut probe, &batches), "test", &Silent).unwrap();
    near("passes", &probe.finish().unwrap()[0], &golden.0["distances"], 2e-7);

    let recorded = &golden.0["recorded"];
    let (streams, samples, t, d) = recorded.dims4().unwrap();
    let states: Vec<Vec<f32>> =
        (0..streams).map(|l| recorded.get(l).unwrap().flatten_all().unwrap().to_vec1().unwrap()).collect();
    let states: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
    let mut probe = angular();
    let layout = Layout::sequences(vec![t; samples]).unwrap();
    probe.observe_batch(&Streams::Numbers { states: &states, d }, &layout).unwrap();
    near("streams", &probe.finish().unwrap()[0], &golden.0["recorded.distances"], 1e-14);
}

/// Every divergence from a teacher and its gradient are those of TRL's GKD, at every beta and temperature; of KL
/// without the temperature squared, which is not there.
#[test]
fn divergences_are_those_of_trl() {
    let record: Value = serde_json::from_slice(&std::fs::read(path("divergences.json")).unwrap()).unwrap();
    let rows = |value: &Value| -> Tensor {
        let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
        let (n, v) = (rows.len(), rows[0].len());
        Tensor::from_vec(rows.concat(), (n, v), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
    };
    let (student, teacher) = (rows(&record["student"]), rows(&record["teacher"]));
    let (n, v) = student.dims2().unwrap();
    let identity = Tensor::eye(v, DType::F32, &Device::Cpu).unwrap();
    let cases = record["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let [beta, temperature, loss] = ["beta", "temperature", "loss"].map(|key| case[key].as_f64().unwrap());
        let (divergence, scale) = match beta {
            0.0 => (Divergence::Kl, temperature * temperature),
            1.0 => (Divergence::ReverseKl, 1.0),
            beta => (Divergence::Jsd { beta }, 1.0),
        };
        let lesson = Teacher { hidden: &teacher, head: &identity, cap: None, weight: 1.0, temperature, divergence };
        let found = ops::objective(&student, &identity, &vec![Some(0); n], Some(Tutor::Live(lesson)), false).unwrap();
        let off = (found.loss / scale - loss).abs();
        assert!(off < 1e-6 * loss.max(1.0), "beta {beta}, temperature {temperature}: {} {loss}", found.loss / scale);
        let gradient = ((found.hidden.to_dtype(DType::F64).unwrap() / scale).unwrap()
            - rows(&case["gradient"]).to_dtype(DType::F64).unwrap())
        .unwrap();
        let off: f64 = gradient.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
        println!("beta {beta}, temperature {temperature}: gradient off by {off:e}");
        assert!(off < 1e-6, "beta {beta}, temperature {temperature}: a gradient is off by {off:e}");
    }
}
