//! Causal attention over the segment tree of a pass.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout as Strides, Shape, Tensor};

use super::Layout;
use super::rows::{Rows, by_rows};
use crate::{Error, Result};

/// The heads of one attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// Query heads, `h`, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads, `k`; query head i reads KV head i / (h / k).
    pub kv_heads: usize,
    /// Numbers per head, `e`.
    pub head_dim: usize,
    /// Factor on the scores, usually 1/√e.
    pub scale: f32,
    /// A token sees the last so many tokens of its sequence, itself included; `None` sees all.
    pub window: Option<usize>,
}

/// softmax(scale · q·kᵀ)·v where each token sees itself and what comes before it in its sequence, prefixes included.
/// `q` is `[t, h·e]`, `k` and `v` are `[t, k·e]`, all f32, t the tokens of `layout`; the result is `[t, h·e]`.
/// Gradients for all three.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, layout: &Arc<Layout>, heads: &Heads) -> Result<Tensor> {
    let Heads { heads: h, kv_heads, head_dim, window, .. } = *heads;
    if kv_heads == 0 || h % kv_heads != 0 || head_dim == 0 || window == Some(0) {
        return Err(Error::work(format!("attention: impossible heads {heads:?}")));
    }
    for (name, tensor, heads) in [("q", q, h), ("k", k, kv_heads), ("v", v, kv_heads)] {
        let expected = (layout.tokens(), heads * head_dim);
        if tensor.dims2()? != expected {
            return Err(Error::work(format!("attention: {name} is {:?}, expected {expected:?}", tensor.shape())));
        }
    }
    let op = Attention { layout: Arc::clone(layout), heads: heads.clone() };
    Ok(by_rows(q)?.apply_op3(&by_rows(k)?, &by_rows(v)?, op)?)
}

struct Attention {
    layout: Arc<Layout>,
    heads: Heads,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_strides: &Strides,
        k: &CpuStorage,
        k_strides: &Strides,
        v: &CpuStorage,
        v_strides: &Strides,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let q = Rows::new(self.name(), q, q_strides)?;
        let k = Rows::new(self.name(), k, k_strides)?;
        let v = Rows::new(self.name(), v, v_strides)?;
        let Heads { heads, kv_heads, head_dim, scale, window } = self.heads;
        let mut out = vec![0f32; q.count * q.width];
        for (index, segment) in self.layout.segments().iter().enumerate() {
            let prefix: Vec<usize> = self.layout.prefix(index).into_iter().flatten().collect();
            for own in 0..segment.len {
                let keys: Vec<usize> = prefix.iter().copied().chain(segment.start..=segment.start + own).collect();
                let keys = &keys[keys.len() - window.unwrap_or(usize::MAX).min(keys.len())..];
                for head in 0..heads {
                    let own_head = head * head_dim..(head + 1) * head_dim;
                    let kv_head = head / (heads / kv_heads);
                    let kv_head = kv_head * head_dim..(kv_head + 1) * head_dim;
                    let query = &q.row(segment.start + own)[own_head.clone()];
                    let dot = |key: &usize| {
                        let key = &k.row(*key)[kv_head.clone()];
                        scale * query.iter().zip(key).map(|(a, b)| a * b).sum::<f32>()
                    };
                    let scores: Vec<f32> = keys.iter().map(dot).collect();
                    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
                    let sum: f32 = weights.iter().sum();
                    let out = &mut out[(segment.start + own) * q.width..][own_head];
                    for (weight, key) in weights.iter().zip(keys) {
                        for (out, value) in out.iter_mut().zip(&v.row(*key)[kv_head.clone()]) {
                            *out += weight / sum * value;
                        }
                    }
                }
            }
        }
        Ok((CpuStorage::F32(out), (q.count, q.width).into()))
    }
}
