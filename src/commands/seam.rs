//! The forward pass of `--verify`: what was written computes what the kept layers of the source compute.

use std::sync::Arc;

use candle_core::Tensor;
use serde::Serialize;

use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::model::{Batch, Model, ModelOptions, Observer};
use crate::plan::Place;
use crate::progress::Progress;
use crate::surgery::Cut;
use crate::{Context, Error, Result};

/// Tokens of the pass.
const TOKENS: usize = 32;

/// A place where layers are missing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Seam {
    /// Layer of the new checkpoint that is met by a stream it was not trained on; the number of layers is the head.
    pub layer: usize,
    /// Angular distance between the stream that meets it now and the one that did, last token of a made-up sequence.
    pub distance: f64,
}

/// Streams of one pass over one sequence, `[l + 1][t·d]`.
#[derive(Default)]
struct Streams(Vec<Vec<f32>>);

impl Observer for Streams {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> Result<()> {
        self.0.push(x.flatten_all()?.to_vec1()?);
        Ok(())
    }
}

/// Runs the source, what `cut` makes of it, and the `written` checkpoint over a made-up sequence.
///
/// # Errors
/// Work: a stream of the written checkpoint is not, bit for bit, that of the source's kept layers; a model that cannot
/// be run.
pub(super) fn check(cut: &Cut, written: &Arc<Checkpoint>, progress: &dyn Progress) -> Result<Vec<Seam>> {
    let (source, plan) = (cut.blueprint().source(), cut.plan());
    let spec = ModelSpec::from_config(&source.config)?;
    let tokens = TOKENS.min(spec.max_positions);
    let ids: Vec<u32> = (0..tokens).map(|i| ((i * 7919 + 1) % spec.vocab_size) as u32).collect();
    let batch = [Batch::sequences(&[ids])?];
    let run = |checkpoint: &Arc<Checkpoint>, places: Option<Vec<usize>>| {
        let model = Model::open(checkpoint.clone(), &ModelOptions { places, ..ModelOptions::default() }, progress)?;
        let mut streams = Streams::default();
        model.run(&batch, &mut streams, "running across the seam", progress)?;
        Ok::<_, Error>(streams.0)
    };
    let ours = run(written, None).context(|| written.source.dir.display())?;
    let theirs = match plan.stack.iter().all(Place::is_copy) && cut.repair().is_none() {
        true => run(source, Some(cut.kept().to_vec()))?,
        // as it was decided, read from the source
        false => run(&Arc::new(cut.blueprint().open()?), None)?,
    };
    // bits, so that a zero's sign counts and equal numbers are no matter of tolerance
    let same = |a: &[f32], b: &[f32]| a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()));
    let differs = ours.iter().zip(&theirs).position(|(ours, theirs)| !same(ours, theirs));
    if let Some(place) = differs.or((ours.len() != theirs.len()).then_some(0)) {
        return Err(Error::work(format!(
            "verification failed: the stream that enters layer {place} is not the one of the source's kept layers"
        )));
    }
    let dense = run(source, None)?;
    let last = |stream: &[f32]| stream[stream.len() - spec.hidden_size..].to_vec();
    let ends = cut.kept().iter().copied().chain([spec.layers]).enumerate();
    let seams = ends.filter(|(place, layer)| match place.checked_sub(1).map(|before| &plan.stack[before]) {
        None => *layer != 0,
        Some(before) => !before.is_copy() || *layer != before.layer + 1,
    });
    Ok(seams
        .map(|(place, layer)| Seam { layer: place, distance: angle(&last(&ours[place]), &last(&dense[layer])) })
        .collect())
}

/// Angular distance, in f64.
fn angle(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    cosine.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
}
