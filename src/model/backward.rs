//! A block's training pass: forward, keeping what the gradients need, and the vector-Jacobian product, walked by hand.
//!
//! candle's own backward would build a graph of every small op, keep each intermediate, and fill and add a fresh buffer
//! for every gradient. Here a block keeps nine tensors; norms, rotations and the MLP's activation are computed again.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::block::{Attend, Expand};
use super::{Block, Linear, Parameter, Part, Pass};
use crate::arch::Role;
use crate::ops::{self, Attended, Heads, Mask};
use crate::{Error, Result};

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

/// What a training pass needs to know besides the batch.
#[derive(Clone, Copy, Debug)]
pub struct Training<'a> {
    /// The batch, prepared.
    pub pass: &'a Pass,
    /// Place of the block in the stack.
    pub place: usize,
    /// Dropout, if any.
    pub noise: Option<Noise>,
}

impl Training<'_> {
    fn mask(&self, role: Role) -> Option<Mask> {
        let noise = self.noise.filter(|noise| noise.rate > 0.0)?;
        let stream = noise.draw << 24 | (self.place as u64) << 8 | role as u64;
        Some(Mask { rate: noise.rate, seed: noise.seed, stream })
    }
}

/// What a block keeps of its forward pass.
#[derive(Debug)]
pub struct Kept {
    /// The residual stream that entered, `[t, d]`.
    x: Tensor,
    /// Projections, before norms of heads and rotation.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    /// The residual stream between attention and MLP, `[t, d]`.
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
    /// x·Aᵀ·scale of each adapter, `[t, r]`.
    low: BTreeMap<Role, Tensor>,
}

/// Bytes that [`Kept`] takes for a token.
#[must_use]
pub fn kept_bytes_per_token(spec: &crate::arch::ModelSpec) -> u64 {
    let attention = 2 * spec.heads * spec.head_dim + 2 * spec.kv_heads * spec.head_dim + spec.heads;
    4 * (2 * spec.hidden_size + attention + 2 * spec.mlp_size) as u64
}

impl Linear {
    /// [`Linear::forward`] with dropout; also the adapter's x·Aᵀ·scale.
    fn forward_kept(
        &self,
        x: &Tensor,
        training: &Training<'_>,
        role: Role,
        low: &mut BTreeMap<Role, Tensor>,
    ) -> Result<Tensor> {
        let y = match &self.adapter {
            None => self.weight.linear(x)?,
            Some(adapter) => {
                let u = match training.mask(role) {
                    Some(mask) => adapter.reduce(&ops::dropout(x, mask)?)?,
                    None => adapter.reduce(x)?,
                };
                let y = self.weight.linear_plus(x, &u, &adapter.b)?;
                low.insert(role, u);
                y
            }
        };
        let y = match &self.bias {
            Some(bias) => ops::add(&y, bias)?,
            None => y,
        };
        Ok(y)
    }

    /// Gradients of the layer's own parameters, and of `x` where it is wanted. `x` is asked for only if something is
    /// trained here.
    fn backward(
        &self,
        at: &mut Backward<'_>,
        role: Role,
        x: &Tensor,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let dx = match &self.adapter {
            None if wanted => Some(self.weight.linear_backward(dy, None)?),
            None => None,
            Some(adapter) => {
                let u = at.kept.low.get(&role).ok_or_else(|| Error::work("a forward pass without its adapter"))?;
                at.gradients.push((role, Part::B, ops::outer(dy, u)?));
                let du = (ops::low_rank_up(dy, &adapter.b)? * adapter.scale)?;
                let mask = at.training.mask(role);
                let dropped = mask.map(|mask| ops::dropout(x, mask)).transpose()?;
                at.gradients.push((role, Part::A, ops::outer(&du, dropped.as_ref().unwrap_or(x))?));
                match mask {
                    _ if !wanted => None,
                    None => Some(self.weight.linear_backward(dy, Some((&du, &adapter.a)))?),
                    Some(mask) => {
                        let own = ops::dropout(&ops::low_rank_up(&du, &adapter.a)?, mask)?;
                        Some(ops::add(&self.weight.linear_backward(dy, None)?, &own)?)
                    }
                }
            }
        };
        if at.whole {
            at.gradients.push((role, Part::Weight, ops::outer(dy, x)?));
            if self.bias.is_some() {
                at.gradients.push((role, Part::Bias, ops::sum_rows(dy)?));
            }
        }
        Ok(dx)
    }
}

/// A backward pass on its way through a block.
struct Backward<'a> {
    training: &'a Training<'a>,
    kept: &'a Kept,
    whole: bool,
    gradients: Vec<Parameter>,
}

impl Block {
    /// [`Block::forward`] with dropout, keeping what [`Block::backward`] needs.
    ///
    /// # Errors
    /// The device's.
    pub fn forward_kept(&self, x: &Tensor, training: &Training<'_>) -> Result<(Tensor, Kept)> {
        let mut low = BTreeMap::new();
        let normed = ops::rms_norm(x, &self.input_norm, self.eps)?;
        let mut linear = |linear: &Linear, x: &Tensor, role| linear.forward_kept(x, training, role, &mut low);
        let (q, k, v) = match &self.attend {
            Attend::Split { q, k, v } => {
                (linear(q, &normed, Role::Q)?, linear(k, &normed, Role::K)?, linear(v, &normed, Role::V)?)
            }
            Attend::Fused(qkv) => self.split_heads(&linear(qkv, &normed, Role::Qkv)?)?,
        };
        drop(normed);
        let (turned_q, turned_k) = self.turn(&q, &k, training.pass)?;
        let attended = ops::attention_kept(&turned_q, &turned_k, &v, &training.pass.layout, &self.heads)?;
        let middle = ops::add(x, &linear(&self.o, &attended.out, Role::O)?)?;
        let normed = ops::rms_norm(&middle, &self.post_norm, self.eps)?;
        let (gate, up) = match &self.expand {
            Expand::Split { gate, up } => (linear(gate, &normed, Role::Gate)?, linear(up, &normed, Role::Up)?),
            Expand::Fused(gate_up) => self.split_mlp(&linear(gate_up, &normed, Role::GateUp)?)?,
        };
        drop(normed);
        let y = ops::add(&middle, &linear(&self.down, &ops::swiglu(&gate, &up)?, Role::Down)?)?;
        Ok((y, Kept { x: x.clone(), q, k, v, attended, middle, gate, up, low }))
    }

    /// From the gradient `dy` of what left the block to the gradients of its parameters and, where `wanted`, of what
    /// entered it. Work below the lowest trained parameter is left out.
    ///
    /// # Errors
    /// The device's.
    pub fn backward(
        &self,
        kept: &Kept,
        training: &Training<'_>,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<(Option<Tensor>, Vec<Parameter>)> {
        let mut at = Backward { training, kept, whole: self.whole, gradients: Vec::new() };
        let below = wanted || self.trains_attention();
        let dmiddle = self.mlp_backward(&mut at, dy, below)?;
        let dx = match dmiddle {
            Some(dmiddle) => self.attention_backward(&mut at, &dmiddle, wanted)?,
            None => None,
        };
        Ok((dx, at.gradients))
    }

    fn mlp_backward(&self, at: &mut Backward<'_>, dy: &Tensor, wanted: bool) -> Result<Option<Tensor>> {
        let Kept { middle, gate, up, .. } = at.kept;
        let expands = self.trains_expansion();
        let active = ops::swiglu(gate, up)?;
        let dactive = self.down.backward(at, Role::Down, &active, dy, wanted || expands)?;
        drop(active);
        let Some(dactive) = dactive else { return Ok(None) };
        let (dgate, dup) = ops::swiglu_backward(gate, up, &dactive)?;
        drop(dactive);
        let normed = ops::rms_norm(middle, &self.post_norm, self.eps)?;
        let below = wanted || at.whole;
        let dnormed = match &self.expand {
            Expand::Split { gate, up } => sum(
                gate.backward(at, Role::Gate, &normed, &dgate, below)?,
                up.backward(at, Role::Up, &normed, &dup, below)?,
            )?,
            Expand::Fused(gate_up) => {
                let both = Tensor::cat(&[dgate, dup], 1)?;
                gate_up.backward(at, Role::GateUp, &normed, &both, below)?
            }
        };
        let Some(dnormed) = dnormed else { return Ok(None) };
        let dmiddle = at.norm(Role::PostNorm, middle, &self.post_norm, self.eps, &dnormed)?;
        Ok(Some(ops::add(dy, &dmiddle)?))
    }

    fn attention_backward(&self, at: &mut Backward<'_>, dmiddle: &Tensor, wanted: bool) -> Result<Option<Tensor>> {
        let Kept { x, q, k, v, attended, .. } = at.kept;
        let projects = self.trains_projections();
        let dattended = self.o.backward(at, Role::O, &attended.out, dmiddle, wanted || projects)?;
        let Some(dattended) = dattended else { return Ok(None) };
        let pass = at.training.pass;
        let (turned_q, turned_k) = self.turn(q, k, pass)?;
        let (dq, dk, dv) = ops::attention_backward((&turned_q, &turned_k, v), attended, &dattended)?;
        drop((turned_q, turned_k, dattended));
        let dq = self.turn_back(at, Role::QNorm, q, dq)?;
        let dk = self.turn_back(at, Role::KNorm, k, dk)?;
        let normed = ops::rms_norm(x, &self.input_norm, self.eps)?;
        let below = wanted || at.whole;
        let dnormed = match &self.attend {
            Attend::Split { q, k, v } => {
                let dq = q.backward(at, Role::Q, &normed, &dq, below)?;
                let dk = k.backward(at, Role::K, &normed, &dk, below)?;
                sum(sum(dq, dk)?, v.backward(at, Role::V, &normed, &dv, below)?)?
            }
            Attend::Fused(qkv) => {
                let all = Tensor::cat(&[dq, dk, dv], 1)?;
                qkv.backward(at, Role::Qkv, &normed, &all, below)?
            }
        };
        let Some(dnormed) = dnormed else { return Ok(None) };
        let dx = at.norm(Role::InputNorm, x, &self.input_norm, self.eps, &dnormed)?;
        Ok(Some(ops::add(dmiddle, &dx)?))
    }

    /// From the gradient of a rotated and normed projection to that of the projection.
    fn turn_back(&self, at: &mut Backward<'_>, role: Role, x: &Tensor, dy: Tensor) -> Result<Tensor> {
        let Heads { head_dim, .. } = self.heads;
        let pass = at.training.pass;
        let dy = if self.rotated { ops::rope_backward(&dy, &pass.cos, &pass.sin, head_dim)? } else { dy };
        let Some((q_norm, k_norm)) = &self.head_norms else { return Ok(dy) };
        let norm = if role == Role::QNorm { q_norm } else { k_norm };
        let (t, width) = x.dims2()?;
        let heads = |x: &Tensor| x.reshape((t * width / head_dim, head_dim));
        Ok(at.norm(role, &heads(x)?, norm, self.eps, &heads(&dy)?)?.reshape((t, width))?)
    }

    fn trains_attention(&self) -> bool {
        self.trains_projections() || trained(&self.o) || self.whole
    }

    fn trains_projections(&self) -> bool {
        self.whole
            || match &self.attend {
                Attend::Split { q, k, v } => [q, k, v].into_iter().any(trained),
                Attend::Fused(qkv) => trained(qkv),
            }
    }

    fn trains_expansion(&self) -> bool {
        self.whole
            || match &self.expand {
                Expand::Split { gate, up } => [gate, up].into_iter().any(trained),
                Expand::Fused(gate_up) => trained(gate_up),
            }
    }

    /// The block's linear layers.
    pub(super) fn linears(&self) -> Vec<(Role, &Linear)> {
        let attend = match &self.attend {
            Attend::Split { q, k, v } => vec![(Role::Q, q), (Role::K, k), (Role::V, v)],
            Attend::Fused(qkv) => vec![(Role::Qkv, qkv)],
        };
        let expand = match &self.expand {
            Expand::Split { gate, up } => vec![(Role::Gate, gate), (Role::Up, up)],
            Expand::Fused(gate_up) => vec![(Role::GateUp, gate_up)],
        };
        [attend, vec![(Role::O, &self.o)], expand, vec![(Role::Down, &self.down)]].concat()
    }

    /// The parameters that are trained: the adapters', or everything. Changing them in place changes the block.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        for (role, linear) in self.linears() {
            if let Some(adapter) = &linear.adapter {
                parameters.push((role, Part::A, adapter.a.clone()));
                parameters.push((role, Part::B, adapter.b.clone()));
            }
            if self.whole {
                if let ops::WeightMatrix::Dense(weight) = &linear.weight {
                    parameters.push((role, Part::Weight, weight.clone()));
                }
                parameters.extend(linear.bias.iter().map(|bias| (role, Part::Bias, bias.clone())));
            }
        }
        if self.whole {
            parameters.push((Role::InputNorm, Part::Weight, self.input_norm.clone()));
            parameters.push((Role::PostNorm, Part::Weight, self.post_norm.clone()));
            if let Some((q, k)) = &self.head_norms {
                parameters.push((Role::QNorm, Part::Weight, q.clone()));
                parameters.push((Role::KNorm, Part::Weight, k.clone()));
            }
        }
        parameters
    }
}

impl Backward<'_> {
    /// Gradient of a norm's input; its weight's is noted when the whole block is trained.
    fn norm(&mut self, role: Role, x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
        let (dx, dweight) = ops::rms_norm_backward(x, weight, eps, dy, self.whole)?;
        self.gradients.extend(dweight.map(|dweight| (role, Part::Weight, dweight)));
        Ok(dx)
    }
}

fn trained(linear: &Linear) -> bool {
    linear.adapter.is_some()
}

fn sum(a: Option<Tensor>, b: Option<Tensor>) -> Result<Option<Tensor>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some(ops::add(&a, &b)?)),
        _ => Ok(None),
    }
}
