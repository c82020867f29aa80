//! One decoder block of any architecture of the table.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::cache::Past;
use super::{Batch, Fittings, Linear, tokens_at_once};
use crate::arch::{ModelSpec, Role};
use crate::checkpoint::Checkpoint;
use crate::ops::{self, Heads, Layout};
use crate::{Context, Result};

/// What a pass needs at every layer: who sees whom, and the rotations of its positions.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The segment tree.
    pub layout: Arc<Layout>,
    /// Cosines, `[t, rotary_dim / 2]`.
    pub cos: Tensor,
    /// Sines, `[t, rotary_dim / 2]`.
    pub sin: Tensor,
}

impl Pass {
    /// Prepares `batch` for every layer of the model.
    ///
    /// # Errors
    /// The device's.
    pub fn new(spec: &ModelSpec, batch: &Batch, device: &Device) -> Result<Self> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        // A stretch for long contexts looks at the length of the sequence, never at its neighbours in the pass.
        for (segment, longest) in batch.layout.segments().iter().zip(batch.layout.longest_of_each()) {
            let positions: Vec<u32> = (segment.position..segment.position + segment.len).map(|p| p as u32).collect();
            let (segment_cos, segment_sin) = spec.rope.tables(&positions, longest);
            cos.extend(segment_cos);
            sin.extend(segment_sin);
        }
        let shape = (batch.tokens(), spec.rope.rotary_dim / 2);
        Ok(Self {
            layout: batch.layout.clone(),
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }

    /// Prepares `len` tokens from `position` on of a sequence that has `longest` tokens with them; what comes before
    /// them is in a cache.
    pub(super) fn after(
        spec: &ModelSpec,
        position: usize,
        len: usize,
        longest: usize,
        device: &Device,
    ) -> Result<Self> {
        let positions: Vec<u32> = (position..position + len).map(|position| position as u32).collect();
        let (cos, sin) = spec.rope.tables(&positions, longest);
        let shape = (len, spec.rope.rotary_dim / 2);
        Ok(Self {
            layout: Arc::new(Layout::sequences([len])?),
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }
}

/// Query, key and value projections, apart or in one tensor.
#[derive(Debug)]
pub(super) enum Attend {
    Split { q: Linear, k: Linear, v: Linear },
    Fused(Linear),
}

/// Gate and up projections, apart or in one tensor.
#[derive(Debug)]
pub(super) enum Expand {
    Split { gate: Linear, up: Linear },
    Fused(Linear),
}

/// One decoder block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug)]
pub struct Block {
    /// Whether all of it is trained.
    pub(super) whole: bool,
    pub(super) eps: f64,
    pub(super) heads: Heads,
    pub(super) mlp_size: usize,
    /// Whether queries and keys are rotated.
    pub(super) rotated: bool,
    pub(super) input_norm: Tensor,
    pub(super) attend: Attend,
    /// Norms of the query and key heads.
    pub(super) head_norms: Option<(Tensor, Tensor)>,
    pub(super) o: Linear,
    pub(super) post_norm: Tensor,
    pub(super) expand: Expand,
    pub(super) down: Linear,
}

impl Block {
    /// Reads layer `l` for the place `place` of the stack. Matrices keep their type on disk unless `fittings` says
    /// otherwise, norms and biases are widened to f32.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read.
    pub fn load(
        checkpoint: &Checkpoint,
        spec: &ModelSpec,
        (l, place): (usize, usize),
        fittings: &Fittings,
        device: &Device,
    ) -> Result<Self> {
        let vector = |role| {
            let tensor = spec.layer_tensor(l, role);
            checkpoint.load_f32(&tensor.name, &tensor.shape, device)
        };
        let linear = |role| fittings.linear(checkpoint, spec, (l, place), role, device);
        let (attend, expand) = if spec.fused {
            (Attend::Fused(linear(Role::Qkv)?), Expand::Fused(linear(Role::GateUp)?))
        } else {
            (
                Attend::Split { q: linear(Role::Q)?, k: linear(Role::K)?, v: linear(Role::V)? },
                Expand::Split { gate: linear(Role::Gate)?, up: linear(Role::Up)? },
            )
        };
        Ok(Self {
            whole: fittings.is_whole(place),
            eps: spec.norm_eps,
            heads: Heads {
                heads: spec.heads,
                kv_heads: spec.kv_heads,
                head_dim: spec.head_dim,
                scale: (spec.head_dim as f32).sqrt().recip(),
                window: spec.windows[l],
            },
            mlp_size: spec.mlp_size,
            rotated: spec.rotated[l],
            input_norm: vector(Role::InputNorm)?,
            attend,
            head_norms: spec
                .qk_norm
                .then(|| Ok::<_, crate::Error>((vector(Role::QNorm)?, vector(Role::KNorm)?)))
                .transpose()?,
            o: linear(Role::O)?,
            post_norm: vector(Role::PostNorm)?,
            expand,
            down: linear(Role::Down)?,
        })
    }

    /// The residual stream `[t, d]` that leaves the block, from the one that enters it.
    ///
    /// # Errors
    /// The device's.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.through(x, pass, |q, k, v| ops::attention(q, k, v, &pass.layout, &self.heads))
    }

    /// The same for tokens that follow those in `past`, whose keys and values join it.
    pub(super) fn extend(&self, x: &Tensor, pass: &Pass, past: &mut Past) -> Result<Tensor> {
        self.through(x, pass, |q, k, v| past.attend(q, k, v, &self.heads))
    }

    fn through(
        &self,
        x: &Tensor,
        pass: &Pass,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let x = ops::add(x, &self.attention(&ops::rms_norm(x, &self.input_norm, self.eps)?, pass, attend)?)?;
        let mlp = |x: &Tensor| ops::add(x, &self.mlp(&ops::rms_norm(x, &self.post_norm, self.eps)?)?);
        let (t, most) = (x.dim(0)?, tokens_at_once(x.device()));
        if t <= most {
            return mlp(&x);
        }
        // the MLP is the widest part and looks at each token alone
        let starts = (0..t).step_by(most);
        let parts: Vec<Tensor> =
            starts.map(|start| mlp(&x.narrow(0, start, most.min(t - start))?)).collect::<Result<_>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn attention(
        &self,
        x: &Tensor,
        pass: &Pass,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (q, k, v) = match &self.attend {
            Attend::Split { q, k, v } => (q.forward(x)?, k.forward(x)?, v.forward(x)?),
            Attend::Fused(qkv) => self.split_heads(&qkv.forward(x)?)?,
        };
        let (q, k) = self.turn(&q, &k, pass)?;
        self.o.forward(&attend(&q, &k, &v).context(|| "attention")?)
    }

    /// Query, key and value of a fused projection.
    pub(super) fn split_heads(&self, qkv: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let width = kv_heads * head_dim;
        let part = |start, len| qkv.narrow(1, start, len)?.contiguous();
        Ok((part(0, heads * head_dim)?, part(heads * head_dim, width)?, part(heads * head_dim + width, width)?))
    }

    /// Gate and up of a fused projection.
    pub(super) fn split_mlp(&self, both: &Tensor) -> Result<(Tensor, Tensor)> {
        let part = |start| both.narrow(1, start, self.mlp_size)?.contiguous();
        Ok((part(0)?, part(self.mlp_size)?))
    }

    /// Queries and keys as attention takes them: heads normed where the architecture does, then rotated.
    pub(super) fn turn(&self, q: &Tensor, k: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let (q, k) = match &self.head_norms {
            Some((q_norm, k_norm)) => (self.norm_heads(q, q_norm)?, self.norm_heads(k, k_norm)?),
            None => (q.clone(), k.clone()),
        };
        let rotate = |x: Tensor| match self.rotated {
            true => ops::rope(&x, &pass.cos, &pass.sin, self.heads.head_dim),
            false => Ok(x),
        };
        Ok((rotate(q)?, rotate(k)?))
    }

    /// `[t, n·e]`, each head normalised on its own.
    pub(super) fn norm_heads(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let (t, width) = x.dims2()?;
        let heads = x.reshape((t * width / self.heads.head_dim, self.heads.head_dim))?;
        Ok(ops::rms_norm(&heads, weight, self.eps)?.reshape((t, width))?)
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = match &self.expand {
            Expand::Split { gate, up } => (gate.forward(x)?, up.forward(x)?),
            Expand::Fused(gate_up) => self.split_mlp(&gate_up.forward(x)?)?,
        };
        self.down.forward(&ops::swiglu(&gate, &up)?)
    }
}
