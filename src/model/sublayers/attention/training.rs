//! Attention's training pass: projections some tokens at a time, attention over all of them, and the same back.

use std::ops::Range;

use candle_core::Tensor;

use super::{Attention, QkvProj};
use crate::arch::{QkNorm, Role};
use crate::model::Part;
use crate::model::chunks::{Gathered, rows};
use crate::model::sublayers::linear::LoraHidden;
use crate::model::sublayers::output_pass::OutputPass;
use crate::model::sublayers::{Input, Linear, Norm, TrainingPass, sum};
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, Attended};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct AttentionPass<'a> {
    attention: &'a Attention,
    output: OutputPass<'a>,
    saved: Option<Saved>,
}

#[derive(Debug)]
struct Saved {
    /// Projections, before norms of heads and rotation.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    /// Of the projections' adapters, chunk by chunk.
    hidden: Vec<LoraHidden>,
}

impl<'a> AttentionPass<'a> {
    pub(super) fn new(attention: &'a Attention, save: bool) -> Self {
        Self { attention, output: OutputPass::new(&attention.o, save), saved: None }
    }
}

impl TrainingPass for AttentionPass<'_> {
    fn mix(&mut self, input: &Input<'_>, training: &TrainContext<'_>) -> Result<()> {
        let attention = self.attention;
        let [mut q, mut k, mut v] = std::array::from_fn(|_| Gathered::new(training.tokens()));
        let mut hidden = Vec::new();
        for chunk in training.chunks() {
            let mut own = LoraHidden::new();
            let normed = input.normed(&chunk)?;
            let mut linear =
                |linear: &Linear, role| linear.forward_saving(&normed, training, (role, chunk.start), &mut own);
            let parts = match &attention.qkv {
                QkvProj::Split { q, k, v } => (linear(q, Role::Q)?, linear(k, Role::K)?, linear(v, Role::V)?),
                QkvProj::Fused(qkv) => attention.split(&linear(qkv, Role::Qkv)?)?,
            };
            q.put(&chunk, parts.0)?;
            k.put(&chunk, parts.1)?;
            v.put(&chunk, parts.2)?;
            hidden.push(own);
        }
        let (q, k, v) = (q.all()?, k.all()?, v.all()?);
        let (rotated_q, rotated_k) = attention.norm_and_rotate(&q, &k, training.forward)?;
        let attended = ops::attention_kept(&rotated_q, &rotated_k, &v, &training.forward.layout, &*attention.heads()?)?;
        self.output.take(attended.out.clone());
        // what is not saved makes room for the MLP
        self.saved = self.output.save.then_some(Saved { q, k, v, attended, hidden });
        Ok(())
    }

    fn update(&mut self, _input: &Input<'_>, chunk: &Range<usize>, training: &TrainContext<'_>) -> Result<Tensor> {
        self.output.update(chunk, training)
    }

    fn backward(
        &mut self,
        at: &mut BackwardContext<'_>,
        _input: &Input<'_>,
        chunk: &Range<usize>,
        dy: &Tensor,
        wanted: bool,
    ) -> Result<Option<Tensor>> {
        let further = wanted || self.attention.trains_qkv();
        self.output.backward(at, chunk, dy, further)?;
        Ok(None)
    }

    fn backward_mixed(
        &mut self,
        at: &mut BackwardContext<'_>,
        input: &Input<'_>,
        stream: &mut Gathered,
        wanted: bool,
    ) -> Result<()> {
        let (attention, training) = (self.attention, at.training);
        let Some(dout) = self.output.gradient() else { return Ok(()) };
        let Some(Saved { q, k, v, attended, hidden }) = self.saved.take() else {
            return Err(Error::work("attention has saved nothing for its way back"));
        };
        let (rotated_q, rotated_k) = attention.norm_and_rotate(&q, &k, training.forward)?;
        // only norms of heads ask for what was there before them
        let unnormed = attention.head_norms.is_some().then_some((q, k));
        let (dq, dk, dv) = ops::attention_backward((&rotated_q, &rotated_k, &v), &attended, &dout)?;
        if at.unfrozen && attention.sinks.is_some() {
            at.note(Role::Sinks, Part::Weight, ops::sinks_backward(&attended, &dout)?)?;
        }
        drop((rotated_q, rotated_k, v, attended, dout));
        for (chunk, hidden) in training.chunks().zip(&hidden) {
            let row = chunk.start;
            let (q, k) = match &unnormed {
                Some((q, k)) => (Some(rows(q, &chunk)?), Some(rows(k, &chunk)?)),
                None => (None, None),
            };
            let norms = attention.head_norms.as_ref();
            let dq = attention.back_to_projection(at, norms.map(|(q, _)| q).zip(q), rows(&dq, &chunk)?, &chunk)?;
            let dk = attention.back_to_projection(at, norms.map(|(_, k)| k).zip(k), rows(&dk, &chunk)?, &chunk)?;
            let dv = rows(&dv, &chunk)?;
            let x = input.stream(&chunk)?;
            let normed = input.through_norm(x.clone())?;
            let dnormed = match &attention.qkv {
                QkvProj::Split { q, k, v } => {
                    let dq = q.backward(at, (Role::Q, row), hidden, normed.clone(), &dq, wanted)?;
                    let dk = k.backward(at, (Role::K, row), hidden, normed.clone(), &dk, wanted)?;
                    sum(sum(dq, dk)?, v.backward(at, (Role::V, row), hidden, normed, &dv, wanted)?)?
                }
                QkvProj::Fused(qkv) => {
                    let all = attention.join(dq, dk, dv)?;
                    qkv.backward(at, (Role::Qkv, row), hidden, normed, &all, wanted)?
                }
            };
            if let Some(dnormed) = dnormed {
                input.backward(at, &chunk, &x, &dnormed, stream)?;
            }
        }
        Ok(())
    }
}

impl Attention {
    /// From the gradient of the rows `chunk` of rotated and normed heads to that of the projection, which comes with
    /// the norm where there is one.
    fn back_to_projection(
        &self,
        at: &mut BackwardContext<'_>,
        normed: Option<(&Norm, Tensor)>,
        dy: Tensor,
        chunk: &Range<usize>,
    ) -> Result<Tensor> {
        let forward = at.training.forward;
        let turn = |x: Tensor, back| match &self.rotation {
            Some(rotation) => rotation.turn(&x, forward, Some(chunk), back),
            None => Ok(x),
        };
        match normed {
            None => turn(dy, true),
            Some((norm, x)) if self.qk_norm == QkNorm::RotatedHeads => {
                turn(self.unnorm_heads(at, norm, &turn(x, false)?, &dy)?, true)
            }
            Some((norm, x)) => self.unnorm_heads(at, norm, &x, &turn(dy, true)?),
        }
    }

    /// From the gradient of normed heads to that of the heads `x`.
    fn unnorm_heads(&self, at: &mut BackwardContext<'_>, norm: &Norm, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let ((t, width), head_dim) = (x.dims2()?, self.heads.head_dim);
        if self.qk_norm == QkNorm::Together {
            return norm.backward(at, x, dy);
        }
        let heads = |x: &Tensor| x.reshape((t * width / head_dim, head_dim));
        Ok(norm.backward(at, &heads(x)?, &heads(dy)?)?.reshape((t, width))?)
    }
}
