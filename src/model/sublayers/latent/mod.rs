//! Latent attention (DeepSeek-V2, arXiv 2405.04434): queries, and keys and values, come from a short normed vector
//! each, and all heads share the part of keys that is rotated.
//!
//! Heads are computed by the kernels of any other attention: what is rotated stands first in each head, and the
//! narrower of keys and values is filled up with zeros, which neither scores nor sums see. A cache holds these keys and
//! values of every head, not the vectors that they come from.

mod training;

use std::ops::Range;

use candle_core::{Device, Tensor};

use super::attention::Rotation;
use super::{Cost, Kind, Linear, Norm, SubLayer, TrainingCost, TrainingPass, cost};
use crate::arch::{Latent, ModelSpec, Role, SubLayerKind};
use crate::model::ForwardContext;
use crate::model::cache::LayerCache;
use crate::model::load_options::Loader;
use crate::ops::{self, Heads};
use crate::plan;
use crate::{Context, Error, Result};

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
struct LatentAttention {
    widths: Latent,
    heads: Heads,
    /// How queries are turned, if they are; keys have one head of the rotated numbers alone.
    rotation: Option<Rotation>,
    q: Queries,
    kv_down: Linear,
    kv_norm: Norm,
    kv_up: Linear,
    o: Linear,
}

/// Where queries come from.
#[derive(Debug)]
enum Queries {
    Stream(Linear),
    Latent { down: Linear, norm: Norm, up: Linear },
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let (spec, l) = (loader.spec, loader.layer);
    let widths = spec.latent.ok_or_else(|| Error::work("latent attention without widths"))?;
    let q = match widths.q_rank {
        None => Queries::Stream(loader.linear(Role::Q)?),
        Some(_) => Queries::Latent {
            down: loader.linear(Role::QDown)?,
            norm: loader.norm(Role::QDownNorm)?,
            up: loader.linear(Role::QUp)?,
        },
    };
    let heads = Heads {
        heads: spec.heads,
        kv_heads: spec.heads,
        head_dim: widths.head_dim(),
        scale: spec.multipliers.scores as f32,
        window: spec.windows[l],
        cap: spec.multipliers.score_cap.map(|cap| cap as f32),
        sinks: None,
    };
    let rotation = spec.rotated[l].then(|| Rotation {
        sliding: spec.sliding_rope.is_some() && spec.windows[l].is_some(),
        interleaved: spec.rope.interleaved,
        head_dim: widths.head_dim(),
    });
    let (kv_down, kv_norm) = (loader.linear(Role::KvDown)?, loader.norm(Role::KvDownNorm)?);
    let (kv_up, o) = (loader.linear(Role::KvUp)?, loader.linear(Role::O)?);
    Ok(Box::new(LatentAttention { widths, heads, rotation, q, kv_down, kv_norm, kv_up, o }))
}

impl LatentAttention {
    /// Turns heads of `head_dim` numbers of the rows `rows` of a pass, or all; `back` undoes it.
    fn turn(
        &self,
        x: Tensor,
        head_dim: usize,
        context: &ForwardContext,
        (rows, back): (Option<&Range<usize>>, bool),
    ) -> Result<Tensor> {
        match self.rotation {
            Some(rotation) => Rotation { head_dim, ..rotation }.turn(&x, context, rows, back),
            None => Ok(x),
        }
    }

    /// The parts of the last of three dimensions, one behind the other, filled up with zeros to the width of a head,
    /// as `[t, h·e]`.
    fn heads_of(&self, mut parts: Vec<Tensor>) -> Result<Tensor> {
        let Heads { heads, head_dim, .. } = self.heads;
        let t = parts.first().map_or(Ok(0), |part| part.dim(0))?;
        let width: usize = parts.iter().map(|part| part.dim(2)).sum::<candle_core::Result<_>>()?;
        if let (Some(part), true) = (parts.first(), width < head_dim) {
            parts.push(Tensor::zeros((t, heads, head_dim - width), part.dtype(), part.device())?);
        }
        Ok(joined(&parts)?.reshape((t, heads * head_dim))?)
    }

    /// From the projection `[t, h·(e - e' + e')]` to queries as attention takes them, `[t, h·e]`.
    fn queries(&self, q: &Tensor, context: &ForwardContext) -> Result<Tensor> {
        let Latent { unrotated, rotated, .. } = self.widths;
        let q = q.reshape((q.dim(0)?, self.heads.heads, unrotated + rotated))?;
        let parts = vec![q.narrow(2, unrotated, rotated)?, q.narrow(2, 0, unrotated)?];
        self.turn(self.heads_of(parts)?, self.heads.head_dim, context, (None, false))
    }

    /// The gradient of the projection from that of the rows `chunk` of its queries.
    fn queries_backward(&self, dq: Tensor, context: &ForwardContext, chunk: &Range<usize>) -> Result<Tensor> {
        let (Latent { unrotated, rotated, .. }, Heads { heads, head_dim, .. }) = (self.widths, &self.heads);
        let dq = self.turn(dq, *head_dim, context, (Some(chunk), true))?;
        let t = dq.dim(0)?;
        let dq = dq.reshape((t, *heads, *head_dim))?;
        let parts = [dq.narrow(2, rotated, unrotated)?, dq.narrow(2, 0, rotated)?];
        Ok(joined(&parts)?.reshape((t, heads * (unrotated + rotated)))?)
    }

    /// The vector that keys and values come from, `[t, r]`, and the rotated part of keys, `[t, e']`.
    fn split(&self, down: &Tensor) -> Result<(Tensor, Tensor)> {
        let Latent { kv_rank, rotated, .. } = self.widths;
        Ok((down.narrow(1, 0, kv_rank)?.contiguous()?, down.narrow(1, kv_rank, rotated)?.contiguous()?))
    }

    /// Keys and values as attention takes them, `[t, h·e]` each, from what the heads have of their own and what they
    /// share.
    fn keys_and_values(&self, up: &Tensor, shared: Tensor, context: &ForwardContext) -> Result<(Tensor, Tensor)> {
        let (Latent { unrotated, rotated, value, .. }, heads) = (self.widths, self.heads.heads);
        let t = up.dim(0)?;
        let shared = self.turn(shared, rotated, context, (None, false))?;
        let shared = shared.reshape((t, 1, rotated))?.broadcast_as((t, heads, rotated))?;
        let up = up.reshape((t, heads, unrotated + value))?;
        let keys = self.heads_of(vec![shared.contiguous()?, up.narrow(2, 0, unrotated)?])?;
        Ok((keys, self.heads_of(vec![up.narrow(2, unrotated, value)?])?))
    }

    /// The gradients of what the heads have of their own and of what they share, from those of the rows `chunk` of keys
    /// and values.
    fn keys_and_values_backward(
        &self,
        (dk, dv): (Tensor, Tensor),
        context: &ForwardContext,
        chunk: &Range<usize>,
    ) -> Result<(Tensor, Tensor)> {
        let (Latent { unrotated, rotated, value, .. }, Heads { heads, head_dim, .. }) = (self.widths, &self.heads);
        let t = dk.dim(0)?;
        let (dk, dv) = (dk.reshape((t, *heads, *head_dim))?, dv.reshape((t, *heads, *head_dim))?);
        let shared = dk.narrow(2, 0, rotated)?.contiguous()?.sum(1)?;
        let shared = self.turn(shared, rotated, context, (Some(chunk), true))?;
        let up = joined(&[dk.narrow(2, rotated, unrotated)?, dv.narrow(2, 0, value)?])?;
        Ok((up.reshape((t, heads * (unrotated + value)))?, shared))
    }

    /// What heads give without the zeros that values were filled up with, `[t, h·v]`.
    fn values_of(&self, out: &Tensor) -> Result<Tensor> {
        let (t, Heads { heads, head_dim, .. }, value) = (out.dim(0)?, &self.heads, self.widths.value);
        let out = out.reshape((t, *heads, *head_dim))?;
        Ok(out.narrow(2, 0, value)?.contiguous()?.reshape((t, heads * value))?)
    }

    /// Its gradient with zeros.
    fn values_backward(&self, dout: &Tensor) -> Result<Tensor> {
        let shape = (dout.dim(0)?, self.heads.heads, self.widths.value);
        self.heads_of(vec![dout.reshape(shape)?])
    }

    /// Whether something of the keys and values is adapted.
    fn trains_kv(&self) -> bool {
        self.kv_down.adapter.is_some() || self.kv_up.adapter.is_some()
    }

    fn trains_q(&self) -> bool {
        match &self.q {
            Queries::Stream(q) => q.adapter.is_some(),
            Queries::Latent { down, up, .. } => down.adapter.is_some() || up.adapter.is_some(),
        }
    }
}

/// Parts of the last of three dimensions, one behind the other.
fn joined(parts: &[Tensor]) -> candle_core::Result<Tensor> {
    let parts: Vec<Tensor> = parts.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
    Tensor::cat(&parts, 2)
}

impl SubLayer for LatentAttention {
    fn name(&self) -> plan::SubLayer {
        plan::SubLayer::Attention
    }

    fn linears(&self) -> Vec<(Role, &Linear)> {
        let mut linears = match &self.q {
            Queries::Stream(q) => vec![(Role::Q, q)],
            Queries::Latent { down, up, .. } => vec![(Role::QDown, down), (Role::QUp, up)],
        };
        linears.extend([(Role::KvDown, &self.kv_down), (Role::KvUp, &self.kv_up), (Role::O, &self.o)]);
        linears
    }

    fn norms(&self) -> Vec<&Norm> {
        match &self.q {
            Queries::Stream(_) => vec![&self.kv_norm],
            Queries::Latent { norm, .. } => vec![norm, &self.kv_norm],
        }
    }

    fn mixes_tokens(&self) -> bool {
        true
    }

    fn output(&self) -> Option<(Role, &Linear)> {
        Some((Role::O, &self.o))
    }

    fn before_output(
        &self,
        normed: &Tensor,
        context: &ForwardContext,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let q = match &self.q {
            Queries::Stream(q) => q.forward(normed)?,
            Queries::Latent { down, norm, up } => up.forward(&norm.forward(&down.forward(normed)?)?)?,
        };
        let q = self.queries(&q, context)?;
        let (latent, shared) = self.split(&self.kv_down.forward(normed)?)?;
        let up = self.kv_up.forward(&self.kv_norm.forward(&latent)?)?;
        let (k, v) = self.keys_and_values(&up, shared, context)?;
        drop(up);
        let attended = match cache {
            None => ops::attention(&q, &k, &v, &context.layout, &self.heads),
            Some(cache) => cache.attend(&q, &k, &v, &self.heads),
        };
        self.values_of(&attended.context(|| "attention")?)
    }

    fn training_pass(&self, save: bool) -> Box<dyn TrainingPass + '_> {
        Box::new(training::LatentPass::new(self, save))
    }
}

/// Widths of all heads, for each token: as attention takes them, of projections of queries, of keys and values, of
/// what heads give, and of the short vectors.
fn widths(spec: &ModelSpec) -> [u64; 5] {
    let heads = spec.heads as u64;
    spec.latent.map_or([0; 5], |latent| {
        let ranks = 2 * latent.q_rank.unwrap_or(0) + 2 * (latent.kv_rank + latent.rotated);
        let [e, key, up, value] = [latent.head_dim(), latent.key(), latent.unrotated + latent.value, latent.value];
        let of_heads = [e, key, up, value].map(|width| heads * width as u64);
        [of_heads[0], of_heads[1], of_heads[2], of_heads[3], ranks as u64]
    })
}

/// Projections, the heads that are made of them and turned, what they attend to and what becomes of that.
fn cost(spec: &ModelSpec) -> Cost {
    let [e, key, up, value, ranks] = widths(spec);
    Cost {
        pass_bytes: 4 * (6 * e + key + up + value + ranks),
        product_flops: cost::products(spec, SubLayerKind::LatentAttention),
        mixing_flops: 2 * e,
        ..Cost::default()
    }
}

fn training_cost(spec: &ModelSpec, device: &Device) -> TrainingCost {
    let (d, heads) = (spec.hidden_size as u64, spec.heads as u64);
    let [e, key, up, value, ranks] = widths(spec);
    let narrow = ops::activation_bytes(device);
    TrainingCost {
        // q, k, v and the output, and what the norms saw
        saved: 4 * heads + narrow * (4 * e + value + ranks),
        // and the output's gradient
        held: 4 * heads + narrow * (4 * e + 2 * value + ranks),
        // the projections before them, or the gradients of all
        mixing: 8 * heads + narrow * (8 * e + key + up + 2 * value + ranks),
        chunk: (12 + 4 * narrow) * d + narrow * (3 * e + 2 * key + 2 * up + value + 3 * ranks),
    }
}
