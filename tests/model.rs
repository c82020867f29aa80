//! The model room against the reference implementations' numbers, resident and streamed.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod fixture;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use fixture::shared;
use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutSettings, cut};
use prune::data::{SequenceOptions, Sequences, Shape, Source, SourceOptions, Tokenizer};
use prune::model::{Batch, Model, ModelOptions, Observer, Residency};
use prune::progress::Silent;

/// Keeps every residual stream, `[l + 1][batch]`.
#[derive(Default)]
struct Keep(Vec<Vec<Tensor>>);

impl Observer for Keep {
    fn residual(&mut self, _batch: usize, place: usize, x: &Tensor) -> prune::Result<()> {
        self.0.resize_with(self.0.len().max(place + 1), Vec::new);
        self.0[place].push(x.clone());
        Ok(())
    }
}

fn open(dir: &Path, residency: Residency) -> Model {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    Model::open(checkpoint, &ModelOptions { residency: Some(residency), ..ModelOptions::default() }, &Silent).unwrap()
}

fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn tiny_equals_transformers() {
    let Some(golden) = shared("golden/mini/tiny") else { return };
    let tensors = candle_core::safetensors::load(golden.join("forward.safetensors"), &Device::Cpu).unwrap();
    let ids: Vec<Vec<u32>> = tensors["input_ids"].to_dtype(DType::U32).unwrap().to_vec2().unwrap();
    let (samples, t) = (ids.len(), ids[0].len());
    for residency in [Residency::Resident, Residency::Streamed] {
        let model = open(&golden, residency);
        let mut keep = Keep::default();
        model.run(&[Batch::sequences(&ids).unwrap()], &mut keep, "test", &Silent).unwrap();
        let hidden = &tensors["hidden"];
        assert_eq!(keep.0.len(), model.layers() + 1);
        for (layer, x) in keep.0.iter().enumerate() {
            let x = x[0].reshape((samples, t, model.spec().hidden_size)).unwrap();
            let difference = max_difference(&x, &hidden.get(layer).unwrap());
            assert!(difference < 1e-5, "{residency:?} layer {layer}: {difference}");
        }
        let logits = model.logits(&keep.0[model.layers()][0]).unwrap().reshape(tensors["logits"].dims()).unwrap();
        assert!(max_difference(&logits, &tensors["logits"]) < 2e-5);
        let nll = tensors["nll"].to_dtype(DType::F64).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        let loss = model.loss(&ids, "loss", &Silent).unwrap();
        assert_eq!(loss.tokens, samples * (t - 1));
        assert!((loss.sum - nll).abs() / nll < 1e-6, "{} {nll}", loss.sum);
    }
}

#[test]
fn a_cut_of_the_stories_model_loses_what_the_reference_says() {
    let (Some(model), Some(text)) =
        (shared("data/stories260K"), shared("data/tinystories/tiny_stories_train_head.jsonl"))
    else {
        return;
    };
    let reference: serde_json::Value =
        serde_json::from_slice(&std::fs::read(model.join("reference.json")).unwrap()).unwrap();
    let eval = &reference["eval"];
    // the reference takes the first rows of the file that have more than 32 tokens, cut to 128
    let source = Source::open(&text, &SourceOptions::default()).unwrap();
    let shape = Shape { seq_len: 128, min_tokens: 33, ..Shape::default() };
    let options = SequenceOptions { samples: Some(40), shape, seed: None };
    let rows = Sequences::read(&source, &Tokenizer::open(&model).unwrap(), &options, &Silent).unwrap().rows;
    let predicted: usize = rows.iter().map(|row| row.len() - 1).sum();
    assert_eq!(predicted as u64, eval["predicted_tokens"].as_u64().unwrap());
    for residency in [Residency::Resident, Residency::Streamed] {
        let loss = open(&model, residency).loss(&rows, "loss", &Silent).unwrap().mean();
        assert!((loss - eval["loss"].as_f64().unwrap()).abs() < 1e-4, "{residency:?}: {loss}");
    }
    let dir = tempfile::tempdir().unwrap();
    for (layer, expected) in eval["loss_without_block"].as_array().unwrap().iter().enumerate() {
        let expected = expected.as_f64().unwrap();
        let out = dir.path().join(layer.to_string());
        let settings = CutSettings {
            model: Some(model.display().to_string()),
            drop: Some(layer.to_string()),
            out: Some(out.clone()),
            verify: true,
            ..CutSettings::default()
        };
        cut(&settings, &Silent).unwrap();
        let loss = open(&out, Residency::Resident).loss(&rows, "loss", &Silent).unwrap().mean();
        assert!((loss - expected).abs() < 1e-4, "without layer {layer}: {loss}, not {expected}");
    }
}
