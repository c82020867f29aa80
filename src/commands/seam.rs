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
    let Compared { ours, dense, spec } = Compared::of(cut, written, progress)?;
    let plan = cut.plan();
    let ends = cut.kept().iter().copied().chain([spec.layers]).enumerate();
    let seams = ends.filter(|(place, layer)| match place.checked_sub(1).map(|before| &plan.stack[before]) {
        None => *layer != 0,
        Some(before) => !before.is_copy() || *layer != before.layer + 1,
    });
    let last = |stream: &[f32]| last_token(stream, &spec).to_vec();
    Ok(seams
        .map(|(place, layer)| Seam { layer: place, distance: angle(&last(&ours[place]), &last(&dense[layer])) })
        .collect())
}

/// The angular distance between the streams that leave the last layers of the source and of the `written` checkpoint
/// that `cut` makes of it, last token of a made-up sequence; nothing where all their numbers are the same.
///
/// # Errors
/// As [`check`].
pub(super) fn drift(cut: &Cut, written: &Arc<Checkpoint>, progress: &dyn Progress) -> Result<Option<f64>> {
    let Compared { ours, dense, spec } = Compared::of(cut, written, progress)?;
    let (Some(ours), Some(dense)) = (ours.last(), dense.last()) else {
        return Err(Error::work("a model without layers"));
    };
    // a zero that is added changes no number but a zero's sign
    Ok((ours != dense).then(|| angle(last_token(ours, &spec), last_token(dense, &spec))))
}

/// Streams of the written checkpoint, which are those that were decided, and of its source, `[l + 1][t·d]`.
struct Compared {
    ours: Vec<Vec<f32>>,
    dense: Vec<Vec<f32>>,
    spec: ModelSpec,
}

impl Compared {
    fn of(cut: &Cut, written: &Arc<Checkpoint>, progress: &dyn Progress) -> Result<Self> {
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
        let differs = ours.iter().zip(&theirs).position(|(ours, theirs)| !same(ours, theirs));
        if let Some(place) = differs.or((ours.len() != theirs.len()).then_some(0)) {
            return Err(Error::work(format!(
                "verification failed: the stream that enters layer {place} is not the one of the source's layers"
            )));
        }
        Ok(Self { ours, dense: run(source, None)?, spec })
    }
}

/// Bits, so that a zero's sign counts and equal numbers are no matter of tolerance.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()))
}

fn last_token<'a>(stream: &'a [f32], spec: &ModelSpec) -> &'a [f32] {
    &stream[stream.len() - spec.hidden_size..]
}

/// Angular distance, in f64.
fn angle(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    cosine.clamp(-1.0, 1.0).acos() / std::f64::consts::PI
}
