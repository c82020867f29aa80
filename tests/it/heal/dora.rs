//! DoRA: trained, dropped out, saved and stopped as plain adapters are, and the model that it makes.

use std::fs;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::commands::heal::heal;
use prune::heal::{HealSettings, Quant, Trainer, parameters};
use prune::model::{CheckpointingPolicy, LoadOptions, Model, ModelOptions, Residency};
use prune::ops;
use prune::progress::Silent;
use prune::weights::lora::Adapters;
use serde_json::json;

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};
use crate::fixture::impatient::Impatient;
use crate::heal::model::{open, shake};
use crate::heal::shared::{difference, tensors};

fn rows() -> Vec<Vec<u32>> {
    vec![(0..23).map(|i| i * 7 % 61).collect(), (0..14).map(|i| (i * i + 3) % 61).collect(), vec![5, 9]]
}

fn settings(quant: Quant) -> HealSettings {
    let target = "all-linear".parse().unwrap();
    HealSettings {
        quant,
        target,
        dropout: 0.0,
        rank: 3.into(),
        alpha: Some(5.0),
        dora: true,
        ..HealSettings::default()
    }
}

/// Fresh magnitudes are the norms of the rows of the weight as it is held.
#[test]
fn magnitudes_begin_as_norms() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    for quant in [Quant::None, Quant::Nf4] {
        let model = open(dir.path(), &settings(quant));
        let mut seen = 0;
        for (name, m) in parameters(&model).unwrap() {
            let Some(module) = name.strip_suffix(".lora_magnitude_vector") else { continue };
            let stored = &tensors(dir.path().join("model.safetensors"))[&format!("{module}.weight")];
            let weight = ops::WeightMatrix::Dense(stored.clone());
            let weight = if quant == Quant::Nf4 { weight.quantize(true).unwrap() } else { weight };
            let weight = weight.dense(DType::F64, &Device::Cpu).unwrap();
            let norms = weight.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
            assert!(difference(&m, &norms) < 1e-6, "{name}");
            seen += 1;
        }
        assert_eq!(seen, 4 * 7);
    }
}

/// With the norms held, a step along each gradient changes the loss as the gradient says, on weights in four bits too.
#[test]
fn slopes_with_the_norms_held() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    for quant in [Quant::None, Quant::Nf4] {
        let settings = settings(quant);
        let model = open(dir.path(), &settings);
        let parameters = parameters(&model).unwrap();
        shake(&parameters, 2);
        let trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 2)).unwrap();
        let (_, found, _) = trainer.gradients(&rows()).unwrap();
        // the norms are those of the last refresh, unless it is m that moves: it does not change them
        let loss = |model: &Model| model.loss(&rows(), "", &Silent).unwrap().mean();
        assert_eq!(found.len(), parameters.len());
        for (name, parameter) in &parameters {
            let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let (gradient, before) = (numbers(&found[name]), numbers(parameter));
            let norm = gradient.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            assert!(norm > 1e-6, "the gradient of {name} is {norm}");
            let step = 0.002 * (1.0 / norm.max(0.05)).min(5.0);
            let at = |sign: f64| {
                let scale = (sign * step / norm) as f32;
                let moved: Vec<f32> = before.iter().zip(&gradient).map(|(x, g)| x + scale * g).collect();
                ops::edit(parameter, |own| own.copy_from_slice(&moved)).unwrap();
                if name.ends_with("lora_magnitude_vector") {
                    model.refresh().unwrap();
                }
                loss(&model)
            };
            let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
            at(0.0);
            assert!((slope - norm).abs() < 0.02 * norm + 2e-5, "{name}: {slope} {norm}");
        }
    }
}

/// What PEFT does with dropout: the frozen weight's own share of an output sees the input whole. In the mean over many
/// masks it is no dropout, and where the magnitudes are the norms and B is zero, dropout does nothing at all.
#[test]
fn dropout_passes_by_the_frozen_share() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let settings = HealSettings { dropout: 0.5, ..settings(Quant::None) };
    let model = open(dir.path(), &settings);
    let loss = |seed: u64, dropout: f64| {
        let settings = HealSettings { seed, dropout, ..settings.clone() };
        let trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 0)).unwrap();
        let (sums, _, targets) = trainer.gradients(&rows()).unwrap();
        sums.loss / targets as f64
    };
    let plain = loss(0, 0.0);
    assert!((loss(0, 0.5) - plain).abs() < 1e-5 * plain, "a fresh adapter with dropout");
    shake(&parameters(&model).unwrap(), 4);
    model.begin_magnitudes().unwrap();
    assert!(loss(0, 0.5) != loss(1, 0.5) && loss(0, 0.5) != loss(0, 0.0));
    assert_eq!(loss(0, 0.5), loss(0, 0.5));
}

/// A row of zeros has no norm to divide by.
#[test]
fn rows_of_zeros_are_refused() {
    let desk = Desk::new();
    let path = desk.path("model/model.safetensors");
    let mut all = tensors(&path);
    let name = "model.layers.1.mlp.up_proj.weight";
    let up = all[name].clone();
    let (rows, columns) = up.dims2().unwrap();
    let zero = Tensor::zeros((1, columns), up.dtype(), &Device::Cpu).unwrap();
    let rest = up.narrow(0, 1, rows - 1).unwrap();
    all.insert(name.to_owned(), Tensor::cat(&[zero, rest], 0).unwrap());
    candle_core::safetensors::save(&all, &path).unwrap();
    let heal = "heal model --data text.jsonl --seq-len 8 --batch 2 --steps 2 --rank 2 --quant none -o healed";
    desk.refused(&format!("{heal} --dora"), 1, &["layers.1.mlp.up_proj", "row 0", "DoRA"]);
    desk.json(&format!("{heal} --dora --layers-to-transform 2-3 --json"));
}

const HEAL: &str = "heal model --data text.jsonl --eval-data text.jsonl --seq-len 8 --batch 2 --steps 6 --warmup 1 \
                    --lr 0.05 --rank 2 --target all-linear";

fn loss(desk: &Desk, line: &str) -> f64 {
    let report = desk.json(&format!("eval {line} --tasks text:text.jsonl --json"));
    let figures = report["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["metric"] == "loss").unwrap()["value"].as_f64().unwrap()
}

/// The adapter's files, the merged model, the adapter on the model in memory and layer by layer, and `prune merge` are
/// one model; it is healed on from.
#[test]
fn one_model_however_it_is_read() {
    let desk = Desk::new();
    let report = desk.json(&format!("{HEAL} --dora --quant none --dropout 0 -o healed --json"));
    let measured = &report["result"]["measured"];
    assert!(measured["healed"].as_f64().unwrap() < measured["cut"].as_f64().unwrap() - 0.01, "{measured}");
    let config = read(&desk.path("healed/adapter/adapter_config.json"));
    assert_eq!(config["use_dora"], json!(true));
    let adapter = tensors(desk.path("healed/adapter/adapter_model.safetensors"));
    assert_eq!(adapter.len(), 4 * 7 * 3);
    let name = "base_model.model.model.layers.2.mlp.up_proj.lora_magnitude_vector";
    assert_eq!(adapter[name].dims(), [24]);
    let merged = loss(&desk, "healed/merged");
    let resident = loss(&desk, "model --adapter healed/adapter");
    assert!((resident - merged).abs() < 1e-5, "{resident} {merged}");
    desk.json("merge model --adapter healed/adapter -o merged --json");
    let bytes = |place: &str| fs::read(desk.path(place).join("model.safetensors")).unwrap();
    assert!(bytes("merged") == bytes("healed/merged"));

    let checkpoint = Arc::new(Checkpoint::open_dir(&desk.path("model")).unwrap());
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let read = Arc::new(Adapters::open(&desk.path("healed/adapter"), &spec, &Device::Cpu).unwrap());
    for four_bit in [None, Some(true)] {
        let [resident, streamed] = [Residency::Resident, Residency::Streamed].map(|residency| {
            let load_options = LoadOptions { adapters: Some(read.clone()), four_bit, ..LoadOptions::default() };
            let options = ModelOptions { load_options, residency: Some(residency), ..ModelOptions::default() };
            Model::open(checkpoint.clone(), &options, &Silent).unwrap().loss(&rows(), "", &Silent).unwrap().mean()
        });
        assert_eq!(resident, streamed);
    }

    desk.json(&format!("{} --adapter healed/adapter --adapter-only --quant none -o on --json", plain()));
    let on = tensors(desk.path("on/adapter/adapter_model.safetensors"));
    assert!(adapter.iter().all(|(name, tensor)| difference(tensor, &on[name]) > 0.0), "something was not trained");
}

/// Without what an adapter brings itself.
fn plain() -> String {
    HEAL.replace(" --rank 2 --target all-linear", "")
}

/// Merged onto what four bits left, the written model is the one that was trained: its norms were theirs.
#[test]
fn onto_four_bits_the_written_model_is_the_trained_one() {
    let desk = Desk::new();
    let heal = format!("{HEAL} --dora --dropout 0 --keep-last --merge-onto quantized -o healed --json");
    let report = desk.json(&heal);
    let result = &report["result"];
    let (trained, written) = (result["best_loss"].as_f64().unwrap(), result["measured"]["healed"].as_f64().unwrap());
    assert_eq!(result["best_step"], json!(6), "{result}");
    assert!((trained - written).abs() < 1e-5, "{trained} {written}");
}

/// Stopped and gone on with, the run ends with the same bytes.
#[test]
fn a_stopped_run_ends_the_same() {
    let desk = Desk::new();
    let text = |name: &str| Some(desk.path(name).display().to_string());
    let settings = |out: &str| HealSettings {
        model: text("model"),
        data: text("text.jsonl").into_iter().collect(),
        eval_data: text("text.jsonl"),
        steps: 5,
        batch: 2,
        seq_len: Some(8),
        rank: 2.into(),
        lr: 1e-2,
        dora: true,
        eval_every: 2,
        keep_last: true,
        out: Some(desk.path(out)),
        ..HealSettings::default()
    };
    let impatient = Impatient::default();
    impatient.interrupt.run(|| heal(&settings("stopped"), &impatient)).unwrap_err();
    let report = heal(&settings("stopped"), &Silent).unwrap();
    assert!((1..5).contains(&report.steps_before), "{}", report.steps_before);
    heal(&settings("whole"), &Silent).unwrap();
    for file in ["adapter/adapter_model.safetensors", "merged/model.safetensors"] {
        assert!(fs::read(desk.path("stopped").join(file)).unwrap() == fs::read(desk.path("whole").join(file)).unwrap());
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let desk = Desk::new();
    desk.refused(&format!("{HEAL} --dora --train lm-head+last1 -o healed"), 2, &["dora goes with train"]);
    desk.refused(&format!("{} --dora --adapter a -o healed", plain()), 2, &["dora cannot go with adapter"]);
}
