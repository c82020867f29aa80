//! GGUF files: read without trust, as numbers bit for bit those of the `gguf` package, run, cut, converted.

mod convert;
mod cut;
mod mixtures;
mod numbers;
mod refused;
mod stored;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prune::checkpoint::Checkpoint;
use prune::model::{Batch, Model, ModelOptions};
use prune::progress::Silent;

use crate::arch::forward::Last;

/// A file of `tests/data/gguf`.
fn recorded(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf").join(name)
}

/// Logits of the model at `path` for all of `ids`, `[t, v]`, from the layers `places`.
fn logits(path: &Path, ids: &[u32], places: Option<Vec<usize>>) -> Vec<f32> {
    let checkpoint = Arc::new(Checkpoint::open_dir(path).unwrap());
    let model = Model::open(checkpoint, &ModelOptions { places, ..ModelOptions::default() }, &Silent).unwrap();
    let mut last = Last(None);
    model.run(&[Batch::sequences(&[ids]).unwrap()], &mut last, "test", &Silent).unwrap();
    model.logits(&last.0.unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}
