//! The model room against the reference implementations' numbers, resident and streamed.

mod fixture;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use prune::checkpoint::Checkpoint;
use prune::model::{Batch, Model, ModelOptions, Observer, Residency};
use prune::progress::Silent;

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not here", path.display());
    None
}

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
