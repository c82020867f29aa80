//! Attention of sequences that begin alike: over what all begin with, whose keys and values are there once, and over
//! what is each one's own. The two are put together as one softmax is: each weighs as much as the sum of its scores.

use std::ops::Range;

use candle_core::Tensor;

use super::super::exp::exp;
use super::super::rows::with_rows;
use super::cached::few_or_many;
use super::{Block, Heads, Keys, forward, sinks};
use crate::{Error, Result};

/// softmax(scale · q·kᵀ)·v for the last tokens of several sequences, on a CPU: `q` is `[t, h·e]`, the tokens of all,
/// sequence after sequence; `begun` are keys and values `[n, k·e]` that all begin with; each of `own` has so many of
/// the tokens, and the keys and values `[m, k·e]` of all that came after the beginning. All f32, and no layer's window
/// is shorter than a sequence. The result is `[t, h·e]`.
///
/// # Errors
/// Shapes that do not fit.
pub(crate) fn attention_of_begun(
    q: &Tensor,
    begun: (&Tensor, &Tensor),
    own: &[(usize, Tensor, Tensor)],
    heads: &Heads,
) -> Result<Tensor> {
    let Heads { heads: h, kv_heads, head_dim, .. } = *heads;
    heads.check()?;
    let ((t, width), (n, kv_width)) = (q.dims2()?, begun.0.dims2()?);
    let fits = |k: &Tensor, v: &Tensor| Ok::<_, Error>(k.dims2()?.1 == kv_width && v.dims2()? == k.dims2()?);
    let tokens: usize = own.iter().map(|(count, ..)| count).sum();
    let mut are_sound = width == h * head_dim && kv_width == kv_heads * head_dim && tokens == t && n > 0;
    are_sound &= fits(begun.0, begun.1)?;
    for (count, k, v) in own {
        are_sound &= fits(k, v)? && *count <= k.dim(0)?;
    }
    if !are_sound {
        return Err(Error::work(format!(
            "attention: q is {:?}, the beginning {:?} and {:?}, for {tokens} tokens, with {h} heads, {kv_heads} of \
             keys, of {head_dim}",
            q.shape(),
            begun.0.shape(),
            begun.1.shape()
        )));
    }
    let whole = Heads { window: None, ..heads.clone() };
    let (mut out, mut weights) = with_rows("attention", [q, begun.0, begun.1], |[q, k, v]| {
        // every token comes after all of the beginning
        let keys = vec![Keys { position: 0, tokens: 0..n }];
        let blocks: Vec<Block> = Block::of_run(0..t, n, keys, None).collect();
        Ok(forward::forward(&blocks, &whole, q, k, v))
    })?;
    let mut first = 0;
    for (count, k, v) in own {
        let part = q.narrow(0, first, *count)?;
        let (found, found_weights) =
            with_rows("attention", [&part, k, v], |[q, k, v]| Ok(few_or_many(&whole, q, k, v)))?;
        let rows = first..first + count;
        put_together((&mut out, &mut weights), (&found, &found_weights), rows, (h, head_dim));
        first += count;
    }
    sinks::take_share(heads, &mut out, &mut weights);
    Ok(Tensor::from_vec(out, (t, width), q.device())?)
}

/// Adds what was found over other keys to `rows`, each head by its share of the sum of all scores' powers, whose
/// logarithms are the weights: that of all is left there.
fn put_together(
    (out, weights): (&mut [f32], &mut [f32]),
    (found, found_weights): (&[f32], &[f32]),
    rows: Range<usize>,
    (heads, head_dim): (usize, usize),
) {
    let places = rows.start * heads..rows.end * heads;
    let old = out[places.start * head_dim..places.end * head_dim].chunks_exact_mut(head_dim);
    let all = old.zip(&mut weights[places]).zip(found.chunks_exact(head_dim).zip(found_weights));
    for ((out, weight), (found, found_weight)) in all {
        let most = weight.max(*found_weight);
        let (a, b) = (exp(*weight - most), exp(*found_weight - most));
        *weight = most + (a + b).ln();
        let (a, b) = (a / (a + b), b / (a + b));
        out.iter_mut().zip(found).for_each(|(out, found)| *out = a * *out + b * found);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::attention_over;
    use super::*;

    #[test]
    fn as_over_all_keys_at_once() {
        for (h, kv_heads, head_dim, n, cap) in
            [(9, 3, 64, 130, None), (4, 4, 16, 1, Some(0.4)), (6, 2, 17, 300, None), (2, 1, 80, 17, None)]
        {
            let sinks = (h % 2 == 0).then(|| (0..h).map(|head| head as f32 - 1.0).collect());
            let heads = Heads { heads: h, kv_heads, head_dim, scale: 0.3, window: None, cap, sinks };
            let random = |rows, width| Tensor::randn(0f32, 0.7, (rows, width), &Device::Cpu).unwrap();
            let kv = |rows| (random(rows, kv_heads * head_dim), random(rows, kv_heads * head_dim));
            let begun = kv(n);
            // one token, several that are few, and many of them
            let own: Vec<(usize, Tensor, Tensor)> = [(1, 1), (1, 40), (3, 9), (30, 30)]
                .map(|(count, all)| {
                    let (k, v) = kv(all);
                    (count, k, v)
                })
                .into();
            let q = random(35, h * head_dim);
            let found = attention_of_begun(&q, (&begun.0, &begun.1), &own, &heads).unwrap();
            let mut first = 0;
            for (count, k, v) in &own {
                let (k, v) = (Tensor::cat(&[&begun.0, k], 0).unwrap(), Tensor::cat(&[&begun.1, v], 0).unwrap());
                let alone = attention_over(&q.narrow(0, first, *count).unwrap(), &k, &v, &heads).unwrap();
                let difference = (found.narrow(0, first, *count).unwrap() - alone).unwrap().abs().unwrap();
                let difference = difference.flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
                assert!(difference < 1e-6, "{count} of {n} with {heads:?}: {difference}");
                first += count;
            }
            assert!(attention_of_begun(&q, (&begun.0, &begun.1), &own[1..], &heads).is_err());
        }
    }
}
