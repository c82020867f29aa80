//! A block's vector-Jacobian product, walked by hand.
//!
//! candle's own backward would build a graph of every small op, keep each intermediate, and fill and add a fresh buffer
//! for every gradient. Here what was kept is used up on the way, some tokens at a time; norms, rotations and the MLP's
//! activation are computed again.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::Tensor;

use super::block::{Attend, Expand};
use super::chunks::{Gathered, rows};
use super::training::{Kept, KeptAttention, KeptMlp, Low, Training};
use super::{Block, Linear, Parameter, Part};
use crate::Result;
use crate::arch::Role;
use crate::ops::{self, Heads};

impl Linear {
    /// Gradients of the layer's own parameters, and of `x` where it is wanted, for the rows of the pass from `row` on.
    /// `x` is asked for only if something is trained here.
    fn backward(
        &self,
        at: &mut Backward<'_>,
        (role, low): (Role, &Low),
        x: Tensor,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        if at.whole {
            at.note(role, Part::Weight, ops::outer(dy, &x)?)?;
            if self.bias.is_some() {
                at.note(role, Part::Bias, ops::sum_rows(dy)?)?;
            }
        }
        let Some(adapter) = &self.adapter else {
            drop(x);
            return wanted.then(|| self.weight.linear_backward(dy, None)).transpose();
        };
        let mask = at.training.mask(role, at.row);
        let du = (ops::low_rank_up(dy, &adapter.b)? * adapter.scale)?;
        let dropped = match mask {
            Some(mask) => ops::dropout(&x, mask)?,
            None => x.clone(),
        };
        let reduced = match low.get(&role) {
            Some(u) => u.clone(),
            // a layer that is not computed again in full
            None => adapter.reduce(&dropped)?,
        };
        at.note(role, Part::B, ops::outer(dy, &reduced)?)?;
        at.note(role, Part::A, ops::outer(&du, &dropped)?)?;
        // the inputs are as wide as what comes now
        drop((x, dropped));
        Ok(match mask {
            _ if !wanted => None,
            None => Some(self.weight.linear_backward(dy, Some((&du, &adapter.a)))?),
            Some(mask) => {
                let own = ops::dropout(&ops::low_rank_up(&du, &adapter.a)?, mask)?;
                Some(self.weight.linear_backward_onto(dy, own)?)
            }
        })
    }
}

/// A backward pass on its way through a block.
struct Backward<'a> {
    training: &'a Training<'a>,
    whole: bool,
    /// The token that the chunk at work begins with.
    row: usize,
    gradients: BTreeMap<(Role, Part), Tensor>,
}

impl Block {
    /// From the gradient `dy` `[t, d]` of what left the block to the gradients of its parameters and, where `wanted`, of
    /// what entered it. Work below the lowest trained parameter is left out. What was kept is used up, and so is `dy`:
    /// what is returned may lie in its place.
    ///
    /// # Errors
    /// The device's.
    pub fn backward(
        &self,
        kept: Kept,
        training: &Training<'_>,
        dy: Tensor,
        wanted: bool,
    ) -> Result<(Option<Tensor>, Vec<Parameter>)> {
        let mut at = Backward { training, whole: self.whole, row: 0, gradients: BTreeMap::new() };
        let Kept { x, attention, mlp } = kept;
        let x = x.to_device(dy.device())?;
        let attention = match attention {
            Some(attention) => attention,
            None => self.attention_kept(&x, training)?,
        };
        // the gradient of the residual stream, from chunk to chunk that of one further down
        let mut stream = Gathered::over(dy)?;
        let mut dattended = Gathered::new(training.tokens());
        let mut mlp = mlp.into_iter();
        for chunk in training.chunks() {
            let own = match mlp.next() {
                Some(own) => own,
                None => self.mlp_kept(&x, &attention.attended.out, &chunk, training)?,
            };
            at.row = chunk.start;
            let below = wanted || self.trains_attention();
            let (dmiddle, low) = self.mlp_backward(&mut at, own, &stream.rows(&chunk)?, below)?;
            let Some(dmiddle) = dmiddle else { continue };
            let (projects, out) = (wanted || self.trains_projections(), rows(&attention.attended.out, &chunk)?);
            if let Some(part) = self.o.backward(&mut at, (Role::O, &low), out, &dmiddle, projects)? {
                dattended.put(&chunk, part)?;
            }
            stream.put(&chunk, dmiddle)?;
        }
        if let Some(dattended) = dattended.some() {
            self.attention_backward(&mut at, &x, attention, dattended, &mut stream, wanted)?;
        }
        let gradients = at.gradients.into_iter().map(|((role, part), gradient)| (role, part, gradient)).collect();
        Ok((if wanted { stream.some() } else { None }, gradients))
    }

    /// Of a chunk: the gradient of what came out of attention's half, where it is asked for.
    fn mlp_backward(
        &self,
        at: &mut Backward<'_>,
        kept: KeptMlp,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<(Option<Tensor>, Low)> {
        let KeptMlp { middle, gate, up, low } = kept;
        let active = ops::swiglu(&gate, &up)?;
        let dactive = self.down.backward(at, (Role::Down, &low), active, dy, wanted || self.trains_expansion())?;
        let Some(dactive) = dactive else { return Ok((None, low)) };
        let (dgate, dup) = ops::swiglu_backward(gate, up, &dactive)?;
        drop(dactive);
        let normed = ops::rms_norm(&middle, &self.post_norm, self.eps)?;
        let below = wanted || at.whole;
        let dnormed = match &self.expand {
            Expand::Split { gate, up } => {
                let of_gate = gate.backward(at, (Role::Gate, &low), normed.clone(), &dgate, below)?;
                drop(dgate);
                sum(of_gate, up.backward(at, (Role::Up, &low), normed, &dup, below)?)?
            }
            Expand::Fused(gate_up) => {
                let both = Tensor::cat(&[dgate, dup], 1)?;
                gate_up.backward(at, (Role::GateUp, &low), normed, &both, below)?
            }
        };
        let Some(dnormed) = dnormed else { return Ok((None, low)) };
        let dmiddle = at.norm(Role::PostNorm, &middle, &self.post_norm, self.eps, &dnormed)?;
        Ok((Some(ops::add(dy, &dmiddle)?), low))
    }

    /// Adds to the gradient of the residual stream what came through attention.
    fn attention_backward(
        &self,
        at: &mut Backward<'_>,
        x: &Tensor,
        kept: KeptAttention,
        dattended: Tensor,
        stream: &mut Gathered,
        wanted: bool,
    ) -> Result<()> {
        let KeptAttention { q, k, v, attended, low } = kept;
        let (turned_q, turned_k) = self.turn(&q, &k, at.training.pass)?;
        // only norms of heads ask for what was there before them
        let unnormed = self.head_norms.is_some().then_some((q, k));
        let (dq, dk, dv) = ops::attention_backward((&turned_q, &turned_k, &v), &attended, &dattended)?;
        drop((turned_q, turned_k, v, attended, dattended));
        let below = wanted || at.whole;
        for (chunk, low) in at.training.chunks().zip(&low) {
            at.row = chunk.start;
            let (q, k) = match &unnormed {
                Some((q, k)) => (Some(rows(q, &chunk)?), Some(rows(k, &chunk)?)),
                None => (None, None),
            };
            let dq = self.turn_back(at, Role::QNorm, q, rows(&dq, &chunk)?, &chunk)?;
            let dk = self.turn_back(at, Role::KNorm, k, rows(&dk, &chunk)?, &chunk)?;
            let dv = rows(&dv, &chunk)?;
            let x = ops::recall(&rows(x, &chunk)?)?;
            let normed = ops::rms_norm(&x, &self.input_norm, self.eps)?;
            let dnormed = match &self.attend {
                Attend::Split { q, k, v } => {
                    let dq = q.backward(at, (Role::Q, low), normed.clone(), &dq, below)?;
                    let dk = k.backward(at, (Role::K, low), normed.clone(), &dk, below)?;
                    sum(sum(dq, dk)?, v.backward(at, (Role::V, low), normed, &dv, below)?)?
                }
                Attend::Fused(qkv) => {
                    let all = Tensor::cat(&[dq, dk, dv], 1)?;
                    qkv.backward(at, (Role::Qkv, low), normed, &all, below)?
                }
            };
            let Some(dnormed) = dnormed else { continue };
            let dx = at.norm(Role::InputNorm, &x, &self.input_norm, self.eps, &dnormed)?;
            stream.put(&chunk, ops::add(&stream.rows(&chunk)?, &dx)?)?;
        }
        Ok(())
    }

    /// From the gradient of the rows `chunk` of a rotated and normed projection to that of the projection `x`, which
    /// norms of heads ask for.
    fn turn_back(
        &self,
        at: &mut Backward<'_>,
        role: Role,
        x: Option<Tensor>,
        dy: Tensor,
        chunk: &Range<usize>,
    ) -> Result<Tensor> {
        let Heads { head_dim, .. } = self.heads;
        let dy = if self.rotated {
            let (cos, sin) = (rows(&at.training.pass.cos, chunk)?, rows(&at.training.pass.sin, chunk)?);
            ops::rope_backward(&dy, &cos, &sin, head_dim)?
        } else {
            dy
        };
        let (Some((q_norm, k_norm)), Some(x)) = (&self.head_norms, x) else { return Ok(dy) };
        let norm = if role == Role::QNorm { q_norm } else { k_norm };
        let (t, width) = x.dims2()?;
        let heads = |x: &Tensor| x.reshape((t * width / head_dim, head_dim));
        Ok(at.norm(role, &heads(&x)?, norm, self.eps, &heads(&dy)?)?.reshape((t, width))?)
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
    /// Adds a chunk's part of a gradient.
    fn note(&mut self, role: Role, part: Part, gradient: Tensor) -> Result<()> {
        let sum = match self.gradients.remove(&(role, part)) {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        };
        self.gradients.insert((role, part), sum);
        Ok(())
    }

    /// Gradient of a norm's input; its weight's is noted when the whole block is trained.
    fn norm(&mut self, role: Role, x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
        let (dx, dweight) = ops::rms_norm_backward(x, weight, eps, dy, self.whole)?;
        if let Some(dweight) = dweight {
            self.note(role, Part::Weight, dweight)?;
        }
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
