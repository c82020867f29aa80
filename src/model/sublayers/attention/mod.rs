//! Causal attention with rotary positions, norms of heads and windows where the architecture has them.

mod training;

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{Device, Tensor};

use super::{Cost, Kind, Linear, Norm, SubLayer, TrainingCost, TrainingPass, cost};
use crate::arch::{ModelSpec, QkNorm, Role, SubLayerKind};
use crate::model::ForwardContext;
use crate::model::cache::LayerCache;
use crate::model::chunks;
use crate::model::load_options::{Loader, Part};
use crate::ops::{self, Heads};
use crate::plan;
use crate::{Context, Error, Result};

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
struct Attention {
    heads: Heads,
    /// How queries and keys are rotated, if they are.
    rotation: Option<Rotation>,
    qkv: QkvProj,
    /// Whether a fused projection gives query, key and value of one head after another.
    qkv_by_head: bool,
    /// Norms of queries and keys.
    qk_norm: QkNorm,
    /// Those there are.
    head_norms: Option<(Norm, Norm)>,
    /// A score of each query head that no key has, `[h]` f32.
    sinks: Option<Tensor>,
    o: Linear,
}

/// How numbers of a head are turned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    /// Whether by the angles of layers with a sliding window.
    pub(super) sliding: bool,
    pub(super) interleaved: bool,
    pub(super) head_dim: usize,
}

impl Rotation {
    /// Turns the heads of the rows `rows` of a pass, or all; `back` undoes it.
    pub(super) fn turn(
        &self,
        x: &Tensor,
        context: &ForwardContext,
        rows: Option<&Range<usize>>,
        back: bool,
    ) -> Result<Tensor> {
        let (cos, sin) = context.rotations(self.sliding);
        let (cos, sin) = match rows {
            None => (cos.clone(), sin.clone()),
            Some(rows) => (chunks::rows(cos, rows)?, chunks::rows(sin, rows)?),
        };
        let turn = match (self.interleaved, back) {
            (false, false) => ops::rope,
            (false, true) => ops::rope_backward,
            (true, false) => ops::rope_interleaved,
            (true, true) => ops::rope_interleaved_backward,
        };
        turn(x, &cos, &sin, self.head_dim)
    }
}

/// Query, key and value projections, apart or in one tensor.
#[derive(Debug)]
enum QkvProj {
    Split { q: Linear, k: Linear, v: Linear },
    Fused(Linear),
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let (spec, l) = (loader.spec, loader.layer);
    let qkv = match spec.fused_qkv {
        true => QkvProj::Fused(loader.linear(Role::Qkv)?),
        false => QkvProj::Split { q: loader.linear(Role::Q)?, k: loader.linear(Role::K)?, v: loader.linear(Role::V)? },
    };
    let head_norms = match spec.qk_norm {
        QkNorm::None => None,
        _ => Some((loader.norm(Role::QNorm)?, loader.norm(Role::KNorm)?)),
    };
    let rotation = spec.rotated[l].then(|| Rotation {
        sliding: spec.sliding_rope.is_some() && spec.windows[l].is_some(),
        interleaved: spec.rope.interleaved,
        head_dim: spec.head_dim,
    });
    let heads = Heads {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        scale: spec.multipliers.scores as f32,
        window: spec.windows[l],
        cap: spec.multipliers.score_cap.map(|cap| cap as f32),
        sinks: None,
    };
    let sinks = spec.sinks.then(|| loader.vector(Role::Sinks)).transpose()?;
    let (qk_norm, o) = (spec.qk_norm, loader.linear(Role::O)?);
    let qkv_by_head = spec.qkv_by_head;
    Ok(Box::new(Attention { heads, rotation, qkv, qkv_by_head, qk_norm, head_norms, sinks, o }))
}

impl Attention {
    /// The heads with their sinks as they are now.
    fn heads(&self) -> Result<Cow<'_, Heads>> {
        let Some(sinks) = &self.sinks else { return Ok(Cow::Borrowed(&self.heads)) };
        Ok(Cow::Owned(Heads { sinks: Some(sinks.to_vec1()?), ..self.heads.clone() }))
    }

    /// Query, key and value of a fused projection.
    fn split(&self, qkv: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        if self.qkv_by_head {
            let (t, width) = (qkv.dim(0)?, heads * head_dim);
            let all = qkv.reshape((t, heads, 3, head_dim))?;
            let part = |which| Ok::<_, Error>(all.narrow(2, which, 1)?.contiguous()?.reshape((t, width))?);
            return Ok((part(0)?, part(1)?, part(2)?));
        }
        let width = kv_heads * head_dim;
        let part = |start, len| qkv.narrow(1, start, len)?.contiguous();
        Ok((part(0, heads * head_dim)?, part(heads * head_dim, width)?, part(heads * head_dim + width, width)?))
    }

    /// The same back: what [`Attention::split`] took apart, as one.
    fn join(&self, q: Tensor, k: Tensor, v: Tensor) -> Result<Tensor> {
        if !self.qkv_by_head {
            return Ok(Tensor::cat(&[q, k, v], 1)?);
        }
        let Heads { heads, head_dim, .. } = self.heads;
        let t = q.dim(0)?;
        let parts = [q, k, v].map(|part| part.reshape((t, heads, 1, head_dim)));
        let [q, k, v] = parts;
        Ok(Tensor::cat(&[q?, k?, v?], 2)?.reshape((t, 3 * heads * head_dim))?)
    }

    /// Queries and keys as attention takes them: normed where the architecture does, and rotated.
    fn norm_and_rotate(&self, q: &Tensor, k: &Tensor, context: &ForwardContext) -> Result<(Tensor, Tensor)> {
        let of = |x: &Tensor, norm: Option<&Norm>| {
            let rotate = |x: &Tensor| match &self.rotation {
                Some(rotation) => rotation.turn(x, context, None, false),
                None => Ok(x.clone()),
            };
            match norm {
                None => rotate(x),
                Some(norm) if self.qk_norm == QkNorm::RotatedHeads => self.norm_heads(&rotate(x)?, norm),
                Some(norm) => rotate(&self.norm_heads(x, norm)?),
            }
        };
        let norms = self.head_norms.as_ref();
        Ok((of(q, norms.map(|(q, _)| q))?, of(k, norms.map(|(_, k)| k))?))
    }

    /// `[t, n·e]`, each head normalised on its own, or all of a token together.
    fn norm_heads(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        if self.qk_norm == QkNorm::Together {
            return norm.forward(x);
        }
        let (t, width) = x.dims2()?;
        let heads = x.reshape((t * width / self.heads.head_dim, self.heads.head_dim))?;
        Ok(norm.forward(&heads)?.reshape((t, width))?)
    }

    fn trains_qkv(&self) -> bool {
        let adapted = |linear: &Linear| linear.adapter.is_some();
        match &self.qkv {
            QkvProj::Split { q, k, v } => [q, k, v].into_iter().any(adapted),
            QkvProj::Fused(qkv) => adapted(qkv),
        }
    }
}

impl SubLayer for Attention {
    fn name(&self) -> plan::SubLayer {
        plan::SubLayer::Attention
    }

    fn linears(&self) -> Vec<(Role, &Linear)> {
        let qkv = match &self.qkv {
            QkvProj::Split { q, k, v } => vec![(Role::Q, q), (Role::K, k), (Role::V, v)],
            QkvProj::Fused(qkv) => vec![(Role::Qkv, qkv)],
        };
        [qkv, vec![(Role::O, &self.o)]].concat()
    }

    fn norms(&self) -> Vec<&Norm> {
        self.head_norms.iter().flat_map(|(q, k)| [q, k]).collect()
    }

    fn mixes_tokens(&self) -> bool {
        true
    }

    fn others(&self) -> Vec<(Role, Part, &Tensor)> {
        self.sinks.iter().map(|sinks| (Role::Sinks, Part::Weight, sinks)).collect()
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
        let (q, k, v) = match &self.qkv {
            QkvProj::Split { q, k, v } => (q.forward(normed)?, k.forward(normed)?, v.forward(normed)?),
            QkvProj::Fused(qkv) => self.split(&qkv.forward(normed)?)?,
        };
        let (q, k) = self.norm_and_rotate(&q, &k, context)?;
        let attended = match cache {
            None => ops::attention(&q, &k, &v, &context.layout, &*self.heads()?),
            Some(cache) => cache.attend(&q, &k, &v, &*self.heads()?),
        };
        attended.context(|| "attention")
    }

    fn training_pass(&self, save: bool) -> Box<dyn TrainingPass + '_> {
        Box::new(training::AttentionPass::new(self, save))
    }
}

/// Projections, rotated ones, what they attend to and what becomes of that; scores and sums of values over half of the
/// square.
fn cost(spec: &ModelSpec) -> Cost {
    let fused = if spec.fused_qkv { 2 } else { 1 };
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    Cost {
        pass_bytes: 4 * (fused * (3 * q + 4 * kv)) as u64,
        product_flops: cost::products(spec, SubLayerKind::Attention),
        mixing_flops: 2 * q as u64,
        ..Cost::default()
    }
}

/// Numbers of heads are f32, and there are one or two for each.
fn training_cost(spec: &ModelSpec, device: &Device) -> TrainingCost {
    let (d, heads) = (spec.hidden_size as u64, spec.heads as u64);
    let (q, kv) = (heads * spec.head_dim as u64, (spec.kv_heads * spec.head_dim) as u64);
    let narrow = ops::activation_bytes(device);
    // norms of heads are undone with what was there before them
    let unnormed = if spec.qk_norm == QkNorm::None { 0 } else { q + kv };
    TrainingCost {
        // q, k, v and the output
        saved: 4 * heads + narrow * 2 * (q + kv),
        // and the output's gradient
        held: 4 * heads + narrow * (3 * q + 2 * kv),
        // q, k, v and the output, and their gradients
        mixing: 8 * heads + narrow * (4 * (q + kv) + unnormed),
        chunk: (12 + 4 * narrow) * d + narrow * (q + 2 * kv),
    }
}
