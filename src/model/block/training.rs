//! A block's training pass: forward with dropout, some tokens at a time, keeping all that the way back needs or only
//! what entered; and its vector-Jacobian product, walked by hand.
//!
//! candle's own backward would build a graph of every small op, keep each intermediate, and fill and add a fresh buffer
//! for every gradient. Here what was kept is used up on the way, some tokens at a time; norms, rotations and
//! activations of MLPs are computed again.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;

use super::{Block, Residual};
use crate::Result;
use crate::arch::Role;
use crate::model::chunks::{Gathered, rows};
use crate::model::sublayers::{Input, Linear, Norm, TrainingPass};
use crate::model::training::{BackwardContext, TrainContext};
use crate::model::{Parameter, Part};
use crate::ops::{self, WeightMatrix};
use crate::weights::lora::Adapter;

/// What a block saves of its forward pass.
#[derive(Debug)]
pub(crate) struct SavedActivations<'a> {
    /// The residual stream that entered, `[t, d]`, as [`ops::save_activation`] gives it.
    x: Tensor,
    /// What else there is, unless it is to be computed again.
    saved: Option<(Passes<'a>, Streams)>,
}

/// What the loss says of a block that nothing of is trained.
#[derive(Debug)]
pub(crate) struct Sensitivity {
    /// The gradient of what entered, `[t, d]`.
    pub(crate) dx: Option<Tensor>,
    /// Those of the weights, where they were asked for.
    pub(crate) weights: Vec<Parameter>,
    /// Of each sub-layer the gradient of a factor before its update, token by token, `[sub-layers, t]`.
    pub(crate) gates: Vec<Vec<f64>>,
}

/// The pass of each sub-layer of each residual.
type Passes<'a> = Vec<Vec<Box<dyn TrainingPass + 'a>>>;

/// By the first token of a chunk: the stream `[t, d]` that enters each residual but the first.
type Streams = BTreeMap<usize, Vec<Tensor>>;

impl Block {
    /// [`Block::forward`] with dropout, `[t, d]`, and for [`Block::backward`] either all that it needs or, if not
    /// `all`, only what entered.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn forward_saving(
        &self,
        x: &Tensor,
        training: &TrainContext<'_>,
        all: bool,
    ) -> Result<(Tensor, SavedActivations<'_>)> {
        let mut passes = self.begin(x, training, all)?;
        let (mut y, mut streams) = (Gathered::new(training.tokens()), Streams::new());
        for chunk in training.chunks() {
            let mut left = self.climb(&mut passes, x, &chunk, training, self.residuals.len())?;
            let last = left.pop().map_or_else(|| rows(x, &chunk), Ok)?;
            let last = match &self.seam_map {
                Some(map) => map.forward(&last)?,
                None => last,
            };
            y.put(&chunk, last)?;
            if all {
                streams.insert(chunk.start, left);
            }
        }
        let x = ops::save_activation(x, training.policy.offload_activations && !all)?;
        Ok((y.all()?, SavedActivations { x, saved: all.then_some((passes, streams)) }))
    }

    /// A pass of each sub-layer; what of them looks at other tokens is done. `x` may be a saved activation.
    fn begin(&self, x: &Tensor, training: &TrainContext<'_>, save: bool) -> Result<Passes<'_>> {
        let sums = self.residuals.iter().map(|residual| &residual.sum);
        let mut passes: Passes<'_> = sums.map(|sum| sum.iter().map(|own| own.training_pass(save)).collect()).collect();
        if let (Some(residual), Some(passes)) = (self.residuals.first(), passes.first_mut()) {
            for (own, pass) in passes.iter_mut().enumerate() {
                pass.mix(&residual.input(x, 0, own), training)?;
            }
        }
        Ok(passes)
    }

    /// The rows `chunk` of the stream as they leave each residual below the residual `top`.
    fn climb(
        &self,
        passes: &mut Passes<'_>,
        x: &Tensor,
        chunk: &Range<usize>,
        training: &TrainContext<'_>,
        top: usize,
    ) -> Result<Vec<Tensor>> {
        let mut left = Vec::with_capacity(top);
        for (residual, passes) in self.residuals.iter().zip(passes).take(top) {
            let entered =
                left.last().map_or_else(|| ops::restore_activation(&rows(x, chunk)?), |x: &Tensor| Ok(x.clone()))?;
            let mut sum = entered.clone();
            for (own, pass) in passes.iter_mut().enumerate() {
                sum = residual.add(&sum, pass.update(&residual.input(&entered, chunk.start, own), chunk, training)?)?;
            }
            left.push(sum);
        }
        Ok(left)
    }

    /// From the gradient `dy` `[t, d]` of what left the block to the gradients of its parameters and, where `wanted`,
    /// of what entered it. Work below the lowest trained parameter is left out. What was saved is used up, and so is
    /// `dy`: what is returned may lie in its place.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn backward(
        &self,
        saved: SavedActivations<'_>,
        training: &TrainContext<'_>,
        dy: Tensor,
        wanted: bool,
    ) -> Result<(Option<Tensor>, Vec<Parameter>)> {
        let mut at = BackwardContext::new(training, self.unfrozen);
        let dx = self.go_back(saved, &mut at, dy, wanted)?;
        Ok((dx, at.gradients()))
    }

    /// From the gradient `dy` of what left the block that `x` entered, both `[t, d]`, to that of `x`, those of all
    /// weights where they are `wanted`, and of the `gates` where these are. The forward pass is done again.
    ///
    /// # Errors
    /// The device's.
    pub(crate) fn sensitivity(
        &self,
        x: &Tensor,
        training: &TrainContext<'_>,
        dy: Tensor,
        (wanted, gates): (bool, bool),
    ) -> Result<Sensitivity> {
        let mut at = BackwardContext::new(training, wanted);
        at.frozen = wanted;
        if gates {
            at.watch_gates(self.residuals.iter().map(|residual| residual.sum.len()).sum());
        }
        let saved = SavedActivations { x: x.clone(), saved: None };
        let dx = self.go_back(saved, &mut at, dy, true)?;
        let gates = at.take_gates();
        Ok(Sensitivity { dx, weights: at.gradients(), gates })
    }

    fn go_back(
        &self,
        saved: SavedActivations<'_>,
        at: &mut BackwardContext<'_>,
        dy: Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let (training, unfrozen) = (at.training, at.unfrozen);
        let SavedActivations { x, saved } = saved;
        let x = x.to_device(dy.device())?;
        let (mut passes, mut streams) = match saved {
            Some(saved) => saved,
            None => (self.begin(&x, training, true)?, Streams::new()),
        };
        // the gradient of the residual stream, from chunk to chunk that of one further down
        let dy = match &self.seam_map {
            Some(map) => map.backward(&dy)?,
            None => dy,
        };
        let mut stream = Gathered::over(dy)?;
        let top = self.residuals.len().saturating_sub(1);
        for chunk in training.chunks() {
            let mut entered = match streams.remove(&chunk.start) {
                Some(entered) => entered,
                None => self.climb(&mut passes, &x, &chunk, training, top)?,
            };
            for (index, (residual, passes)) in self.residuals.iter().zip(&mut passes).enumerate().rev() {
                let own = if index > 0 { entered.pop() } else { None };
                let (x, first) = own.as_ref().map_or((&x, 0), |own| (own, chunk.start));
                let below = wanted || self.residuals[..index].iter().any(|own| unfrozen || own.is_adapted());
                let first_own = self.residuals[..index].iter().map(|residual| residual.sum.len()).sum();
                residual.backward(at, passes, (x, first), (&chunk, &mut stream), (below || unfrozen, first_own))?;
                if !below {
                    break;
                }
            }
        }
        if let (Some(residual), Some(passes)) = (self.residuals.first(), passes.first_mut()) {
            for (own, pass) in passes.iter_mut().enumerate() {
                pass.backward_mixed(at, &residual.input(&x, 0, own), &mut stream, wanted || unfrozen)?;
            }
        }
        Ok(if wanted { stream.some() } else { None })
    }

    /// What is read from disk follows trained parameters from now on, which may begin now.
    ///
    /// # Errors
    /// Work: a weight that cannot be read, a row that is zero.
    pub(crate) fn follow(&self, begin: bool) -> Result<()> {
        self.residuals.iter().flat_map(|residual| &residual.sum).try_for_each(|own| own.follow(begin))
    }

    /// The block's linear layers that are in memory.
    pub(crate) fn linears(&self) -> impl Iterator<Item = (Role, &Linear)> {
        self.residuals.iter().flat_map(Residual::linears)
    }

    /// The parameters that are trained: the adapters', or everything. Changing them in place changes the block.
    #[must_use]
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        for (role, adapter) in self.residuals.iter().flat_map(Residual::adapters) {
            parameters.push((role, Part::A, adapter.a.clone()));
            parameters.push((role, Part::B, adapter.b.clone()));
            parameters.extend(adapter.magnitude.iter().map(|m| (role, Part::Magnitude, m.clone())));
        }
        for (role, linear) in self.linears() {
            if self.unfrozen {
                if let WeightMatrix::Dense(weight) = &linear.weight {
                    parameters.push((role, Part::Weight, weight.clone()));
                }
                parameters.extend(linear.bias.iter().map(|bias| (role, Part::Bias, bias.clone())));
            }
        }
        if self.unfrozen {
            let own = self.residuals.iter().flat_map(|residual| residual.norms.iter().chain(&residual.post_norm));
            let inner = self.residuals.iter().flat_map(|residual| residual.sum.iter().flat_map(|own| own.norms()));
            parameters.extend(own.chain(inner).flat_map(Norm::parameters));
            let others = self.residuals.iter().flat_map(|residual| residual.sum.iter().flat_map(|own| own.others()));
            parameters.extend(others.map(|(role, part, tensor)| (role, part, tensor.clone())));
        }
        parameters
    }
}

impl Residual {
    /// What enters the sub-layer `own` of the sum: rows of the stream, of which the first is the row `first` of the
    /// pass.
    fn input<'a>(&'a self, x: &'a Tensor, first: usize, own: usize) -> Input<'a> {
        Input { x, first, norm: self.norm(own) }
    }

    fn linears(&self) -> impl Iterator<Item = (Role, &Linear)> {
        self.sum.iter().flat_map(|own| own.linears())
    }

    fn adapters(&self) -> impl Iterator<Item = (Role, &Adapter)> {
        self.sum.iter().flat_map(|own| own.adapters())
    }

    fn is_adapted(&self) -> bool {
        self.adapters().next().is_some()
    }

    /// From the gradient of the rows `chunk` of the stream that leaves the residual to that of what enters it, as far
    /// as it does not go through other tokens; where it is not `wanted` only to those of the parameters. Its sub-layers
    /// are those of the block from `first_own` on.
    fn backward(
        &self,
        at: &mut BackwardContext<'_>,
        passes: &mut [Box<dyn TrainingPass + '_>],
        (x, first): (&Tensor, usize),
        (chunk, stream): (&Range<usize>, &mut Gathered),
        (wanted, first_own): (bool, usize),
    ) -> Result<()> {
        let dy = stream.rows(chunk)?;
        // of each norm
        let mut dnormed: Vec<(usize, Option<Tensor>)> = Vec::new();
        for (own, pass) in passes.iter_mut().enumerate() {
            let input = &self.input(x, first, own);
            let mut dupdate = self.scaled(dy.clone())?;
            if at.watches_gates() || self.post_norm.is_some() {
                let given = pass.update(input, chunk, at.training)?;
                if at.watches_gates() {
                    let update = self.post_norm.as_ref().map_or(Ok(given.clone()), |norm| norm.forward(&given))?;
                    at.note_gate(first_own + own, chunk, &self.scaled(update)?, &dy)?;
                }
                if let Some(norm) = &self.post_norm {
                    dupdate = norm.backward(at, &given, &dupdate)?;
                }
            }
            let through = pass.backward(at, input, chunk, &dupdate, wanted)?;
            match dnormed.last_mut().filter(|_| !self.has_norm_each()) {
                Some((_, sum)) => {
                    *sum = match (sum.take(), through) {
                        (Some(sum), Some(own)) => Some(ops::add(&sum, &own)?),
                        (sum, own) => sum.or(own),
                    }
                }
                None => dnormed.push((own, through)),
            }
        }
        drop(dy);
        for (own, dnormed) in dnormed {
            let Some(dnormed) = dnormed else { continue };
            let input = self.input(x, first, own);
            input.backward(at, chunk, &input.stream(chunk)?, &dnormed, stream)?;
        }
        Ok(())
    }
}
