//! Causal attention with rotary positions, norms of heads and windows where the architecture has them.

mod training;

use candle_core::{Device, Tensor};

use super::{Cost, Kind, Linear, Norm, SubLayer, TrainingCost, TrainingPass, cost};
use crate::arch::{ModelSpec, Role, SubLayerKind};
use crate::model::ForwardContext;
use crate::model::cache::LayerCache;
use crate::model::load_options::Loader;
use crate::ops::{self, Heads};
use crate::plan;
use crate::{Context, Result};

pub(super) const KIND: Kind = Kind { load, cost, training_cost };

#[derive(Debug)]
struct Attention {
    heads: Heads,
    /// Whether queries and keys are rotated.
    rope: bool,
    qkv: QkvProj,
    /// Norms of the query and key heads.
    head_norms: Option<(Norm, Norm)>,
    o: Linear,
}

/// Query, key and value projections, apart or in one tensor.
#[derive(Debug)]
enum QkvProj {
    Split { q: Linear, k: Linear, v: Linear },
    Fused(Linear),
}

fn load(loader: &Loader<'_>) -> Result<Box<dyn SubLayer>> {
    let (spec, l) = (loader.spec, loader.layer);
    let qkv = match spec.fused {
        true => QkvProj::Fused(loader.linear(Role::Qkv)?),
        false => QkvProj::Split { q: loader.linear(Role::Q)?, k: loader.linear(Role::K)?, v: loader.linear(Role::V)? },
    };
    let head_norms = match spec.qk_norm {
        true => Some((loader.norm(Role::QNorm)?, loader.norm(Role::KNorm)?)),
        false => None,
    };
    let heads = Heads {
        heads: spec.heads,
        kv_heads: spec.kv_heads,
        head_dim: spec.head_dim,
        scale: (spec.head_dim as f32).sqrt().recip(),
        window: spec.windows[l],
    };
    Ok(Box::new(Attention { heads, rope: spec.rotated[l], qkv, head_norms, o: loader.linear(Role::O)? }))
}

impl Attention {
    /// Query, key and value of a fused projection.
    fn split(&self, qkv: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let width = kv_heads * head_dim;
        let part = |start, len| qkv.narrow(1, start, len)?.contiguous();
        Ok((part(0, heads * head_dim)?, part(heads * head_dim, width)?, part(heads * head_dim + width, width)?))
    }

    /// Queries and keys as attention takes them: heads normed where the architecture does, then rotated.
    fn norm_and_rotate(&self, q: &Tensor, k: &Tensor, context: &ForwardContext) -> Result<(Tensor, Tensor)> {
        let (q, k) = match &self.head_norms {
            Some((q_norm, k_norm)) => (self.norm_heads(q, q_norm)?, self.norm_heads(k, k_norm)?),
            None => (q.clone(), k.clone()),
        };
        let rotate = |x: Tensor| match self.rope {
            true => ops::rope(&x, &context.cos, &context.sin, self.heads.head_dim),
            false => Ok(x),
        };
        Ok((rotate(q)?, rotate(k)?))
    }

    /// `[t, n·e]`, each head normalised on its own.
    fn norm_heads(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
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

    fn output(&self) -> (Role, &Linear) {
        (Role::O, &self.o)
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
            None => ops::attention(&q, &k, &v, &context.layout, &self.heads),
            Some(cache) => cache.attend(&q, &k, &v, &self.heads),
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
    let fused = if spec.fused { 2 } else { 1 };
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
    let unnormed = if spec.qk_norm { q + kv } else { 0 };
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
