//! Passes over the fixtures' models, on any device, against transformers' logits.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::checkpoint;
use prune::commands::cut::{CutSettings, cut};
use prune::model::{Batch, Model, ModelOptions, Observer, Residency};
use prune::progress::Silent;

use super::cases::{Case, cases};

/// Keeps the stream that leaves the last layer, `[t, d]`.
pub(crate) struct Last(pub(crate) Option<Tensor>);

impl Observer for Last {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0 = Some(x.clone());
        Ok(())
    }
}

/// Logits of the model in `dir` at `positions` of `ids`, `[positions, v]` row-major.
pub(crate) fn logits(
    dir: &Path,
    ids: &[u32],
    positions: &[usize],
    (device, residency): (&Device, Residency),
    places: Option<Vec<usize>>,
) -> Vec<f32> {
    let options =
        ModelOptions { device: device.clone(), residency: Some(residency), places, ..ModelOptions::default() };
    let checkpoint = Arc::new(checkpoint::Checkpoint::open_dir(dir).unwrap());
    let model = Model::open(checkpoint, &options, &Silent).unwrap();
    let mut last = Last(None);
    model.run(&[Batch::sequences(&[ids]).unwrap()], &mut last, "test", &Silent).unwrap();
    let rows: Vec<u32> = positions.iter().map(|position| *position as u32).collect();
    let rows = Tensor::new(rows, device).unwrap();
    let logits = model.logits(&last.0.unwrap().index_select(&rows, 0).unwrap()).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

pub(crate) fn worst(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f32::max)
}

impl Case {
    pub(crate) fn kept(&self) -> Vec<usize> {
        (0..self.spec().layers).filter(|layer| !(self.drop.0..=self.drop.1).contains(layer)).collect()
    }
}

/// Logits before and after a cut, as written and in memory, resident and streamed.
pub(crate) fn equals_transformers(device: &Device) {
    for (name, case) in cases() {
        // no GPU kernel caps scores or has sinks: that is refused
        if !device.is_cpu() && case.spec().without_gpu_kernel().is_some() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let target = tempfile::tempdir().unwrap();
        let out = target.path().join("cut");
        let settings = CutSettings {
            model: Some(dir.path().display().to_string()),
            out: Some(out.clone()),
            drop: Some(format!("{}-{}", case.drop.0, case.drop.1)),
            ..CutSettings::default()
        };
        cut(&settings, &Silent).unwrap();
        for residency in [Residency::Resident, Residency::Streamed] {
            for (what, dir, places, expected) in [
                ("whole", dir.path(), None, &case.logits),
                ("in memory cut", dir.path(), Some(case.kept()), &case.logits_after_the_cut),
                ("cut", &out, None, &case.logits_after_the_cut),
            ] {
                let found = logits(dir, &case.ids, &case.positions, (device, residency), places);
                let worst = worst(&found, expected);
                assert!(worst <= 1e-4, "{name} {what}, {residency:?}: off by {worst}");
            }
        }
    }
}
