//! Causal attention over the segment tree of a pass.
//!
//! Scores stand as `[keys, lanes]`: a row per key, a lane per query of a block. The running maximum and sum of the
//! softmax (arXiv 2205.14135) are then plain vector operations over lanes, and all products read q, k and v where
//! they are, head by head, in the operand orders that need no packing.

mod backward;
mod begun;
mod cached;
mod forward;
mod gpu;
mod sinks;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;

pub(crate) use begun::attention_of_begun;
pub(crate) use cached::attention_over;
pub(super) use gpu::TablesOnGpu;
pub use sinks::sinks_backward;

use super::Layout;
use super::matmul::blocks;
use super::rows::{Rows, with_rows};
use super::simd::transpose;
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
    /// c of c · tanh(score / c), which scores become before the softmax.
    pub cap: Option<f32>,
    /// A score of each query head that no key has, `[h]`.
    pub sinks: Option<Vec<f32>>,
}

impl Heads {
    /// The query heads that read KV head `kv_head`.
    fn group(&self, kv_head: usize) -> Range<usize> {
        let size = self.heads / self.kv_heads;
        kv_head * size..(kv_head + 1) * size
    }

    /// Fails for heads that cannot be.
    fn check(&self) -> Result<()> {
        let Heads { heads: h, kv_heads, head_dim, window, .. } = *self;
        let all_sink = self.sinks.as_ref().is_none_or(|sinks| sinks.len() == h);
        match !all_sink || h == 0 || kv_heads == 0 || h % kv_heads != 0 || head_dim == 0 || window == Some(0) {
            true => Err(Error::work(format!("attention: impossible heads {self:?}"))),
            false => Ok(()),
        }
    }

    /// The numbers of head `head` in a row.
    fn columns(&self, head: usize) -> Range<usize> {
        head * self.head_dim..(head + 1) * self.head_dim
    }
}

/// softmax(scale · q·kᵀ)·v where each token sees itself and what comes before it in its sequence, prefixes included.
/// `q` is `[t, h·e]`, `k` and `v` are `[t, k·e]`, all f32, t the tokens of `layout`; the result is `[t, h·e]`.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, layout: &Arc<Layout>, heads: &Heads) -> Result<Tensor> {
    Ok(attention_kept(q, k, v, layout, heads)?.out)
}

/// The result of [`attention`] with what its gradients need.
#[derive(Debug)]
pub struct Attended {
    /// `[t, h·e]`.
    pub out: Tensor,
    /// log Σ e^score of every token and head, `[t, h]`.
    normalizer: Tensor,
    layout: Arc<Layout>,
    heads: Heads,
}

/// [`attention`] with what [`attention_backward`] needs.
///
/// # Errors
/// As [`attention`].
pub fn attention_kept(q: &Tensor, k: &Tensor, v: &Tensor, layout: &Arc<Layout>, heads: &Heads) -> Result<Attended> {
    check(q, k, v, layout, heads)?;
    on_gpu(q, heads)?;
    let (out, normalizer) = if q.device().is_cuda() {
        gpu::forward([q, k, v], layout, heads)?
    } else {
        let segments = 0..layout.segments().len();
        let blocks: Vec<Block> =
            segments.flat_map(|segment| Block::of_segment(layout, segment, heads.window)).collect();
        let (mut out, mut normalizer) =
            with_rows("attention", [q, k, v], |[q, k, v]| Ok(forward::forward(&blocks, heads, q, k, v)))?;
        sinks::take_share(heads, &mut out, &mut normalizer);
        let normalizer = Tensor::from_vec(normalizer, (layout.tokens(), heads.heads), q.device())?;
        (Tensor::from_vec(out, q.shape(), q.device())?, normalizer)
    };
    Ok(Attended { out, normalizer, layout: Arc::clone(layout), heads: heads.clone() })
}

/// The gradients of [`attention`], of `q`, `k` and `v`.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub fn attention_backward(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    attended: &Attended,
    dout: &Tensor,
) -> Result<(Tensor, Tensor, Tensor)> {
    let Attended { out, normalizer, layout, heads } = attended;
    check(q, k, v, layout, heads)?;
    if dout.dims2()? != out.dims2()? {
        return Err(Error::work(format!("attention: dout is {:?}, out {:?}", dout.shape(), out.shape())));
    }
    if q.device().is_cuda() {
        return gpu::backward([q, k, v, out, dout], normalizer, layout, heads);
    }
    let tensors = [q, k, v, out, dout, normalizer];
    let (dq, dk, dv) = with_rows("attention", tensors, |[q, k, v, out, dout, normalizer]| {
        Ok(backward::backward(layout, heads, &backward::Inputs { q, k, v, out, dout, normalizer }))
    })?;
    Ok((
        Tensor::from_vec(dq, q.shape(), q.device())?,
        Tensor::from_vec(dk, k.shape(), k.device())?,
        Tensor::from_vec(dv, v.shape(), v.device())?,
    ))
}

/// Refuses on a GPU what its kernels do not compute.
fn on_gpu(q: &Tensor, heads: &Heads) -> Result<()> {
    match q.device().is_cuda() {
        true if heads.cap.is_some() => Err(Error::work("attention: no GPU kernel caps scores")),
        true if heads.sinks.is_some() => Err(Error::work("attention: no GPU kernel has sinks")),
        _ => Ok(()),
    }
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, layout: &Layout, heads: &Heads) -> Result<()> {
    heads.check()?;
    let Heads { heads: h, kv_heads, head_dim, .. } = *heads;
    for (name, tensor, heads) in [("q", q, h), ("k", k, kv_heads), ("v", v, kv_heads)] {
        let expected = (layout.tokens(), heads * head_dim);
        if tensor.dims2()? != expected {
            return Err(Error::work(format!("attention: {name} is {:?}, expected {expected:?}", tensor.shape())));
        }
    }
    Ok(())
}

/// Queries per block: four AVX-512 registers of lanes, the width of a tile.
const QUERIES: usize = 64;
/// Lanes come in steps of a register.
const STEP: usize = 16;
/// Keys whose scores exist at one time, per block of queries: 32 KiB, the first cache.
const KEYS: usize = 126;

/// Consecutive queries of one segment.
#[derive(Clone, Debug)]
struct Block {
    /// Flat indices of its tokens.
    tokens: Range<usize>,
    /// Position of the first token in its sequence.
    position: usize,
    /// Keys that at least one of them sees, in pieces of `KEYS` at most, the oldest first.
    keys: Vec<Keys>,
}

/// Consecutive keys.
#[derive(Clone, Debug)]
struct Keys {
    /// Flat indices of their tokens.
    tokens: Range<usize>,
    /// Position of the first of them in the sequence.
    position: usize,
}

impl Block {
    /// The blocks of segment `index`.
    fn of_segment(layout: &Layout, index: usize, window: Option<usize>) -> impl Iterator<Item = Self> {
        let segment = layout.segments()[index];
        let mut position = 0;
        let mut runs = layout.prefix(index);
        runs.push(segment.start..segment.start + segment.len);
        let runs: Vec<Keys> = runs
            .into_iter()
            .map(|tokens| {
                let run = Keys { position, tokens };
                position += run.tokens.len();
                run
            })
            .collect();
        Self::of_run(segment.start..segment.start + segment.len, segment.position, runs, window)
    }

    /// The blocks of the last `t` tokens of a sequence of `n`, whose queries alone are there.
    fn of_last(n: usize, t: usize, window: Option<usize>) -> impl Iterator<Item = Self> {
        Self::of_run(0..t, n - t, vec![Keys { position: 0, tokens: 0..n }], window)
    }

    /// The blocks of consecutive queries, the first of which stands at `position` of its sequence; `runs` are the keys
    /// of the sequence.
    fn of_run(
        queries: Range<usize>,
        position: usize,
        runs: Vec<Keys>,
        window: Option<usize>,
    ) -> impl Iterator<Item = Self> {
        blocks(queries.len(), QUERIES, STEP).into_iter().map(move |part| {
            let position = position + part.start;
            let visible = window.map_or(0, |window| (position + 1).saturating_sub(window))..position + part.len();
            let keys = runs.iter().flat_map(|run| run.pieces(&visible)).collect();
            Self { tokens: queries.start + part.start..queries.start + part.end, position, keys }
        })
    }

    /// Lanes that a score block of these queries has.
    fn lanes(&self) -> usize {
        self.tokens.len().next_multiple_of(STEP)
    }

    /// The lanes that see the key at `position`.
    #[inline(always)]
    fn seeing(&self, position: usize, window: Option<usize>) -> Range<usize> {
        let first = position.saturating_sub(self.position);
        let end = window.map_or(usize::MAX, |window| (position + window).saturating_sub(self.position));
        first..end
    }

    /// The keys of `keys` in runs, by their offsets, each with the first lane of a register that sees one of them:
    /// products leave out the lanes before it.
    fn runs_of_keys(&self, keys: &Keys) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (n, beyond) = (keys.tokens.len(), keys.position.saturating_sub(self.position));
        let all = self.position.saturating_sub(keys.position) + STEP - beyond % STEP;
        std::iter::once(0).chain((all..n).step_by(STEP)).map(move |start| {
            let end = if start == 0 { all } else { start + STEP };
            let lane = (keys.position + start).saturating_sub(self.position);
            (start..end.min(n), lane / STEP * STEP)
        })
    }

    /// The lanes 0..`lanes` in runs, each with the number of keys, counted from the first, that one of them sees:
    /// products leave out the keys after it.
    fn runs_of_lanes(&self, keys: &Keys, lanes: usize) -> Vec<(Range<usize>, usize)> {
        let mut runs: Vec<(Range<usize>, usize)> = Vec::new();
        for start in (0..lanes).step_by(STEP) {
            let end = (start + STEP).min(lanes);
            let seen = (self.position + end).saturating_sub(keys.position).min(keys.tokens.len());
            match runs.last_mut() {
                Some((run, last)) if *last == seen => run.end = end,
                _ => runs.push((start..end, seen)),
            }
        }
        runs
    }

    /// Whether every query sees every key of `keys`.
    fn sees_all(&self, keys: &Keys, window: Option<usize>) -> bool {
        keys.position + keys.tokens.len() <= self.position + 1
            && self.seeing(keys.position, window).end >= self.tokens.len()
    }
}

impl Keys {
    /// The part whose positions are in `visible`, in pieces.
    fn pieces(&self, visible: &Range<usize>) -> Vec<Keys> {
        let start = visible.start.clamp(self.position, self.position + self.tokens.len());
        let end = visible.end.clamp(start, self.position + self.tokens.len());
        let piece = |piece: Range<usize>| Keys {
            position: start + piece.start,
            tokens: self.tokens.start + start + piece.start - self.position
                ..self.tokens.start + start + piece.end - self.position,
        };
        blocks(end - start, KEYS, 6).into_iter().map(piece).collect()
    }
}

/// Writes the head `columns` of the block's rows of `x`, times `scale`, as `[e, lanes]`; lanes beyond the block are 0.
#[inline(always)]
fn by_lanes(x: Rows, block: &Block, columns: Range<usize>, scale: f32, lanes: usize, out: &mut [f32]) {
    let (rows, width) = (block.tokens.len(), columns.len());
    if rows < lanes {
        out.fill(0.0);
    }
    let (data, stride) = x.matrix().part(block.tokens.clone(), columns).row_data();
    transpose(data, stride, (rows, width), out, lanes);
    out.iter_mut().for_each(|out| *out *= scale);
}
