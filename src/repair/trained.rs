//! Layers that learn a gap: a neighbor of the gap is trained until the stream that leaves it is the one that left the
//! layers of the gap and itself, by the mean squared error on recorded streams. Gradients are those of that layer
//! alone; every tensor of it is trained, in f32.
//!
//! Both ends are recorded from the whole model, so that layers of several gaps learn independently of each other.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::check::{RepairNeeds, TextTokens};
use super::course::named;
use super::fit::{Found, RepairTask, Repaired};
use super::layer_fit::LayerFit;
use super::recorded::Recorded;
use super::{How, Repair};
use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::model::{Batch, Block, Cost, ForwardContext, Loss, Model, TrainingCost, mean_flops, tokens_at_once};
use crate::plan::{Place, Plan};
use crate::progress::{Progress, Unit};
use crate::{Error, Result, interrupt};

/// Tokens whose streams go through the layers together where not all of them fit in memory.
const WAVE: usize = 1 << 14;

/// LLM-Streamline's layer: the first of the block, trained to do what all of it did.
pub(super) const STREAMLINE: Repair = Repair {
    name: "streamline",
    about: "the layer before a gap trained until its stream is the one that left the gap: gradients of that layer alone",
    reference: "LLM-Streamline, arXiv 2403.19135",
    opens_everywhere: true,
    how: How::Trained(Neighbor::Before, LayerTraining { lr: 2e-4, steps: 300, batch: 16 }),
};

/// XMerge's layer: the one that stays reproduces the one that goes and itself.
pub(super) const XMERGE: Repair = Repair {
    name: "xmerge",
    about: "the layer behind a gap trained until it does what the gap and it did: gradients of that layer alone",
    reference: "XMerge, arXiv 2609.02083",
    opens_everywhere: true,
    how: How::Trained(Neighbor::Behind, LayerTraining { lr: 1e-5, steps: 300, batch: 16 }),
};

/// The layer beside a gap that learns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbor {
    /// The one that the gap's stream came from.
    Before,
    /// The one that the gap's stream went to.
    Behind,
}

/// How a layer is trained: AdamW (betas 0.9 and 0.999, eps 1e-8) without decay, at a constant rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerTraining {
    /// Learning rate.
    pub lr: f64,
    /// Steps.
    pub steps: usize,
    /// Sequences of a step, at most as many as there are: step i takes those from i times as many on, in order, and
    /// begins anew behind the last.
    pub batch: usize,
}

/// What came of a trained layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainedLayer {
    /// The layer of the source that it began as.
    pub layer: usize,
    /// The first of the layers that it stands for.
    pub first: usize,
    /// The last of them.
    pub last: usize,
    /// Learning rate.
    pub lr: f64,
    /// Sequences of a step.
    pub batch: usize,
    /// Mean squared error of the stream over tokens and channels of the fitting text, before the first step.
    pub before: f64,
    /// The same of the layer as it is written.
    pub after: f64,
    /// On the judging text, before the first step.
    pub before_other: f64,
    /// The same of the layer as it is written.
    pub after_other: f64,
    /// The error of each step's sequences, before its update.
    pub losses: Vec<f64>,
}

/// A layer that learns layers of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    /// Its place in the new stack.
    pub(super) place: usize,
    /// The source's layer that it begins as.
    pub(super) layer: usize,
    /// The first layer that it stands for.
    pub(super) first: usize,
    /// One past the last.
    pub(super) end: usize,
}

/// The layers that `repair` trains for `plan`, from the bottom up.
///
/// # Errors
/// Request: a plan that does more than drop whole layers, a gap without that neighbor, weights in codes.
pub(super) fn replaced(repair: &Repair, plan: &Plan, spec: &ModelSpec, source: &Checkpoint) -> Result<Vec<Replaced>> {
    let refused = |why: &str| Err(Error::request(format!("--repair {}: {why}", repair.name)));
    let How::Trained(neighbor, _) = repair.how else { return refused("trains no layer") };
    let kept = plan.kept();
    if !plan.stack.iter().all(Place::is_copy) || !plan.only_drops_layers() {
        return refused(
            "a layer stands for whole layers: the plan must keep the others as they are, in order, each once",
        );
    }
    if kept.len() == spec.layers {
        return refused("the plan drops nothing: there is no gap to learn");
    }
    let (from_bottom, to_top) = (kept.first() == Some(&0), kept.last().map(|last| last + 1) == Some(spec.layers));
    match neighbor {
        Neighbor::Before if !from_bottom => {
            return refused(
                "the plan drops the first layers, and no layer before that gap could learn them; --repair \
                            xmerge trains the one behind",
            );
        }
        Neighbor::Behind if !to_top => {
            return refused(
                "the plan drops the last layers, and no layer behind that gap could learn them; --repair \
                            streamline trains the one before",
            );
        }
        _ => {}
    }
    let mut found = Vec::new();
    for (place, &layer) in kept.iter().enumerate() {
        let (first, end) = match neighbor {
            Neighbor::Before => (layer, kept.get(place + 1).copied().unwrap_or(spec.layers)),
            Neighbor::Behind => (place.checked_sub(1).map_or(0, |before| kept[before] + 1), layer + 1),
        };
        if end - first > 1 {
            found.push(Replaced { place, layer, first, end });
        }
    }
    for tensor in found.iter().flat_map(|own| spec.layer_tensors(own.layer)) {
        if source.four_bit_state(&tensor.name).is_some() {
            return refused(&format!(
                "tensor {} is stored in four bits; start from a checkpoint in f32, f16 or bf16",
                tensor.name
            ));
        }
    }
    Ok(found)
}

/// What `repair` takes, with a text of `tokens`.
pub(super) fn needs(found: &[Replaced], training: LayerTraining, spec: &ModelSpec, tokens: TextTokens) -> RepairNeeds {
    let device = Device::Cpu;
    let (d, all) = (spec.hidden_size, tokens.fitting + tokens.judging);
    let numbers = |layer| spec.layer_tensors(layer).into_iter().map(|own| own.shape.iter().product::<usize>());
    let layer = found.iter().map(|own| numbers(own.layer).sum::<usize>()).max().unwrap_or(0);
    let at_once = tokens_at_once(&device);
    let step = training.batch.saturating_mul(tokens.longest);
    let pass = step.min(at_once.max(tokens.longest));
    let cost = TrainingCost::most(spec, &device);
    let activations = pass as u64 * (cost.saved + cost.held + cost.mixing) + cost.chunk * pass.min(at_once) as u64;
    let Cost { pass_bytes, chunk_bytes, .. } = Cost::most(spec);
    let recording = (pass_bytes + chunk_bytes) * tokens.longest.max(512).min(all.max(1)) as u64;
    // the layer, its gradient, a pass's part of it and the sum, both moments; each trained layer is kept
    let weights = 4 * layer * (5 + found.len());
    let stream = 4 * (d + spec.rope.rotary_dim);
    let (products, mixing) = mean_flops(spec);
    let a_token = products + mixing * tokens.longest as f64 / 2.0;
    let highest = found.last().map_or(0, |own| own.end) as f64;
    // there, back twice as much, and what is lost before and after
    let trained = 3.0 * training.steps as f64 * step as f64 + 2.0 * all as f64;
    let judged = 3.0 * tokens.judging as f64 * (spec.layers as f64 * a_token + 2.0 * (d * spec.vocab_size) as f64);
    RepairNeeds {
        tokens: 1,
        bytes: (weights + stream * (all.min(WAVE) + 3 * tokens.judging) + 6 * 4 * d * pass) as u64
            + activations.max(recording),
        bytes_to_keep: (stream * all + 2 * 4 * d * all * found.len()) as u64,
        flops: highest * a_token * all as f64 + trained * a_token * found.len() as f64 + judged,
    }
}

/// Trains what `repair` trains.
///
/// # Errors
/// Request: as [`replaced`], no sequence of one of the two kinds. Work: weights that cannot be read, a stream that is
/// not finite, a training that diverges, a full disk. Interrupted.
pub(super) fn fit(
    repair: &Repair,
    training: LayerTraining,
    task: &RepairTask<'_>,
    progress: &dyn Progress,
) -> Result<Repaired> {
    let RepairTask { whole, cut, plan, sequences, judging, keeps, spill, .. } = *task;
    let found = replaced(repair, plan, whole.spec(), whole.checkpoint())?;
    let of = |wanted: bool| -> Vec<usize> {
        (0..sequences.len()).filter(|index| judging.get(*index).copied().unwrap_or(false) == wanted).collect()
    };
    let order = [of(false), of(true)].concat();
    let all: Vec<&[u32]> = order.iter().map(|index| &sequences[*index][..]).collect();
    let (fits, judges) = all.split_at(of(false).len());
    let of_judges = &order[fits.len()..];
    if fits.is_empty() || judges.is_empty() {
        return Err(Error::request("a repair needs two sequences at least: one that judges, one to fit"));
    }
    let streams = record(whole, &found, (&all, &order), (keeps, spill), progress)?;
    let mut fitted = Vec::new();
    let (mut blocks, mut changes) = (BTreeMap::new(), Vec::new());
    for (index, own) in found.iter().enumerate() {
        let fit = LayerFit { task, replaced: *own, training, streams: &streams, index, sequences: (fits, judges) };
        let trained = fit.run(repair.name, progress)?;
        changes.extend(trained.changes);
        blocks.insert(own.place, trained.block);
        fitted.push(trained.told);
    }
    drop(streams);
    progress.begin("judging", 3, Unit::Items);
    let none = BTreeMap::new();
    let judged = |model: &Model, blocks: &BTreeMap<usize, Block>| {
        let losses = losses(model, blocks, (judges, of_judges));
        progress.advance(1);
        losses
    };
    let (uncut, before, after) = (judged(whole, &none)?, judged(cut, &none)?, judged(cut, &blocks)?);
    progress.end();
    let losses = vec![(0.0, before), (1.0, after)];
    Ok(Repaired { changes, found: Found::Layers(fitted), whole: uncut, losses, step: 1.0 })
}

/// The streams of `sequences` that enter the first layer of each of `found` and leave the last, in the whole model: for
/// each of them two, one after the other.
fn record(
    whole: &Model,
    found: &[Replaced],
    (sequences, order): (&[&[u32]], &[usize]),
    (keeps, spill): (bool, Option<&std::path::Path>),
    progress: &dyn Progress,
) -> Result<Recorded> {
    let (device, d) = (whole.device(), whole.spec().hidden_size);
    let batches = whole.batches(sequences)?;
    let rows: Vec<usize> = batches
        .iter()
        .scan(0, |next, batch| {
            let first = *next;
            *next += batch.tokens();
            Some(first)
        })
        .collect();
    let all: usize = batches.iter().map(Batch::tokens).sum();
    let mut streams = Recorded::new((2 * found.len(), all, d), keeps, spill)?;
    let highest = found.last().map_or(0, |own| own.end);
    progress.begin("recording streams", (all * highest) as u64, Unit::Tokens);
    let (mut at, most) = (0, if keeps { usize::MAX } else { WAVE });
    while at < batches.len() {
        let mut end = at + 1;
        while end < batches.len() && rows[end] + batches[end].tokens() - rows[at] <= most {
            end += 1;
        }
        let wave = at..end;
        let mut xs = batches[wave.clone()].iter().map(|batch| whole.embed(batch)).collect::<Result<Vec<_>>>()?;
        let contexts = batches[wave.clone()].iter().map(|batch| ForwardContext::new(whole.spec(), batch, device));
        let contexts = contexts.collect::<Result<Vec<_>>>()?;
        for layer in 0..=highest {
            let block = if layer < highest { Some(whole.block(layer)?) } else { None };
            for (own, index) in wave.clone().enumerate() {
                interrupt::check()?;
                for (which, replaced) in found.iter().enumerate() {
                    for (end, wanted) in [replaced.first, replaced.end].into_iter().enumerate() {
                        if wanted == layer {
                            streams.put(2 * which + end, rows[index], &xs[own])?;
                        }
                    }
                }
                let Some(block) = &block else { continue };
                let x = block.forward(&xs[own], &contexts[own])?;
                whole.check_stream(layer + 1, &x, &|row| named(&batches, order, index, row))?;
                xs[own] = x;
                progress.advance(batches[index].tokens() as u64);
            }
        }
        at = end;
    }
    progress.end();
    Ok(streams)
}

/// Losses of `sequences` under `model` with `blocks` in the place of its own.
fn losses(
    model: &Model,
    blocks: &BTreeMap<usize, Block>,
    (sequences, order): (&[&[u32]], &[usize]),
) -> Result<Vec<Loss>> {
    let batches = model.batches(sequences)?;
    let mut xs = batches.iter().map(|batch| model.embed(batch)).collect::<Result<Vec<Tensor>>>()?;
    let contexts = batches.iter().map(|batch| ForwardContext::new(model.spec(), batch, model.device()));
    let contexts = contexts.collect::<Result<Vec<_>>>()?;
    for place in 0..model.layers() {
        let own = match blocks.get(&place) {
            Some(_) => None,
            None => Some(model.block(place)?),
        };
        let Some(block) = blocks.get(&place).or(own.as_deref()) else { continue };
        for (index, (x, context)) in xs.iter_mut().zip(&contexts).enumerate() {
            interrupt::check()?;
            *x = block.forward(x, context)?;
            model.check_stream(place + 1, x, &|row| named(&batches, order, index, row))?;
        }
    }
    let found = xs.iter().enumerate().map(|(index, x)| model.losses_of_stream(&batches, index, x));
    Ok(found.collect::<Result<Vec<_>>>()?.concat())
}
