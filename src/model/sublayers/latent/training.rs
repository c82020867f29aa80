//! Latent attention's training pass: projections some tokens at a time, attention over all of them, and the same back.

use std::ops::Range;

use candle_core::Tensor;

use super::{LatentAttention, Queries};
use crate::arch::Role;
use crate::model::chunks::{Gathered, rows};
use crate::model::sublayers::linear::LoraHidden;
use crate::model::sublayers::output_pass::OutputPass;
use crate::model::sublayers::{Input, TrainingPass, sum};
use crate::model::training::{BackwardContext, TrainContext};
use crate::ops::{self, Attended};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct LatentPass<'a> {
    attention: &'a LatentAttention,
    output: OutputPass<'a>,
    saved: Option<Saved>,
}

#[derive(Debug)]
struct Saved {
    /// As attention takes them.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// What the norms saw: the vectors that queries come from, where there are some, and keys and values.
    q_latent: Option<Tensor>,
    kv_latent: Tensor,
    attended: Attended,
    /// Of the projections' adapters, chunk by chunk.
    hidden: Vec<LoraHidden>,
}

/// The projections of a chunk.
struct Projected {
    q: Tensor,
    q_latent: Option<Tensor>,
    kv_latent: Tensor,
    shared: Tensor,
    up: Tensor,
    hidden: LoraHidden,
}

impl<'a> LatentPass<'a> {
    pub(super) fn new(attention: &'a LatentAttention, save: bool) -> Self {
        Self { attention, output: OutputPass::new(&attention.o, save), saved: None }
    }
}

impl LatentAttention {
    fn project(&self, normed: &Tensor, training: &TrainContext<'_>, row: usize) -> Result<Projected> {
        let mut hidden = LoraHidden::new();
        let (q, q_latent) = match &self.q {
            Queries::Stream(q) => (q.forward_saving(normed, training, (Role::Q, row), &mut hidden)?, None),
            Queries::Latent { down, norm, up } => {
                let latent = down.forward_saving(normed, training, (Role::QDown, row), &mut hidden)?;
                let seen = norm.forward(&latent)?;
                (up.forward_saving(&seen, training, (Role::QUp, row), &mut hidden)?, Some(latent))
            }
        };
        let down = self.kv_down.forward_saving(normed, training, (Role::KvDown, row), &mut hidden)?;
        let (kv_latent, shared) = self.split(&down)?;
        let seen = self.kv_norm.forward(&kv_latent)?;
        let up = self.kv_up.forward_saving(&seen, training, (Role::KvUp, row), &mut hidden)?;
        Ok(Projected { q, q_latent, kv_latent, shared, up, hidden })
    }
}

impl TrainingPass for LatentPass<'_> {
    fn mix(&mut self, input: &Input<'_>, training: &TrainContext<'_>) -> Result<()> {
        let attention = self.attention;
        let [mut q, mut q_latent, mut kv_latent, mut shared, mut up] =
            std::array::from_fn(|_| Gathered::new(training.tokens()));
        let mut hidden = Vec::new();
        for chunk in training.chunks() {
            let own = attention.project(&input.normed(&chunk)?, training, chunk.start)?;
            q.put(&chunk, own.q)?;
            if let Some(own) = own.q_latent {
                q_latent.put(&chunk, own)?;
            }
            kv_latent.put(&chunk, own.kv_latent)?;
            shared.put(&chunk, own.shared)?;
            up.put(&chunk, own.up)?;
            hidden.push(own.hidden);
        }
        let q = attention.queries(&q.all()?, training.forward)?;
        let (k, v) = attention.keys_and_values(&up.all()?, shared.all()?, training.forward)?;
        let attended = ops::attention_kept(&q, &k, &v, &training.forward.layout, &attention.heads)?;
        self.output.take(attention.values_of(&attended.out)?);
        // what is not saved makes room for the MLP
        self.saved = match self.output.save {
            true => {
                let (q_latent, kv_latent) = (q_latent.some(), kv_latent.all()?);
                Some(Saved { q, k, v, q_latent, kv_latent, attended, hidden })
            }
            false => None,
        };
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
        let further = wanted || self.attention.trains_q() || self.attention.trains_kv();
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
        let Some(Saved { q, k, v, q_latent, kv_latent, attended, hidden }) = self.saved.take() else {
            return Err(Error::work("attention has saved nothing for its way back"));
        };
        let dout = attention.values_backward(&dout)?;
        let (dq, dk, dv) = ops::attention_backward((&q, &k, &v), &attended, &dout)?;
        drop((q, k, v, attended, dout));
        for (chunk, hidden) in training.chunks().zip(&hidden) {
            let x = input.stream(&chunk)?;
            let normed = input.through_norm(x.clone())?;
            let back = Back { attention, hidden, normed: &normed, row: chunk.start, wanted };
            let dq = attention.queries_backward(rows(&dq, &chunk)?, training.forward, &chunk)?;
            let q_latent = q_latent.as_ref().map(|latent| rows(latent, &chunk)).transpose()?;
            let through_q = back.queries(at, q_latent, &dq)?;
            let own = (rows(&dk, &chunk)?, rows(&dv, &chunk)?);
            let (dup, dshared) = attention.keys_and_values_backward(own, training.forward, &chunk)?;
            let through_kv = back.keys_and_values(at, &rows(&kv_latent, &chunk)?, &dup, dshared)?;
            if let Some(dnormed) = sum(through_q, through_kv)? {
                input.backward(at, &chunk, &x, &dnormed, stream)?;
            }
        }
        Ok(())
    }
}

/// A chunk's way back through the projections.
struct Back<'a> {
    attention: &'a LatentAttention,
    hidden: &'a LoraHidden,
    normed: &'a Tensor,
    /// Its first row.
    row: usize,
    /// Whether the gradient of the normed stream is.
    wanted: bool,
}

impl Back<'_> {
    /// From the gradient of the projection of queries to that of the normed stream; `latent` is what the norm saw.
    fn queries(&self, at: &mut BackwardContext<'_>, latent: Option<Tensor>, dq: &Tensor) -> Result<Option<Tensor>> {
        let Self { hidden, row, wanted, .. } = *self;
        match (&self.attention.q, latent) {
            (Queries::Stream(q), _) => q.backward(at, (Role::Q, row), hidden, self.normed.clone(), dq, wanted),
            (Queries::Latent { .. }, None) => Err(Error::work("attention has saved nothing for its way back")),
            (Queries::Latent { down, norm, up }, Some(latent)) => {
                let further = wanted || at.unfrozen || down.adapter.is_some();
                let dseen = up.backward(at, (Role::QUp, row), hidden, norm.forward(&latent)?, dq, further)?;
                let Some(dseen) = dseen else { return Ok(None) };
                let dlatent = norm.backward(at, &latent, &dseen)?;
                down.backward(at, (Role::QDown, row), hidden, self.normed.clone(), &dlatent, wanted)
            }
        }
    }

    /// The same of what heads have of their own and of what they share.
    fn keys_and_values(
        &self,
        at: &mut BackwardContext<'_>,
        latent: &Tensor,
        dup: &Tensor,
        dshared: Tensor,
    ) -> Result<Option<Tensor>> {
        let Self { attention: LatentAttention { kv_down, kv_norm, kv_up, .. }, hidden, row, wanted, .. } = *self;
        let further = wanted || at.unfrozen || kv_down.adapter.is_some();
        let dseen = kv_up.backward(at, (Role::KvUp, row), hidden, kv_norm.forward(latent)?, dup, further)?;
        let Some(dseen) = dseen else { return Ok(None) };
        let dlatent = kv_norm.backward(at, latent, &dseen)?;
        let ddown = Tensor::cat(&[dlatent, dshared], 1)?;
        kv_down.backward(at, (Role::KvDown, row), hidden, self.normed.clone(), &ddown, wanted)
    }
}
