//! Gradients of the loss of the whole model, layer by layer from the top: those of one layer are there at a time.
//!
//! The pass forward keeps what enters each layer, of all tokens; the pass back computes a layer again for each batch,
//! adds up the gradients of its weights over the batches, hands them on and forgets them. Memory is the inputs of the
//! layers and the gradients of one.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::loss::{Loss, tokens_of_a_batch};
use super::{Batch, CheckpointingPolicy, ForwardContext, Model, Part, TrainContext, TrainingCost};
use crate::arch::{ModelSpec, Role};
use crate::ops::{self, FiniteWatch};
use crate::progress::{Progress, Unit};
use crate::{Error, Result, interrupt};

/// Which gradients are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedGradients {
    /// Those of the weights.
    pub weights: bool,
    /// Of each sub-layer that of a factor before its update.
    pub gates: bool,
}

/// The gradients of one layer.
#[derive(Debug)]
pub struct LayerGradients {
    /// Its place in the stack.
    pub place: usize,
    /// Of the weights and biases, of the mean loss over all predicted tokens, f32, each as its tensor is shaped; the
    /// flag says whether it is a bias.
    pub weights: Vec<(Role, bool, Tensor)>,
    /// Of each sub-layer and each sequence: of the mean loss of the sequence, `[sub-layers][sequences]`; 0 for a
    /// sequence of one token.
    pub gates: Vec<Vec<f64>>,
}

/// A batch between the passes.
struct State {
    forward: ForwardContext,
    /// What entered each layer, `[t, d]`.
    inputs: Vec<Tensor>,
    /// The stream's gradient, on the way back.
    dx: Option<Tensor>,
}

impl Model {
    /// Bytes that [`Model::gradients`] takes beside the weights of the model and a pass, for `tokens` tokens in all,
    /// `longest` of them in the longest sequence.
    #[must_use]
    pub(crate) fn gradient_bytes(spec: &ModelSpec, device: &Device, (tokens, longest): (usize, usize)) -> u64 {
        let cost = TrainingCost::most(spec, device);
        let at_once = longest.max(tokens_of_a_batch(device)).min(tokens) as u64;
        let streams = 4 * spec.hidden_size as u64 * (spec.layers as u64 + 2) * tokens as u64;
        let rotations = 4 * spec.rope.rotary_dim as u64 * tokens as u64;
        let sizes = |l| spec.layer_tensors(l).into_iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64);
        let layer = (0..spec.layers).map(|l| 4 * sizes(l).sum::<u64>()).max().unwrap_or(0);
        let matrix = (0..spec.layers).flat_map(sizes).max().unwrap_or(0);
        let pass = at_once * (cost.saved + cost.held + cost.mixing) + cost.chunk * at_once;
        let head = ops::objective_bytes(at_once as usize, (spec.hidden_size, spec.vocab_size), false, device);
        // a chunk's part of a gradient and the sum with it; the numbers of a matrix on their way to a score
        streams + rotations + layer + 16 * matrix + pass.max(head + 12 * spec.hidden_size as u64 * at_once)
    }

    /// The losses of `sequences`, and the gradients of the mean over all predicted tokens, of which `see` is given one
    /// layer after the other, the last first.
    ///
    /// # Errors
    /// As [`Model::run`], and those of `see`; no sequence of two tokens.
    pub fn gradients(
        &self,
        sequences: &[Vec<u32>],
        wanted: WantedGradients,
        what: &str,
        progress: &dyn Progress,
        see: &mut dyn FnMut(LayerGradients) -> Result<()>,
    ) -> Result<Loss> {
        let batches = Batch::pack(sequences, tokens_of_a_batch(&self.device))?;
        let predicted: usize = sequences.iter().map(|sequence| sequence.len().saturating_sub(1)).sum();
        if predicted == 0 {
            return Err(Error::work("no sample has two tokens: there is nothing to predict"));
        }
        let tokens: usize = batches.iter().map(Batch::tokens).sum();
        // the way back costs twice the way there, and the way there again
        progress.begin(what, (4 * tokens * self.layers()) as u64, Unit::Tokens);
        let policy = CheckpointingPolicy::on(&self.device, 0);
        let mut states = self.climb_keeping(&batches, progress)?;
        let mut loss = Loss { sum: 0.0, tokens: predicted };
        for (batch, state) in batches.iter().zip(&mut states) {
            interrupt::check()?;
            let Some(x) = state.inputs.pop() else { return Err(Error::work("a model without layers")) };
            let found = self.head.train(&x, &batch.targets(), 1.0 / predicted as f64, None)?;
            loss.sum += found.cross_entropy;
            state.dx = Some(found.dx);
        }
        self.stack.walk_down(|place, block| {
            let mut sums: BTreeMap<(Role, Part), Tensor> = BTreeMap::new();
            let mut gates: Vec<Vec<f64>> = Vec::new();
            for (batch, state) in batches.iter().zip(&mut states) {
                interrupt::check()?;
                let training =
                    TrainContext { forward: &state.forward, place, dropout: None, policy, inputs: None, rows: None };
                let (Some(x), Some(dy)) = (state.inputs.pop(), state.dx.take()) else {
                    return Err(Error::work("a layer's input is gone before its turn"));
                };
                let asked = (wanted.weights, wanted.gates);
                let own = block.sensitivity(&x, &training, dy, asked)?;
                state.dx = own.dx;
                for (role, part, gradient) in own.weights {
                    let sum = match sums.remove(&(role, part)) {
                        Some(sum) => (sum + gradient)?,
                        None => gradient,
                    };
                    sums.insert((role, part), sum);
                }
                gates.resize(gates.len().max(own.gates.len()), Vec::new());
                for (gate, of_tokens) in gates.iter_mut().zip(&own.gates) {
                    gate.extend(by_sequence(batch, of_tokens, predicted));
                }
                progress.advance((3 * batch.tokens()) as u64);
            }
            let weights = sums
                .into_iter()
                .map(|((role, part), gradient)| Ok((role, part == Part::Bias, gradient.to_dtype(DType::F32)?)));
            see(LayerGradients { place, weights: weights.collect::<Result<_>>()?, gates })
        })?;
        progress.end();
        Ok(loss)
    }

    /// Every batch through all layers, with what enters each layer and leaves the last.
    fn climb_keeping(&self, batches: &[Batch], progress: &dyn Progress) -> Result<Vec<State>> {
        let name = |index: usize| move |token: usize| Batch::place(batches, index, token);
        let mut states = Vec::with_capacity(batches.len());
        let mut watches = Vec::with_capacity(batches.len());
        for (index, batch) in batches.iter().enumerate() {
            let mut watch = FiniteWatch::new(self.layers() + 1, &self.device)?;
            let x = self.embed(batch)?;
            self.look(&mut watch, 0, &x, &name(index))?;
            let forward = ForwardContext::new(&self.spec, batch, &self.device)?;
            states.push(State { forward, inputs: vec![x], dx: None });
            watches.push(watch);
        }
        self.stack.walk(|place, block| {
            for (index, (state, watch)) in states.iter_mut().zip(&mut watches).enumerate() {
                interrupt::check()?;
                let Some(x) = state.inputs.last() else { continue };
                let y = block.forward(x, &state.forward)?;
                self.look(watch, place + 1, &y, &name(index))?;
                state.inputs.push(y);
                progress.advance(batches[index].tokens() as u64);
            }
            Ok(())
        })?;
        Ok(states)
    }
}

/// Of each sequence of `batch`, from the gradients of the mean over `predicted` tokens to that of the sequence's own.
fn by_sequence<'a>(batch: &'a Batch, tokens: &'a [f64], predicted: usize) -> impl Iterator<Item = f64> + 'a {
    batch.layout.segments().iter().map(move |segment| match segment.len {
        0 | 1 => 0.0,
        len => {
            let sum: f64 = tokens[segment.start..segment.start + len].iter().sum();
            sum * predicted as f64 / (len - 1) as f64
        }
    })
}
