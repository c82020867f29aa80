//! Headers, indexes, and what a cut reads besides: the model card, the history, the side files.

use std::fs;
use std::path::Path;

use candle_core::Device;
use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutSettings, cut as run};
use rand::Rng as _;

use super::super::case::Case;
use super::super::{bytes, json, tensors};
use super::{Feed, Files, small};
use crate::fixture::Llama;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens the model, and reads every tensor of it.
fn opened(case: &mut Case<'_>, dir: &Path) {
    let Some(checkpoint) = case.heard(Checkpoint::open_dir(dir)) else { return };
    for entry in checkpoint.tensors.values() {
        match case.heard(checkpoint.read(entry)) {
            Some(bytes) if bytes.len() as u64 != entry.len => case.fault("a tensor of another length"),
            _ => {}
        }
        case.heard(checkpoint.load_f32(&entry.name, &entry.shape, &Device::Cpu));
        case.heard(checkpoint.load(&entry.name, &entry.shape, &Device::Cpu));
    }
    case.heard(checkpoint.entry("model.layers.7.mlp.up_proj.weight"));
    checkpoint.disputes.values().for_each(|dispute| case.message(&prune::shown::shown_message(dispute)));
    checkpoint.fingerprint();
}

/// `model.safetensors`.
pub(super) fn header(dir: &Path) -> Feed {
    let model = Llama { layers: 1, ..small() };
    model.write(dir);
    let (good, files) = (model.tensors(), Files::of(dir));
    Box::new(move |case| {
        files.replace(&[(SINGLE, tensors::changed(&mut case.rng, &good))]);
        opened(case, &files.dir);
    })
}

/// `model.safetensors.index.json`.
pub(super) fn index(dir: &Path) -> Feed {
    Llama { layers: 1, shards: 2, ..small() }.write(dir);
    let files = Files::of(dir);
    let good = files.json(INDEX);
    Box::new(move |case| {
        files.replace(&[(INDEX, json::changed(&mut case.rng, &good))]);
        opened(case, &files.dir);
    })
}

/// A cut of a model with a history, everything beside its weights broken, written or only decided.
pub(super) fn cut(dir: &Path) -> Feed {
    let (whole, model) = (dir.join("whole"), dir.join("model"));
    Llama { layers: 4, ..small() }.write(&whole);
    let settings = |model: &Path| CutSettings {
        model: Some(model.display().to_string()),
        deepest: Some(1),
        ..CutSettings::default()
    };
    run(&CutSettings { out: Some(model.clone()), ..settings(&whole) }, &prune::progress::Silent).unwrap();
    let files = Files::of(&model);
    let texts = ["config.json", "prune.json", "README.md", "generation_config.json", "tokenizer_config.json", ".prune"];
    Box::new(move |case| {
        let name = case.pick(&texts);
        let broken = match serde_json::from_slice(&files.bytes(name)) {
            Ok(good) => json::changed(&mut case.rng, &good),
            Err(_) => {
                let mut bytes = files.bytes(name);
                bytes::change(&mut case.rng, &mut bytes, &["---", "\n", "license:", "tags: [", "base_model:"]);
                bytes
            }
        };
        files.replace(&[(name, broken)]);
        let out = case.fresh().join("out");
        let dry_run = case.rng.random();
        let settings = CutSettings { out: Some(out.clone()), dry_run, ..settings(&files.dir) };
        let report = case.listen(|progress| run(&settings, progress));
        if report.is_some_and(|report| report.dry_run) || !out.exists() {
            if fs::read_dir(out.parent().unwrap()).unwrap().next().is_some() {
                case.fault("it left something behind");
            }
        } else {
            opened(case, &out);
        }
    })
}
