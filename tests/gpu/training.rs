//! Gradients and steps of training on the GPU against those on the CPU.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::heal::{HealSettings, Quant, Train, Trainer, load_options, parameters};
use prune::model::{CheckpointingPolicy, Model, ModelOptions, Residency};
use prune::ops;
use prune::progress::Silent;
use prune::weights::lora::Adapters;
use safetensors::Dtype;

use crate::gpu;
use crate::models::{families, write};
use crate::numbers::{assert_close, numbers, random};

fn settings(train: Train, quant: Quant, dropout: f64) -> HealSettings {
    let target = "all-linear".parse().unwrap();
    HealSettings {
        train,
        quant,
        dropout,
        target,
        rank: 3.into(),
        alpha: Some(5.0),
        warmup: Some(0.0),
        ..HealSettings::default()
    }
}

/// Opens `dir` for training, its adapters small random numbers.
fn open(dir: &Path, device: &Device, settings: &HealSettings) -> Model {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let mut load_options = load_options(&spec, settings);
    if settings.train == Train::Lora {
        let adapters = Adapters::new(&spec, &settings.lora(&spec).unwrap(), settings.seed, device).unwrap();
        load_options.adapters = Some(Arc::new(adapters));
    }
    let residency = Some(Residency::Resident);
    let options =
        ModelOptions { device: device.clone(), load_options, residency, rows_on_host: true, ..ModelOptions::default() };
    let model = Model::open(checkpoint, &options, &Silent).unwrap();
    for (index, (name, parameter)) in parameters(&model).unwrap().iter().enumerate() {
        if name.contains("lora_") {
            let noise = numbers(&random(index as u64, 1, parameter.elem_count()));
            ops::edit(parameter, |own| own.iter_mut().zip(&noise).for_each(|(x, noise)| *x = 0.1 * *noise as f32))
                .unwrap();
        }
    }
    model
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..41).map(|i| i * 7 % 61).collect(), (0..14).map(|i| (i * i + 3) % 61).collect(), vec![5, 9]]
}

/// The loss and every gradient, for adapters or whole layers with head and norms, frozen weights whole or in four bits,
/// with dropout, with and without computing layers again, some tokens at a time, from inputs here or in main memory.
#[test]
fn gradients_are_the_cpus() {
    for (dtype, tolerance) in [("f32", 5e-5), ("bf16", 0.06)] {
        let Some(gpu) = gpu(dtype) else { return };
        // in bf16 the small gradients of the families from granite on are rounding for the most part
        let all = families().into_iter().take_while(|(family, _)| dtype == "f32" || *family != "granite");
        for (family, config) in all {
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &config, Dtype::F32);
            for (train, quant, dropout, saved_layers, chunk_size, offload_activations) in [
                (Train::Lora, Quant::None, 0.0, 9, 64, false),
                (Train::Lora, Quant::Nf4, 0.3, 0, 64, false),
                (Train::Lora, Quant::Nf4, 0.3, 1, 13, true),
                (Train::Last(2), Quant::None, 0.0, 1, 20, false),
            ] {
                if family == "phi" && matches!(train, Train::Last(_)) {
                    // its head has a bias, which is not trained
                    continue;
                }
                let policy = CheckpointingPolicy { saved_layers, chunk_size, offload_activations };
                let settings = settings(train, quant, dropout);
                let (ours, theirs) =
                    (open(dir.path(), &gpu.device, &settings), open(dir.path(), &Device::Cpu, &settings));
                let gradients =
                    |model| Trainer::new(model, None, &settings, policy).unwrap().gradients(&rows()).unwrap();
                let (found, expected) = (gradients(&ours), gradients(&theirs));
                let what = format!("{family} {dtype} {train} {quant:?}");
                let (loss, own) = (found.0.loss / found.2 as f64, expected.0.loss / expected.2 as f64);
                assert!((loss - own).abs() < 0.5 * tolerance, "{what}: {loss} {own}");
                assert_eq!(found.1.keys().collect::<Vec<_>>(), expected.1.keys().collect::<Vec<_>>());
                for (name, expected) in &expected.1 {
                    assert_close(&format!("{what} {name}"), &found.1[name], expected, tolerance);
                }
            }
        }
    }
}

/// Steps with dropout, clipping, weight decay and a teacher move the parameters as on the CPU.
#[test]
fn steps_are_the_cpus() {
    let Some(gpu) = gpu("f32") else { return };
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &families()[0].1, Dtype::F32);
    let settings = HealSettings {
        weight_decay: 0.1,
        lr: 1e-2,
        clip: 0.5,
        pass_tokens: 40,
        teacher_weight: 0.3,
        temperature: 2.0,
        ..settings(Train::Lora, Quant::Nf4, 0.1)
    };
    let run = |device: &Device| {
        let model = open(dir.path(), device, &settings);
        let teacher = open(dir.path(), device, &HealSettings { quant: Quant::None, ..settings.clone() });
        let mut trainer = Trainer::new(&model, Some(&teacher), &settings, CheckpointingPolicy::on(device, 1)).unwrap();
        let reports: Vec<_> = (0..4).map(|_| trainer.step(&rows()).unwrap()).collect();
        let parameters: Vec<(String, Tensor)> = trainer.parameters().to_vec();
        (reports, parameters)
    };
    let ((found, moved), (expected, own)) = (run(&gpu.device), run(&Device::Cpu));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found.loss - expected.loss).abs() < 2e-5 * expected.loss, "{found:?} {expected:?}");
        assert!((found.norm - expected.norm).abs() < 1e-3 * expected.norm, "{found:?} {expected:?}");
    }
    for ((name, found), (_, expected)) in moved.iter().zip(&own) {
        // AdamW divides small gradients by their own size: their last bits count
        assert_close(name, found, expected, 5e-3);
    }
}
