//! Whole runs of the Hugging Face Trainer, repeated.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use prune::heal::{FixedSamples, HealSettings, Quant, Samples, Trainer, parameters};
use prune::model::CheckpointingPolicy;
use serde_json::Value;

use crate::fixture::material::shared;
use crate::heal::model::{open, set};
use crate::heal::shared::{difference, tensors};

/// Forty steps of 2 x 128 tokens, one step of warm-up, cosine, clipped at 1.
#[test]
fn forty_steps() {
    let Some(tiny) = shared("golden/mini/tiny") else { return };
    for (name, quant) in [("heal-f32", Quant::None), ("heal-nf4", Quant::Nf4)] {
        let golden = tensors(tiny.join(format!("{name}.safetensors")));
        let settings = HealSettings {
            quant,
            plain_scales: true,
            rank: 8.into(),
            dropout: 0.0,
            lr: 3e-3,
            warmup: Some(1.0),
            steps: 40,
            ..HealSettings::default()
        };
        let model = open(&tiny, &settings);
        for (name, parameter) in parameters(&model).unwrap() {
            set(&parameter, &golden[&format!("init.{name}")]);
        }
        let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 3)).unwrap();
        let numbers = |name: &str| golden[name].to_vec1::<f64>().unwrap();
        let (losses, norms, rates) = (numbers("losses"), numbers("grad_norms"), numbers("learning_rates"));
        let (mut worst_loss, mut worst_norm) = (0f64, 0f64);
        for step in 0..40 {
            let rows: Vec<Vec<i64>> = golden["input_ids"].get(step).unwrap().to_vec2().unwrap();
            let rows: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(|id| *id as u32).collect()).collect();
            let report = trainer.step(&rows).unwrap();
            worst_loss = worst_loss.max((report.loss - losses[step]).abs());
            worst_norm = worst_norm.max((report.norm - norms[step]).abs() / norms[step]);
            assert!((report.rate - rates[step]).abs() < 1e-12);
        }
        let worst = parameters(&model)
            .unwrap()
            .iter()
            .map(|(name, parameter)| difference(parameter, &golden[&format!("final.{name}")]))
            .fold(0.0, f64::max);
        println!("{name}: loss {worst_loss:e}, norm {worst_norm:e}, adapters {worst:e}");
        assert!(worst_loss < 2e-5, "{name}: a loss is off by {worst_loss}");
        assert!(worst_norm < 1e-3, "{name}: a norm is off by {worst_norm}");
        assert!(worst < 1e-3, "{name}: the final adapter is off by {worst}");
    }
}

/// Two epochs of 52 padded rows in steps of 8, the last step of an epoch of 4: losses, norms, learning rates and final
/// adapters of three Trainer runs, one of them on an NF4 checkpoint that transformers saved.
#[test]
fn two_epochs_with_padding_and_remainders() {
    let Some(train) = shared("golden/nf4/train") else { return };
    let golden: Value = serde_json::from_slice(&std::fs::read(train.join("train_golden.json")).unwrap()).unwrap();
    let data = tensors(train.join("train_data.safetensors"));
    for (name, dir) in [
        ("f32_bs2_acc4", "tiny-llama-bf16"),
        ("f32_bs2_acc4_clip0p05", "tiny-llama-bf16"),
        ("nf4_bs2_acc4", "tiny-llama-nf4"),
    ] {
        run(name, &golden["runs"][name], &train, dir, &rows(&data));
    }
}

/// What is not padding: a token that is not attended to and not predicted is not there.
fn rows(data: &HashMap<String, Tensor>) -> Vec<Vec<u32>> {
    let (ids, mask): (Vec<Vec<i64>>, Vec<Vec<i64>>) =
        (data["input_ids"].to_vec2().unwrap(), data["attention_mask"].to_vec2().unwrap());
    let real = |(ids, mask): (&Vec<i64>, &Vec<i64>)| {
        ids.iter().zip(mask).filter(|(_, mask)| **mask == 1).map(|(id, _)| *id as u32).collect()
    };
    ids.iter().zip(&mask).map(real).collect()
}

fn run(name: &str, golden: &Value, train: &Path, dir: &str, rows: &[Vec<u32>]) {
    let settings = HealSettings {
        quant: Quant::None,
        target: "all-linear".parse().unwrap(),
        rank: 8.into(),
        alpha: Some(16.0),
        dropout: 0.0,
        lr: 1e-3,
        warmup: Some(3.0),
        steps: 14,
        batch: 8,
        weight_decay: 0.01,
        clip: golden["max_grad_norm"].as_f64().unwrap(),
        ..HealSettings::default()
    };
    let model = open(&train.join(dir), &settings);
    let adapter = |which: &str| tensors(train.join(which).join("adapter_model.safetensors"));
    let init = adapter("adapter_init");
    for (name, parameter) in parameters(&model).unwrap() {
        set(&parameter, &init[&format!("base_model.model.{name}")]);
    }
    // bitsandbytes' backward pass rounds the decoded weights to bf16, their former type, its forward pass does not;
    // ours has one set of weights
    let tolerances = if name.starts_with("nf4") { (1e-5, 2e-4, 1.5e-3) } else { (2e-6, 2e-6, 2e-6) };
    let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 9)).unwrap();
    let mut samples = FixedSamples::new(rows.to_vec(), None);
    for (step, log) in golden["logs"].as_array().unwrap().iter().enumerate() {
        let report = trainer.step(&samples.take(8).unwrap()).unwrap();
        for (what, found, tolerance) in [
            ("loss", report.loss, tolerances.0),
            ("grad_norm", report.norm, tolerances.1),
            ("learning_rate", report.rate, 1e-12),
        ] {
            let expected = log[what].as_f64().unwrap();
            assert!((found - expected).abs() < tolerance, "{name}, step {step}: {what} {found}, expected {expected}");
        }
    }
    let last = adapter(&format!("adapter_final_{name}"));
    let worst = trainer
        .parameters()
        .iter()
        .map(|(name, parameter)| difference(parameter, &last[&format!("base_model.model.{name}")]))
        .fold(0.0, f64::max);
    println!("{name}: adapters {worst:e}");
    assert!(worst < tolerances.2, "{name}: the final adapter is off by {worst}");
}

/// Logits of the NF4 checkpoint: decoded straight to f32, they are those of bitsandbytes.
#[test]
fn logits_of_a_four_bit_checkpoint() {
    let Some(train) = shared("golden/nf4/train") else { return };
    let golden = tensors(train.join("nf4_bs2_acc4.step0_logits_rows0-1.safetensors"));
    let data = tensors(train.join("train_data.safetensors"));
    let settings = HealSettings { quant: Quant::None, ..HealSettings::default() };
    let model = open(&train.join("tiny-llama-nf4"), &settings);
    for (index, row) in rows(&data)[..2].iter().enumerate() {
        let batch = prune::model::Batch::sequences(std::slice::from_ref(row)).unwrap();
        let pass = prune::model::ForwardContext::new(model.spec(), &batch, model.device()).unwrap();
        let mut x = model.embed(&batch).unwrap();
        for block in model.blocks().unwrap() {
            x = block.forward(&x, &pass).unwrap();
        }
        let expected = golden["logits"].get(index).unwrap().narrow(0, 0, row.len()).unwrap();
        let off = difference(&model.logits(&x).unwrap(), &expected.to_dtype(DType::F32).unwrap());
        assert!(off < 5e-6, "row {index} is off by {off:e}");
    }
}
