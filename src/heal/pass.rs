//! One pass of training: some sequences through the model, and their gradients back.
//!
//! The forward walk keeps, for the layers that are to be trained through, either what their backward pass needs or only
//! what entered them; the backward walk goes from the top, takes a layer's vector-Jacobian product and uses up what the
//! layer kept. Nothing below the lowest trained layer is kept.

use candle_core::Tensor;

use super::hidden::{Differences, Held};
use crate::arch::LayerTensor;
use crate::collective::{Gradients, PassLoss, add};
use crate::model::{
    Batch, Block, CheckpointingPolicy, Dropout, ForwardContext, Lesson, Model, Parameter, Part, TrainContext,
};
use crate::{Error, Result, interrupt, ops};

/// A pass to make.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassSettings<'a> {
    /// What the gradients are multiplied with: one over the number of targets of the whole step.
    pub(super) factor: f64,
    /// Dropout.
    pub(super) dropout: Option<Dropout>,
    /// What memory is spent on.
    pub(super) policy: CheckpointingPolicy,
    /// A teacher.
    pub(super) lesson: Option<Lesson<'a>>,
    /// Streams that are held against the teacher's.
    pub(super) held: Option<Held<'a>>,
}

/// For each token of the batch, the next of its sequence.
#[must_use]
pub fn targets(batch: &Batch) -> Vec<Option<u32>> {
    batch.targets()
}

/// The parameters that are trained, by name, in the order of the model. Changing them in place changes the model.
///
/// # Errors
/// Work: layers that are not in memory.
pub fn parameters(model: &Model) -> Result<Vec<(String, Tensor)>> {
    let mut all = Vec::new();
    for (place, block) in blocks(model)?.iter().enumerate() {
        all.extend(block.parameters().into_iter().map(|parameter| named(model, place, parameter)));
    }
    if model.head().is_trained() {
        let spec = model.spec();
        all.push((spec.final_norm_tensor(), model.head().norm_weight().clone()));
        all.extend(spec.final_norm_bias().zip(model.head().norm_bias().cloned()));
        all.push((spec.head.to_owned(), model.head().weight()?.clone()));
    }
    Ok(all)
}

fn named(model: &Model, place: usize, (role, part, tensor): Parameter) -> (String, Tensor) {
    let LayerTensor { name, bias, .. } = model.spec().layer_tensor(place, role);
    let name = match (part, bias) {
        (Part::Weight, _) => name,
        (Part::Bias, Some(bias)) => bias,
        _ => format!("{}.{}", name.strip_suffix(".weight").unwrap_or(&name), part.suffix()),
    };
    (name, tensor)
}

fn blocks(model: &Model) -> Result<&[std::sync::Arc<Block>]> {
    model.blocks().ok_or_else(|| Error::work("training needs all layers in memory"))
}

/// Runs `batch` forward and back, and adds to `gradients`.
///
/// # Errors
/// Work: a value that is not finite, named with its layer. Interrupted.
pub(super) fn pass(
    model: &Model,
    batch: &Batch,
    settings: &PassSettings<'_>,
    gradients: &mut Gradients,
) -> Result<PassLoss> {
    let blocks = blocks(model)?;
    let prepared = ForwardContext::new(model.spec(), batch, model.device())?;
    let PassSettings { factor, dropout, policy, lesson, held } = *settings;
    let training = |place| TrainContext { forward: &prepared, place, dropout, policy, inputs: None, rows: None };
    let trained = |block: &std::sync::Arc<Block>| !block.parameters().is_empty();
    let lowest = blocks.iter().position(trained).unwrap_or(blocks.len());

    let mut x = model.embed(batch)?;
    let (mut kept, mut differences) = (Vec::new(), Differences::default());
    let mut watch = ops::FiniteWatch::new(blocks.len(), model.device())?;
    let broken = |place| Error::work(format!("layer {place} gives values that are not finite"));
    for (place, block) in blocks.iter().enumerate() {
        interrupt::check()?;
        differences.look(held.as_ref(), place, &x)?;
        if place < lowest {
            x = block.forward(&x, &prepared)?;
        } else {
            let (y, own) = block.forward_saving(&x, &training(place), place + policy.saved_layers >= blocks.len())?;
            kept.push(own);
            x = y;
        }
        if !watch.look(place, &x)? {
            return Err(broken(place));
        }
    }
    if let Some(place) = watch.first_broken()? {
        return Err(broken(place));
    }

    differences.look(held.as_ref(), blocks.len(), &x)?;
    let found = model.head().train(&x, &targets(batch), factor, lesson)?;
    drop(x);
    if let Some(own) = found.own {
        let spec = model.spec();
        add(gradients, spec.final_norm_tensor(), own.norm)?;
        if let Some((name, bias)) = spec.final_norm_bias().zip(own.norm_bias) {
            add(gradients, name, bias)?;
        }
        add(gradients, spec.head.to_owned(), own.weight)?;
    }
    let mut dx = Some(differences.join(blocks.len(), found.dx)?);
    for (place, block) in blocks.iter().enumerate().skip(lowest).rev() {
        interrupt::check()?;
        let (Some(kept), Some(dy)) = (kept.pop(), dx.take()) else { break };
        let (below, own) = block.backward(kept, &training(place), dy, place > lowest)?;
        for parameter in own {
            let (name, gradient) = named(model, place, parameter);
            add(gradients, name, gradient)?;
        }
        dx = below.map(|below| differences.join(place, below)).transpose()?;
    }
    // over the targets, as the rest of the loss
    let hidden = differences.mean / factor;
    let weighted = held.map_or(0.0, |held| held.weight * hidden);
    Ok(PassLoss { loss: found.loss + weighted, cross_entropy: found.cross_entropy, hidden })
}
