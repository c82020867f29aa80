//! Whole passes and cuts: a forward pass against candle-transformers' Llama, the losses without each layer against a
//! pass for each, a cut against copying the same bytes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails where it unwraps, and says what it found"
)]

#[path = "../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest of it")]
mod fixture;
mod pairs;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama;
use criterion::Criterion;
use fixture::Llama;
use pairs::pair;
use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutSettings, cut};
use prune::importance::without;
use prune::model::{Batch, Model, ModelOptions, Observer, StackUnit, Stacks, Trie};
use prune::progress::Silent;

const TOKENS: usize = 256;

/// Keeps what leaves the last layer.
#[derive(Default)]
struct Last(Option<Tensor>);

impl Observer for Last {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0 = Some(x.clone());
        Ok(())
    }
}

fn forward(criterion: &mut Criterion, dir: &Path) {
    let model = Model::open(Arc::new(Checkpoint::open_dir(dir).unwrap()), &ModelOptions::default(), &Silent).unwrap();
    let ids: Vec<u32> = (0..TOKENS as u32).map(|place| 3 + place * 7 % 500).collect();
    let batches = [Batch::sequences(&[&ids]).unwrap()];
    let ours = || {
        let mut last = Last::default();
        model.run(&batches, &mut last, "pass", &Silent).unwrap();
        let x = last.0.unwrap();
        model.logits(&x.narrow(0, TOKENS - 1, 1).unwrap()).unwrap()
    };

    let config: llama::LlamaConfig = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    let config = config.into_config(false);
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let candle = llama::Llama::load(builder, &config).unwrap();
    let input = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let theirs = || {
        let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
        candle.forward(&input, 0, &mut cache).unwrap()
    };
    let difference = (ours().flatten_all().unwrap() - theirs().flatten_all().unwrap()).unwrap().abs().unwrap();
    assert!(difference.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-3, "both compute the same");
    pair(criterion, ("forward pass, 256 tokens", "candle-transformers"), ours, theirs);
}

/// The losses without each layer in one pass, against a pass for each.
fn leave_one_out(criterion: &mut Criterion, dir: &Path) {
    let model = Model::open(Arc::new(Checkpoint::open_dir(dir).unwrap()), &ModelOptions::default(), &Silent).unwrap();
    let (layers, spec) = (model.layers(), model.spec());
    let sequences: Vec<Vec<u32>> = vec![(0..TOKENS as u32).map(|place| 3 + place * 7 % 500).collect()];
    let stacks: Vec<Vec<usize>> =
        [without(layers, 0, 0)].into_iter().chain((0..layers).map(|l| without(layers, l, 1))).collect();
    let losses = |stacks: &[Vec<usize>]| {
        let stacks = Stacks { unit: StackUnit::Layer, stacks, beside_the_first: false };
        let found = model.stack_losses(stacks, &sequences, "losses", &Silent).unwrap();
        found.iter().map(|losses| losses[0].mean()).collect::<Vec<f64>>()
    };
    let together = || losses(&stacks);
    let one_by_one = || stacks.iter().flat_map(|stack| losses(std::slice::from_ref(stack))).collect::<Vec<f64>>();
    assert_eq!(together(), one_by_one(), "both compute the same");
    // layers and heads that each computes, a head in units of a layer
    let numbers: usize = spec.layer_tensors(0).iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    let heads = stacks.len() as f64 * (spec.vocab_size * spec.hidden_size) as f64 / numbers as f64;
    let alone: usize = stacks.iter().map(Vec::len).sum();
    let counted = (alone as f64 + heads) / (Trie::new(&stacks).layer_passes() as f64 + heads);
    println!("leave one out: counting layers and heads allows {counted:.2}");
    pair(criterion, ("leave one out", "a pass a candidate"), together, one_by_one);
}

fn cuts(criterion: &mut Criterion, dir: &Path) {
    let out = tempfile::tempdir().unwrap();
    let settings = CutSettings {
        model: Some(dir.display().to_string()),
        drop: Some("2-3".into()),
        out: Some(out.path().join("cut")),
        force: true,
        ..CutSettings::default()
    };
    cut(&settings, &Silent).unwrap();
    let (written, copy) = (out.path().join("cut/model.safetensors"), out.path().join("copy"));
    pair(
        criterion,
        ("cut", "copying the same bytes to disk"),
        || cut(&settings, &Silent).unwrap(),
        || {
            fs::copy(&written, &copy).unwrap();
            fs::File::open(&copy).unwrap().sync_all().unwrap();
        },
    );
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    Llama { layers: 6, hidden: 512, mlp: 1536, heads: 8, kv_heads: 4, head_dim: 64, vocab: 512, ..Llama::default() }
        .write(dir.path());
    let mut criterion = Criterion::default().configure_from_args();
    forward(&mut criterion, dir.path());
    leave_one_out(&mut criterion, dir.path());
    cuts(&mut criterion, dir.path());
    criterion.final_summary();
}
