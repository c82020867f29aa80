//! Attention of the last tokens of a sequence over the keys and values of all of it, as decoding asks for it.

use candle_core::{DType, Tensor};

use super::super::cuda;
use super::super::exp::exp;
use super::super::matmul::{Target, blocks, each, with_scratch};
use super::super::rows::{Rows, filled, with_rows};
use super::super::simd::{change_and_sum, dot, max, vectorized};
use super::{Block, Heads, forward};
use crate::{Error, Result};

/// Queries up to which the keys are better read one after the other than in products.
const FEW: usize = 8;
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
        return all_at_once(q, k, v, heads);
    }
    let out = with_rows("attention", [q, k, v], |[q, k, v]| match t <= FEW {
        true => Ok(few(heads, q, k, v)),
        false => {
            let blocks: Vec<Block> = Block::of_last(n, t, heads.window).collect();
            Ok(forward::forward(&blocks, heads, q, k, v).0)
        }
    })?;
    Ok(Tensor::from_vec(out, (t, width), q.device())?)
}

/// The same from candle's own operations, which run on a GPU too; all scores are in memory at once.
fn all_at_once(q: &Tensor, k: &Tensor, v: &Tensor, heads: &Heads) -> Result<Tensor> {
    let Heads { heads: h, kv_heads, head_dim: e, window, scale } = *heads;
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
    let scores = q.matmul(&k.t()?)?.broadcast_add(&mask)?;
    let attended = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
    let attended = attended.reshape((kv_heads, group, t, e))?.permute((2, 0, 1, 3))?.contiguous()?;
    Ok(attended.reshape((t, h * e))?)
}

/// A task is one token and one KV head, whose keys and values it reads once.
fn few(heads: &Heads, q: Rows, k: Rows, v: Rows) -> Vec<f32> {
    let (t, n, width) = (q.count, k.count, q.width);
    filled(t, width, |out| {
        let whole = &*out;
        let (tokens, kv_heads) = (blocks(t, 1, 1), blocks(heads.kv_heads, 1, 1));
        each(&tokens, &kv_heads, 2 * t * n * width, |token, kv_head| {
            one(heads, (token.start, kv_head.start), n - t + token.start, (q, k, v), whole);
        });
        // SAFETY: the tasks have written all tokens, of all heads
        unsafe { out.set() };
    })
}

/// Writes what the query heads of KV head `kv_head` give for row `token` of q, which stands at `position`.
fn one(heads: &Heads, (token, kv_head): (usize, usize), position: usize, (q, k, v): (Rows, Rows, Rows), out: &Target) {
    let (e, columns, group) = (heads.head_dim, heads.columns(kv_head), heads.group(kv_head));
    let seen = heads.window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1;
    let (size, n) = (group.len(), seen.len());
    with_scratch(size * (n + 2 * e), |scratch| {
        let (scores, scratch) = scratch.split_at_mut(size * n);
        let (total, part) = scratch.split_at_mut(size * e);
        vectorized(
            #[inline(always)]
            || {
                let queries = &q.row(token)[heads.columns(group.start).start..];
                for (index, key) in seen.clone().enumerate() {
                    let key = &k.row(key)[columns.clone()];
                    for (head, query) in queries.chunks_exact(e).take(size).enumerate() {
                        scores[head * n + index] = dot(query, key) * heads.scale;
                    }
                }
                for scores in scores.chunks_exact_mut(n) {
                    let largest = max(scores);
                    let factor = 1.0 / change_and_sum(scores, |score| exp(score - largest));
                    scores.iter_mut().for_each(|score| *score *= factor);
                }
                total.fill(0.0);
                for start in (0..n).step_by(DEPTH) {
                    part.fill(0.0);
                    for index in start..(start + DEPTH).min(n) {
                        let value = &v.row(seen.start + index)[columns.clone()];
                        for (head, part) in part.chunks_exact_mut(e).enumerate() {
                            let weight = scores[head * n + index];
                            part.iter_mut().zip(value).for_each(|(part, value)| *part += weight * value);
                        }
                    }
                    total.iter_mut().zip(part.iter()).for_each(|(total, part)| *total += part);
                }
            },
        );
        for (head, total) in group.zip(total.chunks_exact(e)) {
            // SAFETY: tasks have different tokens or heads
            unsafe { out.part(token..token + 1, heads.columns(head)) }.write(0, total);
        }
    });
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn both_ways_are_one() {
        for (t, n, window) in [(1, 9, None), (5, 9, None), (9, 9, Some(3)), (20, 33, Some(7))] {
            let heads = Heads { heads: 6, kv_heads: 2, head_dim: 4, scale: 0.5, window };
            let random = |rows, width| Tensor::randn(0f32, 1.0, (rows, width), &Device::Cpu).unwrap();
            let (q, k, v) = (random(t, 24), random(n, 8), random(n, 8));
            let (one, other) = (attention_over(&q, &k, &v, &heads).unwrap(), all_at_once(&q, &k, &v, &heads).unwrap());
            let difference = (one - other).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 1e-6, "{t} {n} {window:?}");
        }
    }
}
