//! Vector-Jacobian products by themselves, for a backward pass that is walked by hand.
#![allow(missing_docs)]

use std::sync::Arc;

use candle_core::{Tensor, Var};

use super::{Heads, Layout, attention, rms_norm, rope, swiglu};
use crate::{Error, Result};

fn vjp<const N: usize>(
    inputs: [&Tensor; N],
    f: impl Fn(&[Var; N]) -> Result<Tensor>,
    dy: &Tensor,
) -> Result<[Tensor; N]> {
    let vars: Vec<Var> = inputs.iter().map(|input| Var::from_tensor(input)).collect::<candle_core::Result<_>>()?;
    let vars: [Var; N] = vars.try_into().map_err(|_| Error::work("vjp"))?;
    let mut grads = (f(&vars)? * dy)?.sum_all()?.backward()?;
    let grads: Vec<Tensor> = vars
        .iter()
        .map(|var| grads.remove(var).ok_or_else(|| Error::work("no gradient")))
        .collect::<Result<_>>()?;
    grads.try_into().map_err(|_| Error::work("vjp"))
}

pub fn rms_norm_backward(x: &Tensor, weight: &Tensor, eps: f64, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let [dx, dw] = vjp([x, weight], |[x, weight]| rms_norm(x, weight, eps), dy)?;
    Ok((dx, dw))
}

pub fn swiglu_backward(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let [dgate, dup] = vjp([gate, up], |[gate, up]| swiglu(gate, up), dy)?;
    Ok((dgate, dup))
}

pub fn rope_backward(dy: &Tensor, cos: &Tensor, sin: &Tensor, head_dim: usize) -> Result<Tensor> {
    rope(dy, cos, &sin.neg()?, head_dim)
}

/// What attention keeps for its gradients.
#[derive(Debug)]
pub struct Attended {
    pub out: Tensor,
}

pub fn attention_kept(q: &Tensor, k: &Tensor, v: &Tensor, layout: &Arc<Layout>, heads: &Heads) -> Result<Attended> {
    Ok(Attended { out: attention(q, k, v, layout, heads)? })
}

pub fn attention_backward(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    _attended: &Attended,
    layout: &Arc<Layout>,
    heads: &Heads,
    dy: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let [dq, dk, dv] = vjp([q, k, v], |[q, k, v]| attention(q, k, v, layout, heads), dy)?;
    Ok((dq, dk, dv))
}
