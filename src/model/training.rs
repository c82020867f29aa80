//! A block's training pass forward: with dropout, some tokens at a time, keeping all that its backward pass needs or only
//! what entered.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::block::{Attend, Expand};
use super::chunks::{Gathered, chunks, rows};
use super::{Block, Linear, Pass, tokens_at_once};
use crate::Result;
use crate::arch::Role;
use crate::ops::{self, Attended, Mask};

/// Dropout of a training pass: masks are a function of these numbers, the layer and the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Share of an adapter's inputs that is dropped.
    pub rate: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Which pass of the run it is; below 2^40.
    pub draw: u64,
}

/// What training passes spend memory on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spending {
    /// Layers, counted from the top, that keep what their backward pass needs; the others compute it again from what
    /// entered them.
    pub layers_kept: usize,
    /// Tokens that all but attention works on at a time. More of them change the order of sums, and so the last bits.
    pub tokens_at_once: usize,
    /// Whether what entered a layer waits in main memory, not on the GPU.
    pub inputs_on_host: bool,
}

impl Spending {
    /// As much at a time as `device` is fast with, inputs where the model is, `layers_kept` layers kept.
    #[must_use]
    pub fn on(device: &Device, layers_kept: usize) -> Self {
        Self { layers_kept, tokens_at_once: tokens_at_once(device), inputs_on_host: false }
    }
}

/// What a training pass needs to know besides the batch.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// The batch, prepared.
    pub pass: &'a Pass,
    /// Place of the block in the stack.
    pub place: usize,
    /// Dropout, if any.
    pub noise: Option<Noise>,
    /// What memory is spent on.
    pub spending: Spending,
}

impl Training<'_> {
    /// Tokens of the pass, t.
    pub(super) fn tokens(&self) -> usize {
        self.pass.layout.tokens()
    }

    /// Tokens to work on at a time.
    pub(super) fn chunks(&self) -> impl Iterator<Item = Range<usize>> {
        chunks(self.tokens(), self.spending.tokens_at_once)
    }

    /// The mask of a module's inputs from row `row` on.
    pub(super) fn mask(&self, role: Role, row: usize) -> Option<Mask> {
        let noise = self.noise.filter(|noise| noise.rate > 0.0)?;
        let stream = noise.draw << 24 | (self.place as u64) << 8 | role as u64;
        Some(Mask { rate: noise.rate, seed: noise.seed, stream, row })
    }
}

/// x·Aᵀ·scale of adapters, `[t, r]`.
pub(super) type Low = BTreeMap<Role, Tensor>;

/// What a block keeps of its forward pass.
#[derive(Debug)]
pub struct Kept {
    /// The residual stream that entered, `[t, d]`, remembered.
    pub(super) x: Tensor,
    /// What else there is, unless it is to be computed again; of the MLP a part for each chunk.
    pub(super) attention: Option<KeptAttention>,
    pub(super) mlp: Vec<KeptMlp>,
}

#[derive(Debug)]
pub(super) struct KeptAttention {
    /// Projections, before norms of heads and rotation.
    pub(super) q: Tensor,
    pub(super) k: Tensor,
    pub(super) v: Tensor,
    pub(super) attended: Attended,
    /// Of the projections' adapters, chunk by chunk.
    pub(super) low: Vec<Low>,
}

/// From a chunk of attention's output to the MLP.
#[derive(Debug)]
pub(super) struct KeptMlp {
    /// The residual stream between attention and MLP, `[t, d]`.
    pub(super) middle: Tensor,
    pub(super) gate: Tensor,
    pub(super) up: Tensor,
    pub(super) low: Low,
}

impl Linear {
    /// [`Linear::forward`] with dropout on the rows from `row` on; also the adapter's x·Aᵀ·scale.
    fn forward_kept(
        &self,
        x: &Tensor,
        training: &Training<'_>,
        (role, row): (Role, usize),
        low: &mut Low,
    ) -> Result<Tensor> {
        let y = match &self.adapter {
            None => self.weight.linear(x)?,
            Some(adapter) => {
                let u = match training.mask(role, row) {
                    Some(mask) => adapter.reduce(&ops::dropout(x, mask)?)?,
                    None => adapter.reduce(x)?,
                };
                let y = self.weight.linear_plus(x, &u, &adapter.b)?;
                low.insert(role, u);
                y
            }
        };
        Ok(match &self.bias {
            Some(bias) => ops::add(&y, bias)?,
            None => y,
        })
    }
}

impl Block {
    /// [`Block::forward`] with dropout, `[t, d]`, and for [`Block::backward`] either all that it needs or, if not `all`,
    /// only what entered.
    ///
    /// # Errors
    /// The device's.
    pub fn forward_kept(&self, x: &Tensor, training: &Training<'_>, all: bool) -> Result<(Tensor, Kept)> {
        let attention = self.attention_kept(x, training)?;
        let attended = attention.attended.out.clone();
        // what is not kept makes room for the MLP
        let attention = all.then_some(attention);
        let (mut y, mut mlp) = (Gathered::new(training.tokens()), Vec::new());
        for chunk in training.chunks() {
            let mut own = self.mlp_kept(x, &attended, &chunk, training)?;
            let active = ops::swiglu(&own.gate, &own.up)?;
            let down = self.down.forward_kept(&active, training, (Role::Down, chunk.start), &mut own.low)?;
            drop(active);
            y.put(&chunk, ops::add(&own.middle, &down)?)?;
            if all {
                mlp.push(own);
            }
        }
        let x = ops::remember(x, training.spending.inputs_on_host && !all)?;
        Ok((y.all()?, Kept { x, attention, mlp }))
    }

    /// Up to attention's output; `x` may be something remembered.
    pub(super) fn attention_kept(&self, x: &Tensor, training: &Training<'_>) -> Result<KeptAttention> {
        let [mut q, mut k, mut v] = std::array::from_fn(|_| Gathered::new(training.tokens()));
        let mut low = Vec::new();
        for chunk in training.chunks() {
            let mut own = Low::new();
            let normed = ops::rms_norm(&ops::recall(&rows(x, &chunk)?)?, &self.input_norm, self.eps)?;
            let mut linear =
                |linear: &Linear, role| linear.forward_kept(&normed, training, (role, chunk.start), &mut own);
            let parts = match &self.attend {
                Attend::Split { q, k, v } => (linear(q, Role::Q)?, linear(k, Role::K)?, linear(v, Role::V)?),
                Attend::Fused(qkv) => self.split_heads(&linear(qkv, Role::Qkv)?)?,
            };
            q.put(&chunk, parts.0)?;
            k.put(&chunk, parts.1)?;
            v.put(&chunk, parts.2)?;
            low.push(own);
        }
        let (q, k, v) = (q.all()?, k.all()?, v.all()?);
        let (turned_q, turned_k) = self.turn(&q, &k, training.pass)?;
        let attended = ops::attention_kept(&turned_q, &turned_k, &v, &training.pass.layout, &self.heads)?;
        Ok(KeptAttention { q, k, v, attended, low })
    }

    /// From the rows `chunk` of attention's output to gate and up: the backward pass has no use for what down gives.
    pub(super) fn mlp_kept(
        &self,
        x: &Tensor,
        attended: &Tensor,
        chunk: &Range<usize>,
        training: &Training<'_>,
    ) -> Result<KeptMlp> {
        let mut low = Low::new();
        let mut linear =
            |linear: &Linear, x: &Tensor, role| linear.forward_kept(x, training, (role, chunk.start), &mut low);
        let middle = ops::add(&ops::recall(&rows(x, chunk)?)?, &linear(&self.o, &rows(attended, chunk)?, Role::O)?)?;
        let normed = ops::rms_norm(&middle, &self.post_norm, self.eps)?;
        let (gate, up) = match &self.expand {
            Expand::Split { gate, up } => (linear(gate, &normed, Role::Gate)?, linear(up, &normed, Role::Up)?),
            Expand::Fused(gate_up) => self.split_mlp(&linear(gate_up, &normed, Role::GateUp)?)?,
        };
        Ok(KeptMlp { middle, gate, up, low })
    }
}
