//! Attention of the last tokens of a sequence over the keys and values of all of it, as decoding asks for it.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::super::cuda;
use super::super::exp::exp;
use super::super::matmul::{blocks, each, with_scratch};
use super::super::rows::{Rows, filled, with_rows};
use super::super::simd::{SQUARE, change_and_sum, max, transpose, vectorized};
use super::super::soft_cap::{capped, soft_cap};
use super::{Block, Heads, forward, sinks};
use crate::{Error, Result};

/// Queries up to which the keys are better read one after the other than in products.
const FEW: usize = 8;
/// KV heads that are tasks enough for all threads; a query head is one where there are fewer.
const ENOUGH: usize = 8;
/// Keys whose scores are computed together, and partial sums of each.
const LANES: usize = SQUARE;
/// Numbers of a value that are summed in registers.
const WIDE: usize = 64;
/// Length of the sums over keys between two visits of the total: short sums of sums round less.
const DEPTH: usize = 128;

/// softmax(scale · q·kᵀ)·v for the last t tokens of one sequence: `q` is `[t, h·e]`, `k` and `v` are `[n, k·e]`, of all
/// n tokens of the sequence, all f32; the result is `[t, h·e]`.
///
/// # Errors
/// Shapes that do not fit, or a device without this kernel.
pub(crate) fn attention_over(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads) -> Result<Tensor> {
    let Heads { heads: h, kv_heads, head_dim, .. } = *heads;
    heads.check()?;
    let ((t, width), (n, kv_width)) = (q.dims2()?, k.dims2()?);
    if width != h * head_dim || kv_width != kv_heads * head_dim || v.dims2()? != (n, kv_width) || t > n {
        return Err(Error::work(format!(
            "attention: q is {:?}, k {:?}, v {:?}, with {h} heads, {kv_heads} of keys, of {head_dim}",
            q.shape(),
            k.shape(),
            v.shape()
        )));
    }
    if q.device().is_cuda() {
        if heads.sinks.is_some() {
            return Err(Error::work("attention: no GPU kernel has sinks"));
        }
        return all_at_once(q, k, v, heads);
    }
    let (mut out, mut normalizer) = with_rows("attention", [q, k, v], |[q, k, v]| Ok(few_or_many(heads, q, k, v)))?;
    sinks::take_share(heads, &mut out, &mut normalizer);
    Ok(Tensor::from_vec(out, (t, width), q.device())?)
}

/// The same of rows, on a CPU and without sinks, and log Σ e^score of every token and head, `[t, h]`.
pub(super) fn few_or_many(heads: &Heads, q: Rows, k: Rows, v: Rows) -> (Vec<f32>, Vec<f32>) {
    if q.count <= FEW {
        return few(heads, q, k, v);
    }
    let blocks: Vec<Block> = Block::of_last(k.count, q.count, heads.window).collect();
    forward::forward(&blocks, heads, q, k, v)
}

/// The same from candle's own operations, which run on a GPU too; all scores are in memory at once.
fn all_at_once(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads) -> Result<Tensor> {
    let Heads { heads: h, kv_heads, head_dim: e, window, scale, cap, .. } = *heads;
    let wide = |x: &Tensor| if x.device().is_cuda() { cuda::in_type(x, DType::F32) } else { Ok(x.clone()) };
    let (q, k, v) = (wide(q)?, wide(k)?, wide(v)?);
    let ((t, _), (n, _), group) = (q.dims2()?, k.dims2()?, h / kv_heads);
    // query heads of one KV head stand below each other
    let q = q.reshape((t, kv_heads, group, e))?.permute((1, 2, 0, 3))?.contiguous()?;
    let q = (q.reshape((kv_heads, group * t, e))? * f64::from(scale))?;
    let side = |x: &Tensor| x.reshape((n, kv_heads, e))?.transpose(0, 1)?.contiguous();
    let (k, v) = (side(&k)?, side(&v)?);
    let mut mask = vec![0f32; group * t * n];
    for (row, mask) in mask.chunks_exact_mut(n).enumerate() {
        let position = n - t + row % t;
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        mask[..first].fill(f32::NEG_INFINITY);
        mask[position + 1..].fill(f32::NEG_INFINITY);
    }
    let mask = Tensor::from_vec(mask, (1, group * t, n), q.device())?;
    let scores = q.matmul(&k.t()?)?;
    let scores = match cap {
        Some(cap) => soft_cap(&scores, cap)?,
        None => scores,
    };
    let scores = scores.broadcast_add(&mask)?;
    let attended = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
    let attended = attended.reshape((kv_heads, group, t, e))?.permute((2, 0, 1, 3))?.contiguous()?;
    Ok(attended.reshape((t, h * e))?)
}

/// A task is one token and one query head, or all those of a KV head where there are enough of these: its keys and
/// values are then read once.
fn few(heads: &Heads, q: Rows, k: Rows, v: Rows) -> (Vec<f32>, Vec<f32>) {
    let (t, n, width) = (q.count, k.count, q.width);
    let group = heads.heads / heads.kv_heads;
    let at_once = if heads.kv_heads < ENOUGH { 1 } else { group };
    let mut normalizer = Vec::new();
    let out = filled(t, width, |out| {
        normalizer = filled(t, heads.heads, |normalizer| {
            let (whole, sums) = (&*out, &*normalizer);
            let (tokens, tasks) = (blocks(t, 1, 1), blocks(heads.heads / at_once, 1, 1));
            each(&tokens, &tasks, 2 * t * n * width, |token, task| {
                for head in task.start * at_once..(task.start + 1) * at_once {
                    let (position, columns) = (n - t + token.start, heads.columns(head));
                    let seen = heads.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1;
                    let query = &q.row(token.start)[columns.clone()];
                    let (found, sum) = one(query, seen, heads.columns(head / group), (k, v), (heads.scale, heads.cap));
                    // SAFETY: tasks have different tokens or heads
                    unsafe {
                        whole.part(token.clone(), columns).write(0, &found);
                        sums.part(token.clone(), head..head + 1).write(0, &[sum]);
                    }
                }
            });
            // SAFETY: the tasks have written all tokens, of all heads
            unsafe { normalizer.set() };
        });
        // SAFETY: as above
        unsafe { out.set() };
    });
    (out, normalizer)
}

/// What one query `[e]` gives over the keys and values of the tokens `seen`, in these columns; log Σ e^score.
fn one(
    query: &[f32],
    seen: Range<usize>,
    columns: Range<usize>,
    (k, v): (Rows, Rows),
    (scale, cap): (f32, Option<f32>),
) -> (Vec<f32>, f32) {
    let (e, n) = (query.len(), seen.len());
    let (mut total, mut normalizer) = (vec![0.0; e], 0.0);
    with_scratch(n.next_multiple_of(LANES), |scores| {
        vectorized(
            #[inline(always)]
            || {
                for (at, scores) in scores.chunks_exact_mut(LANES).enumerate() {
                    let first = seen.start + at * LANES;
                    let keys = (first..(first + LANES).min(seen.end)).map(|key| &k.row(key)[columns.clone()]);
                    scores.copy_from_slice(&dots(query, keys));
                }
                let scores = &mut scores[..n];
                scores.iter_mut().for_each(|score| *score *= scale);
                if let Some(cap) = cap {
                    scores.iter_mut().for_each(|score| *score = capped(*score, cap));
                }
                let largest = max(scores);
                let sum = change_and_sum(scores, |score| exp(score - largest));
                let factor = 1.0 / sum;
                normalizer = largest + sum.ln();
                scores.iter_mut().for_each(|score| *score *= factor);
                for start in (0..n).step_by(DEPTH) {
                    let weights = &scores[start..(start + DEPTH).min(n)];
                    let value = |at: usize| &v.row(seen.start + start + at)[columns.clone()];
                    let (whole, rest) = total.as_chunks_mut::<WIDE>();
                    let rest_from = whole.len() * WIDE;
                    for (part, total) in whole.iter_mut().enumerate() {
                        let mut sums = [0f32; WIDE];
                        for (at, weight) in weights.iter().enumerate() {
                            let value = &value(at)[part * WIDE..(part + 1) * WIDE];
                            sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                        }
                        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                    }
                    let mut sums = [0f32; WIDE];
                    for (at, weight) in weights.iter().enumerate() {
                        let value = &value(at)[rest_from..];
                        sums.iter_mut().zip(value).for_each(|(sum, value)| *sum += weight * value);
                    }
                    rest.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
                }
            },
        );
    });
    (total, normalizer)
}

/// query·key for up to [`LANES`] keys: each in as many partial sums, which are then added for all keys at once.
#[inline(always)]
fn dots<'a>(query: &[f32], keys: impl Iterator<Item = &'a [f32]>) -> [f32; LANES] {
    let (mut partial, mut turned) = ([0f32; LANES * LANES], [0f32; LANES * LANES]);
    let (query, query_rest) = query.as_chunks::<LANES>();
    for (sums, key) in partial.as_chunks_mut::<LANES>().0.iter_mut().zip(keys) {
        let (key, key_rest) = key.as_chunks::<LANES>();
        for (query, key) in query.iter().zip(key) {
            sums.iter_mut().zip(query.iter().zip(key)).for_each(|(sum, (query, key))| *sum += query * key);
        }
        let rest = query_rest.iter().zip(key_rest);
        sums.iter_mut().zip(rest).for_each(|(sum, (query, key))| *sum += query * key);
    }
    transpose(&partial, LANES, (LANES, LANES), &mut turned, LANES);
    let mut total = [0f32; LANES];
    for sums in turned.as_chunks::<LANES>().0 {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
    }
    total
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn both_ways_are_one() {
        let few = [(1, 9, None), (5, 9, None), (9, 9, Some(3)), (20, 33, Some(7)), (1, 300, None), (3, 140, Some(131))];
        let sizes =
            few.iter().flat_map(|few| [(6, 2, 4), (3, 3, 64), (18, 9, 80), (2, 1, 17)].map(|size| (*few, size)));
        for ((t, n, window), (h, kv_heads, head_dim)) in sizes {
            let heads = Heads {
                heads: h,
                kv_heads,
                head_dim,
                scale: 0.5,
                window,
                cap: (t % 2 == 1).then_some(0.3),
                sinks: None,
            };
            let random = |rows, width| Tensor::randn(0f32, 0.5, (rows, width), &Device::Cpu).unwrap();
            let (q, k, v) = (random(t, h * head_dim), random(n, kv_heads * head_dim), random(n, kv_heads * head_dim));
            let (one, other) = (attention_over(&q, &k, &v, &heads).unwrap(), all_at_once(&q, &k, &v, &heads).unwrap());
            let difference = (one - other).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 1e-6, "{t} {n} {window:?} {heads:?}");
        }
    }
}
